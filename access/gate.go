package access

// Gate judges where a caller comes from, before it judges who it is. remote is the peer's address as a socket names
// it, host:port. rule is what admitted the caller, or empty. The error is fault.Unauthorized and says nothing about rules.
type Gate func(remote string) (rule string, err error)

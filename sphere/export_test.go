package sphere

import "context"

// CheckToken reads a continuation token.
func CheckToken(token string) error {
	_, _, err := Page{Token: token}.place()
	return err
}

// RotateAll looks after all CAs once.
func RotateAll(ctx context.Context, s *Service) error { return s.rotateAll(ctx) }

// Package service holds the small services of a simulated network, without sockets: what is
// answered to a datagram, and nothing else. Package gateway puts them on a virtual switch; package facade takes
// their Answer methods as they are.
package service

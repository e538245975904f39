package signin_test

import (
	"testing"

	"github.com/vauban-iot/vauban/access/signin"
	"github.com/vauban-iot/vauban/access/signin/signintest"
	"github.com/vauban-iot/vauban/storage/storagetest"
)

// The store in memory keeps the contract, so what is tested on it holds on the others.
func TestStore(t *testing.T) {
	t.Parallel()
	storagetest.SignInStore(t, func(testing.TB) signin.Store { return signintest.NewStore() })
}

package node

import (
	"context"
	"net"
	"strconv"

	headblob "github.com/vauban-iot/vauban/head/blob"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/hub/upload"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/storage/blob"
)

// files is what lets devices store files; nil when there is no folder for them.
type files struct {
	store   *blob.Store
	uploads *upload.Service
	head    *headblob.Head
}

// keySize is that of the key that signs the tokens of uploads.
const keySize = 32

func (n *Node) openFiles(ctx context.Context, guard *access.Guard) (*files, error) {
	if n.cfg.Blobs == "" {
		return nil, nil
	}
	material, err := n.State.InitSetting(ctx, "hub/blob-key", secret.Random(keySize).Reveal())
	if err != nil {
		return nil, err
	}
	key := secret.New(material)
	f := &files{}
	if f.store, err = blob.Open(blob.Config{Dir: n.cfg.Blobs, Logger: n.log}); err != nil {
		return nil, err
	}
	// Files come to where the hub is: one name and one certificate for both.
	host := n.cfg.Hostname
	if n.cfg.HTTPSPort != 443 {
		host = net.JoinHostPort(host, strconv.Itoa(n.cfg.HTTPSPort))
	}
	f.uploads, err = upload.New(upload.Config{Host: host, Key: key, Store: n.State, Blobs: f.store})
	if err != nil {
		return nil, err
	}
	f.head, err = headblob.New(headblob.Config{Container: upload.Container, Key: key, Store: f.store, Guard: guard, Logger: n.log})
	return f, err
}

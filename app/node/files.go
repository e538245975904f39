package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"strconv"
	"time"

	headblob "github.com/vauban-iot/vauban/head/blob"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/access/ipfilter"
	"github.com/vauban-iot/vauban/hub/upload"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/storage/azblob"
	"github.com/vauban-iot/vauban/storage/blob"
	"github.com/vauban-iot/vauban/wire/blobsas"
)

// files is what lets devices store files; nil when there is no folder for them.
type files struct {
	store   *blob.Store
	uploads *upload.Service
	head    *headblob.Head
	host    string // host[:port] of the endpoint
	key     secret.Secret
}

// transfers is the container of files that carry identities in and out (hub-service §2.7).
const transfers = "vauban-transfers"

// ownLife of the token that a job with the hub's own right gets.
const ownLife = 12 * time.Hour

// openContainers makes what reaches containers of blobs: this server's own, and others'.
func (n *Node) openContainers() (*azblob.Client, error) {
	cfg := azblob.Config{Hosts: n.cfg.BlobHosts}
	if n.files != nil {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(n.PKI.RootPEM())
		cfg.Own = &azblob.Own{
			Host: n.files.host, Address: net.JoinHostPort(local(n.cfg.Listen), strconv.Itoa(n.cfg.HTTPSPort)),
			TLS: &tls.Config{RootCAs: roots, ServerName: n.cfg.Hostname, MinVersion: tls.VersionTLS12},
			Grant: func(container string) (string, bool) {
				g := blobsas.Grant{Container: container, Permissions: "rcwdl", Expiry: time.Now().Add(ownLife)}
				return g.Sign(n.files.key.Reveal()), container == transfers
			},
		}
	}
	return azblob.New(cfg)
}

// keySize is that of keys that sign tokens.
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
	f := &files{key: key}
	if f.store, err = blob.Open(blob.Config{Dir: n.cfg.Blobs, Logger: n.log}); err != nil {
		return nil, err
	}
	// Files come to where the hub is: one name and one certificate for both.
	host := n.cfg.Hostname
	if n.cfg.HTTPSPort != 443 {
		host = net.JoinHostPort(host, strconv.Itoa(n.cfg.HTTPSPort))
	}
	f.host = host
	f.uploads, err = upload.New(upload.Config{Host: host, Key: key, Store: n.State, Blobs: f.store})
	if err != nil {
		return nil, err
	}
	f.head, err = headblob.New(headblob.Config{Container: upload.Container, Whole: []string{transfers}, Key: key, Store: f.store, Guard: guard, Admit: n.network.besides(local(n.cfg.Listen), ipfilter.Targets...), Logger: n.log})
	return f, err
}

package benchd

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
)

const databaseFile = "postgres" // holds the address of the run's database

// postgresDatabase makes a database on the server at address, keeps where it is in dir, and returns what removes it.
func postgresDatabase(ctx context.Context, address, dir string) (drop func(), err error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("the address of PostgreSQL is no URL: %w", err)
	}
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL cannot be reached: %w", err)
	}
	name := strings.ReplaceAll(filepath.Base(dir), "-", "_")
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		conn.Close(ctx)
		return nil, fmt.Errorf("a database for the run cannot be made: %w", err)
	}
	drop = func() {
		ctx := context.WithoutCancel(ctx)
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
			fmt.Fprintf(os.Stderr, "bench: the database %s is left: %v\n", name, err)
		}
	}
	u.Path = "/" + name
	if err := os.WriteFile(filepath.Join(dir, databaseFile), []byte(u.String()), 0o600); err != nil {
		drop()
		return nil, err
	}
	return drop, nil
}

// serveArgs writes the configuration of a server whose state is in that database and whose log is a folder.
func serveArgs(dir, data string) ([]string, error) {
	path := filepath.Join(dir, "vauban.toml")
	in := func(name string) string { return filepath.Join(data, name) }
	text := fmt.Sprintf(`hostname   = "localhost"
listen     = "127.0.0.1"
mqtt_port  = 0
https_port = 0
amqp_port  = 0
master_key = %q
pki        = %q
intel      = %q
connection = %q

[store]
kind     = "postgres"
url_file = %q

[bus]
dir = %q

[log]
level = "warn"
`, in("master.key"), in("pki"), in("intel"), in("connection.json"), filepath.Join(dir, databaseFile), in("bus"))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return []string{"serve", "--config", path, "--output", "json"}, nil
}

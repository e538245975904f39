// Command vauban is the whole platform: see `vauban --help`.
package main

import (
	"os"

	"github.com/vauban-iot/vauban/app/cli"
)

func main() { os.Exit(cli.Main()) }

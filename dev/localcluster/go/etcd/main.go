// The etcd server: Debian's 3.4 lacks RequestWatchProgress, without which streaming watch lists are refused.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }

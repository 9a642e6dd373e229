// A CoreDNS with the few plugins that a cluster needs: the full list pulls in the clients of every cloud.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

// The order is CoreDNS's own (core/dnsserver/zdirectives.go): a query passes the plugins from first to last.
func init() { dnsserver.Directives = []string{"bind", "ready", "errors", "kubernetes", "forward"} }

func main() { coremain.Run() }

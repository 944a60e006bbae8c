// The testbed's own container programs in one static binary, picked by name:
// "pause" holds a pod's namespaces, "echo-http" is the server tests talk to.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	if name == "tools" && len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch name {
	case "pause":
		pause()
	case "echo-http":
		if err := echoHTTP(args); err != nil {
			fmt.Fprintln(os.Stderr, "echo-http:", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintf(os.Stderr, "%s: start as pause or echo-http\n", name)
		os.Exit(2)
	}
}

// pause sleeps until told to stop, and reaps orphans for pods that share one
// process namespace.
func pause() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if err != nil || pid <= 0 {
				break
			}
		}
	}
}

// echoHTTP answers every request with who asked whom: the client's address
// alone on "/", and address, local address, host name and request line, one
// "key=value" per line, on any other path.
func echoHTTP(args []string) error {
	addresses := args
	if len(addresses) == 0 {
		addresses = []string{":8080"}
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			client = r.RemoteAddr
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if r.URL.Path == "/" {
			fmt.Fprintln(w, client)
			return
		}
		local := ""
		if address, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
			local = address.String()
		}
		fmt.Fprintf(w, "client=%s\nremote=%s\nlocal=%s\nhost=%s\nrequest=%s %s\n",
			client, r.RemoteAddr, local, host, r.Method, r.URL.RequestURI())
	})
	failed := make(chan error, len(addresses))
	for _, address := range addresses {
		go func() { failed <- http.ListenAndServe(address, handler) }()
	}
	fmt.Println("listening on", strings.Join(addresses, " "))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	select {
	case err := <-failed:
		return err
	case <-stop:
		return nil
	}
}

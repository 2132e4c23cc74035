// SPDX-License-Identifier: Apache-2.0

// Package snapshotsuite runs containerd's own suite for snapshotters against a
// snapshotter that is served on a Unix socket: a process of it for each test, with a
// root of its own. Built without modules, from Debian's Go packages.
//
//	SNAPSHOTTER="COMMAND %ROOT% %SOCKET%"   what to start (default: bin/fastoci-snapshotter)
//	SNAPSHOTTER=overlay                     containerd's own, in this process
package snapshotsuite

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/pkg/dialer"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/overlay"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

// The suite's tests run at the same time, each with a directory of its own.
func start(root string) (snapshots.Snapshotter, func() error, error) {
	socket := filepath.Join(root, "s.sock")
	log, err := os.Create(root + ".log")
	if err != nil {
		return nil, nil, err
	}
	command := strings.NewReplacer("%ROOT%", root, "%SOCKET%", socket).Replace(os.Getenv("SNAPSHOTTER"))
	words := strings.Fields(command)
	served := exec.Command(words[0], words[1:]...)
	served.Stdout, served.Stderr = log, log
	served.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := served.Start(); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	conn, err := grpc.DialContext(ctx, dialer.DialAddress(socket), grpc.WithInsecure(), grpc.WithBlock(),
		grpc.WithContextDialer(dialer.ContextDialer))
	if err != nil {
		said, _ := os.ReadFile(log.Name())
		return nil, nil, fmt.Errorf("%s does not serve: %w: %s", words[0], err, said)
	}
	stop := func() error {
		conn.Close()
		if err := served.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		if err := served.Wait(); err != nil {
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("it ended with %w: %s", err, said)
		}
		return nil
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "fastoci"), stop, nil
}

func TestSuite(t *testing.T) {
	testsuite.SnapshotterSuite(t, "fastoci", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		if os.Getenv("SNAPSHOTTER") == "overlay" {
			s, err := overlay.NewSnapshotter(root)
			if err != nil {
				return nil, nil, err
			}
			return s, s.Close, nil
		}
		return start(root)
	})
}

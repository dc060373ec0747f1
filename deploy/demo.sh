#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Show what otel-qemu does, on this machine: install what is missing, bring up a one-node Ceph and a libvirt guest whose
# rbd disk is throttled, trace it, and print where its requests' time went.  Everything but Jaeger is taken down again.
#
#   sudo deploy/demo.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/prepare.sh

[ "$(id -u)" = 0 ] || fail "the demo installs packages, attaches uprobes and starts a guest: run it with sudo"
need_packages deploy/packages.txt tests/lab/packages.txt
need_environment ''
exec .venv/bin/python -m deploy.demo

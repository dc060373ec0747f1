#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Install what is missing and run every layer of tests.  A layer that this machine can run may not be skipped.
#
#   sudo tests/run.sh              everything
#   sudo tests/run.sh tests/unit   what follows goes to pytest
#
# It may be started in the background, by nohup or from cron: it needs no terminal, no HOME and no signal, and ends by
# itself.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/prepare.sh

[ "$(id -u)" = 0 ] || fail "the tests attach uprobes and start guests: run them as root"
need_packages deploy/packages.txt tests/packages.txt tests/lab/packages.txt
need_environment '[dev]'

say "ruff"
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet . || fail "run: .venv/bin/ruff format ."
say "mypy"
.venv/bin/mypy
say "pytest"
required=unit,bpf,replay,kernel,vm,lab
cached() { compgen -G "${OTEL_QEMU_CACHE:-/var/cache/otel-qemu}/$1-*" >/dev/null; }
# Jaeger and the Collector are built with Go, which Debian 12 has only in a version too old for them.
if PATH=$PATH:/usr/local/go/bin command -v go >/dev/null || { cached jaeger-v && cached otelcol && cached compose-spec; }; then
    required+=,backends
    # Jaeger's page is fetched with cargo, which Debian 12 has only in a version too old for that.
    if .venv/bin/python -m tests.backends.ui >/dev/null; then
        required+=,browser
    else
        say "without Jaeger's page the browser layer is not run"
    fi
else
    say "no Go toolchain: the backends and browser layers are not run"
fi
exec .venv/bin/python -m pytest --require="$required" "$@"

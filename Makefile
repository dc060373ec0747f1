# SPDX-License-Identifier: Apache-2.0
# What one does daily.  `make` or `make help` lists it.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
PYTEST := .venv/bin/python -m pytest
.DEFAULT_GOAL := help
.PHONY: help environment hooks check format docs test test-unit test-bpf test-replay test-kernel test-lab test-backends \
	lab lab-down bench demo

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

environment: ## make .venv, with this checkout and all tools in it
	@bash -c '. deploy/prepare.sh; need_environment "[dev]"'

hooks: environment ## run the checks at every commit
	.venv/bin/pre-commit install

check: environment ## ruff, mypy, clang-format, shellcheck, codespell
	.venv/bin/pre-commit run --all-files

format: environment ## format the Python and the BPF program
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/clang-format -i $$(git ls-files 'otel_qemu/bpf/*.[ch]')

docs: environment ## hold the documents to the code
	$(PYTEST) -q tests/unit/repository/test_docs.py tests/unit/bench/test_scale.py tests/unit/settings/test_settings.py

test: ## every layer; installs what is missing (root)
	$(SUDO) tests/run.sh

test-unit: environment ## each stage on built batches
	$(PYTEST) tests/unit

test-bpf: environment ## the BPF program in user space (gcc)
	$(PYTEST) --require=bpf tests/bpf

test-replay: environment ## recordings against their expected trees
	$(PYTEST) --require=replay tests/replay

test-kernel: ## the probes on a fake QEMU (root)
	$(SUDO) tests/run.sh tests/kernel

test-lab: ## real Ceph, libvirt and QEMU (root)
	$(SUDO) tests/run.sh tests/lab

test-backends: ## real Jaeger, Prometheus and Collector (root, Go)
	$(SUDO) tests/run.sh tests/backends

lab: environment ## a one-node Ceph and libvirt that stay up (root)
	$(SUDO) .venv/bin/python -m tests.lab up

lab-down: environment ## take them down (root)
	$(SUDO) .venv/bin/python -m tests.lab down

bench: environment ## what it costs: ten minutes on a quiet machine (root)
	.venv/bin/python -m bench.pipeline
	.venv/bin/python -m bench.export
	$(SUDO) .venv/bin/python -m bench.probe

demo: ## a throttled guest, traced, from nothing (root)
	$(SUDO) deploy/demo.sh

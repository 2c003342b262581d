# `make demo` and `make test` install what is missing by themselves: see tools/setup.

VENV ?= .venv
PY := $(VENV)/bin/python
export VENV := $(abspath $(VENV))

# bcc's headers, where this kernel has no package of its own.
HEADERS := $(abspath .cache/headers)
ENV = $(if $(wildcard $(HEADERS)/.whole),BCC_KERNEL_SOURCE=$(HEADERS))
ROOT = $(if $(filter 0,$(shell id -u)),env,sudo env) $(ENV)

.PHONY: help demo lab test test-long lint check bpf clean setup-demo setup-test

help:
	@echo 'make demo       lbctl at work in a lab of namespaces (KEEP=1 leaves it up)'
	@echo 'make lab        such a lab, to try things in; ends by: lbctl lab down'
	@echo 'make test       all that CI runs'
	@echo 'make test-long  what takes too long for that'
	@echo 'make check      lint, types, unit tests: under a minute'
	@echo 'make bench-X    a benchmark, bench/X'
	@echo 'make bpf        compile bpf/ ahead of time, with plain clang'
	@echo 'make vagrant-up, vagrant-test, vagrant-down, box: a lab of virtual machines'
	@echo "make vm CMD='X' a command in the virtual machine that has a kernel with IPVS"

setup-demo setup-test: setup-%:
	@tools/setup $*

demo: setup-demo
	@$(ROOT) KEEP=$(KEEP) $(PY) -m lbctl.cli.main lab demo

lab: setup-demo
	@$(ROOT) $(PY) -m lbctl.cli.main lab up

# One run, so that its last line speaks for all: unit tests on every core, those that touch
# the kernel one by one (tests/conftest.py groups them).
test: setup-test lint
	$(ROOT) $(PY) -m pytest -n auto --dist loadgroup -m 'not long' $(ARGS)

test-long: setup-test
	$(ROOT) $(PY) -m pytest -m long $(ARGS)

lint: setup-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

check: setup-test lint
	$(PY) -m pytest -q -n auto -m 'not (kernel or lab or long or ipvs)' tests/unit tests/contract $(ARGS)

bench-%: setup-test
	$(ROOT) $(PY) -m bench.$* $(ARGS)

bpf: setup-test
	@mkdir -p bpf/out
	for c in bpf/*.c; do \
	    clang -O2 -g -Wall -Wextra -Wshadow -Werror -mcpu=v3 -DLB_ALL -target bpf -I/usr/include/$$(uname -m)-linux-gnu \
	        -c $$c -o bpf/out/$$(basename $$c .c).o || exit 1; \
	done

clean:
	@[ ! -e .cache/vagrant/lab.json ] || { echo 'the lab of machines is there: make vagrant-down'; exit 1; }
	rm -rf .venv .cache build dist *.egg-info bpf/out bench/out vagrant/out \
	    .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -exec rm -rf {} +

include tests/vm/vm.mk
include vagrant/vagrant.mk

# Penstock. `make run` starts the demo from a clean clone, `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV := .venv
PY := $(VENV)/bin/python

# Seconds for each fuzzer of `make fuzz`, and what `make test` and `make bench` pass on.
FUZZ_SECONDS ?= 60
TEST_ARGS ?=
BENCH_ARGS ?=

# A stamp is newer than what it was made of.
STAMP_VENV := $(VENV)/.made-with-headers
STAMP_RUN := $(VENV)/.installed-run
STAMP_DEV := $(VENV)/.installed-dev
STAMP_CORE := $(VENV)/.built-core
STAMP_PAGE := $(VENV)/.built-page
CORE_SOURCES := setup.py $(wildcard ext/*.pyx ext/*.pxd ext/*.pxi ext/*.h)

# What a package is made of.
STAMP_DEB := build/deb/.made
DEB_SOURCES := $(CORE_SOURCES) pyproject.toml MANIFEST.in README.md CHANGELOG.md $(wildcard systemd/* configs/* docs/*.md man/*) \
	$(shell find agent packages -name '*.py' -o -path 'packages/deb/*' -o -path 'agent/admin/page/*')

.PHONY: help run test bench lint fuzz build wheel deb man clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

run: $(STAMP_CORE) $(STAMP_PAGE)  ## build, and run the agent with configs/demo.toml
	@exec $(PY) -m agent run --hints -c configs/demo.toml

build: $(STAMP_CORE) $(STAMP_PAGE)  ## environment, dependencies, the compiled core and the page

test: $(STAMP_DEV) $(STAMP_CORE) $(STAMP_PAGE)  ## C tests and Python tests (TEST_ARGS="-k ring -x")
	@if [ -f tests/c/Makefile ]; then $(MAKE) --no-print-directory -j$$(nproc) -C tests/c; fi
	$(PY) -m pytest $(TEST_ARGS)

bench: $(STAMP_DEV) $(STAMP_CORE) $(STAMP_PAGE)  ## benchmarks (BENCH_ARGS=--quick)
	@$(PY) -m tests.bench $(BENCH_ARGS)

fuzz:  ## every fuzzer for FUZZ_SECONDS
	@$(MAKE) --no-print-directory -j$$(nproc) -C tests/fuzz fuzz FUZZ_SECONDS=$(FUZZ_SECONDS)

lint: $(STAMP_DEV) $(STAMP_CORE)  ## ruff, mypy, the stub against the core, cython-lint
	@$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m mypy.stubtest agent._core --concise --allowlist .ci/stubtest-allowlist.txt --ignore-unused-allowlist
	# It calls pycodestyle by its name.
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint ext

wheel: $(STAMP_DEV)  ## source distribution and wheel for this Python, in dist/
	@PENSTOCK_PAGE=required $(PY) -m build --outdir dist

deb: $(STAMP_DEB)  ## package for Debian or Ubuntu of this machine's release, in dist/

man: $(STAMP_CORE)  ## the parts of man/ that are made from the code
	@$(PY) packages/man_pages.py

clean:  ## remove what was built, the environment too
	@rm -rf build dist *.egg-info agent/_core*.so agent/admin/page/uplot.* .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks $(VENV)
	find agent tests -name __pycache__ -type d -prune -exec rm -rf {} +
	for folder in tests/c tests/fuzz tests/bench/native; do
		if [ -f $$folder/Makefile ]; then $(MAKE) --no-print-directory -C $$folder clean; fi
	done

# A Python of 3.11 or later with venv and headers, and a C compiler: found, or got from the distribution.
# PYTHON=… chooses the interpreter.
$(STAMP_VENV):
	@find_python() {
		for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do
			if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
				echo "$$python"
				return
			fi
		done
	}
	has_venv() { "$$1" -c 'import ensurepip, venv' 2>/dev/null; }
	has_headers() {
		"$$1" -c 'import os, sysconfig; open(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null
	}
	has_compiler() { echo 'int main(void) { return 0; }' | $${CC:-cc} -x c -o /dev/null - 2>/dev/null; }
	python=$$(find_python)
	missing=()
	if [ -z "$$python" ] || ! has_venv "$$python" || ! has_headers "$$python"; then
		# Where python3 is older than 3.11 the distribution may have a newer one beside it.
		name=python3
		case "$$(basename "$$python")" in python3.*) name=$$(basename "$$python") ;; esac
		if [ -z "$$python" ] && command -v python3 >/dev/null; then name=python3.11; fi
		missing+=("$$name" "$$name-venv" "$$name-dev")
	fi
	has_compiler || missing+=(gcc libc6-dev)
	if [ $${#missing[@]} -gt 0 ]; then
		sudo=
		if [ "$$(id -u)" != 0 ]; then sudo=sudo; fi
		install="apt-get install -y -qq --no-install-recommends $${missing[*]}"
		if command -v apt-get >/dev/null && { [ -z "$$sudo" ] || $$sudo -n true 2>/dev/null; }; then
			echo "Installing $${missing[*]}" >&2
			$$sudo apt-get update -qq
			$$sudo env DEBIAN_FRONTEND=noninteractive $$install >/dev/null
			python=$$(find_python)
		else
			echo "Penstock needs Python 3.11 or later with venv and headers, and a C compiler. On Debian or Ubuntu:" >&2
			echo "    sudo apt-get update && sudo $$install" >&2
			echo "Then run make again." >&2
			exit 1
		fi
	fi
	if [ -z "$$python" ]; then
		echo "No Python 3.11 or later was found; install one and run: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2
		exit 1
	fi
	if ! [ -x $(PY) ]; then "$$python" -m venv $(VENV); fi
	touch $@

# Installed as an editable package: the code runs from here, and `penstock` is in $(VENV)/bin.
$(STAMP_RUN): $(STAMP_VENV) pyproject.toml
	@echo "Installing what Penstock needs into $(VENV)" >&2
	$(PY) -m pip install -q --disable-pip-version-check 'setuptools>=77' 'cython>=3.1'
	$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation -e .
	touch $@

$(STAMP_DEV): $(STAMP_RUN)
	@echo "Installing what the tests need into $(VENV)" >&2
	$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[test,dev]'
	touch $@

$(STAMP_CORE): $(STAMP_RUN) $(CORE_SOURCES)
	@echo "Building the compiled core" >&2
	$(PY) setup.py -q build_ext --inplace
	touch $@

# The library that draws the page's plots. Without npm and network the page has none, and the next make tries again.
$(STAMP_PAGE): $(STAMP_RUN) packages/build_page.py
	@$(PY) packages/build_page.py --fetch
	if [ -f agent/admin/page/uplot.js ]; then touch $@; fi

# With the distribution's own Python, whatever the environment above was made with.
$(STAMP_DEB): $(DEB_SOURCES)
	@echo "Building the package" >&2
	/usr/bin/python3 packages/build_deb.py
	touch $@

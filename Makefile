# make setup    build everything into .venv; the programs land in .venv/bin
# make demo     two networks' worth of NATs, a service and three hosts on this machine; ARGS=--keep leaves it standing
# make check    format, lint, types and the quick unit tests: under a minute
# make test     everything: check, the slow tests and the namespace tests
# make netns    the namespace tests alone; ARGS="-k lan" picks some
# make fuzz     libFuzzer on the lane in C, a minute a harness; ARGS="--seconds N" for longer; needs clang
# make sanitize the lane in C under ASan, UBSan and TSan, for longer than make test does; ARGS="--seconds N"
# make bench    measure beside other tunnels; ARGS=--quick for a short run
# make bench-lanes   measure the lanes and their ciphers beside each other
# make install  put the programs under $(PREFIX) and the units under $(UNITS) (root)
# make install-units   the second half of it alone: links, units, users, directories
# make clean    remove what the others made

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := setup
MAKEFLAGS += --no-print-directory

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PREFIX ?= /opt/fabric
UNITS ?= /etc/systemd/system
ARGS ?=
export FABRIC_WERROR := 1

# Sessions of the suite leave their JUnit report here; .ci/run counts in it.
REPORT := build/tests.xml
PYTEST := $(BIN)/python -m pytest
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
# Namespaces are made as root, or by any user inside a user namespace of its own.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,env FABRIC_LAB_UNSHARED=1 unshare -Urnm -- sh -c 'PATH="$$PATH:/usr/sbin:/sbin"; ip link set lo up; exec "$$@"' --)

.PHONY: setup demo check test netns fuzz sanitize bench bench-lanes install install-programs install-units clean bytecode lint types unit help

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.txt requirements-dev.txt pyproject.toml setup.py $(wildcard fabric/dataplane/native/*)
	@.ci/system-packages setup
	@[ -x $(BIN)/python ] || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing what requirements-dev.txt pins"
	@$(PIP) install -r requirements-dev.txt
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@
	@echo "ready: $(BIN)/fabric $(BIN)/fabricd $(BIN)/discoveryd"

# Where Python is told to write no bytecode (PYTHONDONTWRITEBYTECODE), every start of a program would compile all of it.
bytecode: setup
	@$(BIN)/python -m compileall -q fabric discovery

demo: bytecode
	@.ci/system-packages demo
	@$(BIN)/fabric demo $(ARGS)

lint: setup
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --diff --quiet .; exit 1; }
	@$(BIN)/ruff check --quiet .

types: setup
	@$(BIN)/mypy

# A worker a processor; the tests of one file stay together, because they share what is expensive to make. Properties
# are looked for in fewer examples than by `make test` (tests/conftest.py).
unit: bytecode
	@$(PYTEST) -q -n auto --dist loadfile --hypothesis-profile=check -m "not slow and not netns" tests $(ARGS)

# The three share nothing, so they run side by side and each prints in one piece.
check: setup
	@$(MAKE) -j3 --output-sync=target lint types unit

# One run of pytest for all of it, so that its closing lines count everything; in namespaces only one test at a time
# finds the machine as quiet as it must be.
test: bytecode
	@.ci/system-packages test
	@$(MAKE) -j2 --output-sync=target lint types
	@mkdir -p build
	@$(AS_ROOT) $(PYTEST) --junit-xml=$(REPORT) tests netns-tests $(ARGS)

netns: bytecode
	@.ci/system-packages test
	@$(AS_ROOT) $(PYTEST) netns-tests $(ARGS)

fuzz: setup
	@.ci/system-packages fuzz
	@$(BIN)/python -m tests.native.harness fuzz $(ARGS)

sanitize: setup
	@.ci/system-packages setup
	@$(BIN)/python -m tests.native.harness sanitize $(ARGS)

# A tunnel that can't be installed is left out, and the run says so.
bench: bytecode
	@.ci/system-packages bench
	@.ci/system-packages tunnels || echo "measuring without those"
	@$(AS_ROOT) $(BIN)/python -m tests.bench $(ARGS)

# The build that can go without a cipher lies apart: nothing but the ladder runs it.
bench-lanes: setup
	@.ci/system-packages bench
	@FABRIC_LADDER=1 $(BIN)/python setup.py -q build --build-base build/ladder-objects --build-lib build/ladder
	@$(AS_ROOT) $(BIN)/python -m tests.bench.ladder $(ARGS)

# A virtual environment of its own, so that the tree may move or go; links where the units look; nothing is started.
install:
	@[ "$$(id -u)" -eq 0 ] || { echo "make install needs root: sudo make install" >&2; exit 1; }
	@PATH="/usr/bin:$$PATH" .ci/system-packages install
	@$(MAKE) install-programs
	@$(MAKE) install-units
	@echo "installed: fabric, fabricd and discoveryd in /usr/local/bin; units in $(UNITS); nothing is started yet"

# The units hide the homes (ProtectHome) and with them an interpreter that lies in one: the system's own comes first.
install-programs:
	@[ -x $(PREFIX)/bin/python ] || PATH="/usr/bin:$$PATH" $(PYTHON) -m venv $(PREFIX)
	@case "$$(readlink -f $(PREFIX)/bin/python)" in /root/* | /home/* | /run/user/*) \
		echo "$(PREFIX)/bin/python lies in a home, where no unit may see it: rm -r $(PREFIX)," \
			"then make install PYTHON=/usr/bin/python3.11" >&2; exit 1;; esac
	@source=$$(mktemp -d); trap 'rm -rf "$$source"' EXIT; \
		cp -R fabric discovery pyproject.toml setup.py README.md LICENSE requirements.txt requirements-dev.txt "$$source"; \
		pip="$(PREFIX)/bin/python -m pip --disable-pip-version-check --no-input -qq"; \
		$$pip install -r requirements.txt $$(grep '^setuptools==' requirements-dev.txt); \
		$$pip install --no-build-isolation --no-deps --force-reinstall "$$source"

install-units:
	@install -d /usr/local/bin $(UNITS) /etc/sysusers.d /etc/tmpfiles.d /etc/systemd/system-preset
	@for program in fabric fabricd discoveryd; do ln -sf $(PREFIX)/bin/$$program /usr/local/bin/$$program; done
	@install -m 0644 systemd/fabricd.service systemd/discoveryd.service systemd/discoveryd-relay.service $(UNITS)/
	@install -m 0644 systemd/sysusers.conf /etc/sysusers.d/fabric.conf
	@install -m 0644 systemd/tmpfiles.conf /etc/tmpfiles.d/fabric.conf
	@install -m 0644 systemd/fabric.preset /etc/systemd/system-preset/50-fabric.preset
	@systemd-sysusers /etc/sysusers.d/fabric.conf
	@systemd-tmpfiles --create /etc/tmpfiles.d/fabric.conf
	@[ ! -d /run/systemd/system ] || systemctl daemon-reload

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f fabric/dataplane/_native*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@sed -n 's/^# //p;/^SHELL/q' Makefile

# make setup    build everything into .venv; the programs land in .venv/bin
# make demo     two networks' worth of NATs, a service and three hosts on this machine; ARGS=--keep leaves it standing
# make check    format, lint, types and the quick unit tests: under a minute
# make test     everything: check, the slow tests and the namespace tests
# make netns    the namespace tests alone; ARGS="-k lan" picks some
# make fuzz     libFuzzer on the lane in C, a minute a harness; ARGS="--seconds N" for longer; needs clang
# make fuzz-python   atheris on every parser and machine, a minute each; ARGS="--seconds N --target X"
# make sanitize the lane in C under ASan, UBSan and TSan, for longer than make test does; ARGS="--seconds N"
# make bench    measure beside other tunnels; ARGS=--quick for a short run
# make bench-lanes   measure the lanes and their ciphers beside each other
# make bench-handshakes   what a handshake costs, full and by ticket
# make bench-custody   what each kind of custody costs; ARGS="--tcti device:/dev/tpmrm0" for a chip of your own
# make bench-keyd   what it costs to have the keys in a process of their own
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
REPORTS := build/unit.xml build/tests.xml
# With bytecode of the tests kept in any case: each worker would else read them and rewrite all their asserts anew.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
# In namespaces one test at a time, for only so it finds the machine as quiet as it must be; but beside them, also one at
# a time, those that mostly wait (netns-tests/conftest.py). ARGS=-n0 for all in a row.
IN_NAMESPACES := $(PYTEST) -n 2
# Namespaces are made as root, or by any user inside a user namespace of its own.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,env FABRIC_LAB_UNSHARED=1 unshare -Urnm -- sh -c 'PATH="$$PATH:/usr/sbin:/sbin"; ip link set lo up; exec "$$@"' --)

.PHONY: setup demo check test netns fuzz fuzz-python sanitize bench bench-lanes bench-handshakes bench-custody bench-keyd install install-programs install-units clean bytecode lint types unit help

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.txt requirements-dev.txt pyproject.toml setup.py $(wildcard fabric/dataplane/native/*)
	@.ci/system-packages setup
	@[ -x $(BIN)/python ] || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing what requirements-dev.txt pins"
	@$(PIP) install -r requirements-dev.txt
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@
	@echo "ready: $(BIN)/fabric $(BIN)/fabricd $(BIN)/discoveryd"

# What custody in hardware takes: the tests need it, a daemon only where its operator chose such custody.
$(VENV)/.custody: $(VENV)/.ready requirements-custody.txt
	@.ci/system-packages test
	@$(PIP) install -r requirements-custody.txt
	@touch $@

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
# are looked for in fewer examples than by `make test` (tests/conftest.py). Files lie in memory where it has room for
# them: they are made durable some thousand times, and `make test` does that on a disk.
unit: export PYTEST_DEBUG_TEMPROOT := $(shell [ -w /dev/shm ] && [ "$$(df --output=avail -k /dev/shm | tail -1)" -gt 524288 ] && echo /dev/shm)
unit: bytecode
	@$(PYTEST) -o tmp_path_retention_policy=failed -q -n auto --dist loadfile --hypothesis-profile=check -m "not slow and not netns" tests $(ARGS)

# The three share nothing, so they run side by side and each prints in one piece.
check: setup
	@$(MAKE) -j3 --output-sync=target lint types unit

# ARGS may leave one of the two without a test (exit code 5).
test: bytecode $(VENV)/.custody
	@.ci/system-packages test
	@$(MAKE) -j2 --output-sync=target lint types
	@mkdir -p build
	@$(AS_ROOT) $(PYTEST) -n auto --dist loadfile --no-loadscope-reorder --junit-xml=$(word 1,$(REPORTS)) -m "not netns" tests $(ARGS) || [ "$$?$(if $(ARGS),+)" = 5+ ]
	@$(AS_ROOT) $(IN_NAMESPACES) --junit-xml=$(word 2,$(REPORTS)) -m netns tests netns-tests $(ARGS) || [ "$$?$(if $(ARGS),+)" = 5+ ]

netns: bytecode $(VENV)/.custody
	@.ci/system-packages test
	@$(AS_ROOT) $(IN_NAMESPACES) netns-tests $(ARGS)

fuzz: setup
	@.ci/system-packages fuzz
	@$(BIN)/python -m tests.native.harness fuzz $(ARGS)

# atheris is no part of what tests need: it is fetched when it is asked for.
fuzz-python: setup
	@$(PIP) install 'atheris>=3,<4'
	@$(BIN)/python -m tests.fuzz.coverage run $(ARGS)

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

bench-handshakes: setup
	@$(BIN)/python -m tests.bench.handshakes $(ARGS)

bench-custody: bytecode $(VENV)/.custody
	@$(BIN)/python -m tests.bench.custody_providers $(ARGS)

bench-keyd: bytecode
	@$(BIN)/python -m tests.bench.custody $(ARGS)

# A virtual environment of its own, so that the tree may move or go; links where the units look; nothing is started.
install:
	@[ "$$(id -u)" -eq 0 ] || { echo "make install needs root: sudo make install" >&2; exit 1; }
	@PATH="/usr/bin:$$PATH" .ci/system-packages install
	@$(MAKE) install-programs
	@$(MAKE) install-units
	@echo "installed: fabric, fabricd, fabric-keyd and discoveryd in /usr/local/bin; units in $(UNITS); no daemon is started yet"

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
	@for program in fabric fabricd fabric-keyd discoveryd; do ln -sf $(PREFIX)/bin/$$program /usr/local/bin/$$program; done
	@install -m 0644 systemd/*.service systemd/*.socket $(UNITS)/
	@install -m 0644 systemd/sysusers.conf /etc/sysusers.d/fabric.conf
	@install -m 0644 systemd/tmpfiles.conf /etc/tmpfiles.d/fabric.conf
	@install -m 0644 systemd/fabric.preset /etc/systemd/system-preset/50-fabric.preset
	@systemd-sysusers /etc/sysusers.d/fabric.conf
	@systemd-tmpfiles --create /etc/tmpfiles.d/fabric.conf
	@[ ! -d /run/systemd/system ] || { systemctl daemon-reload; systemctl enable --quiet --now fabric-keyd.socket; }

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f fabric/dataplane/_native*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@sed -n 's/^# //p;/^SHELL/q' Makefile

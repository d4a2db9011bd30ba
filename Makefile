PYTHON ?= python3
VENV := .venv
QUIET := --quiet --disable-pip-version-check
BIN := $(VENV)/bin
DEMO_SECONDS ?=
CHAOS_SECONDS ?= 180
SUITES ?= bookworm trixie

# One stamp for each extra of pyproject.toml that .venv has.
DEMO := $(VENV)/.has-embedded
TEST := $(VENV)/.has-test
BENCH := $(VENV)/.has-bench
CHECK := $(VENV)/.has-check
DOCS := $(VENV)/.has-docs

.PHONY: install demo test soak field restarts debian-broker fleet chaos hostile bench check docs wheel packages apt-repo offline container flash fresh clean

install: $(DEMO)  ## only makes .venv, with what the demo needs

$(BIN)/python:
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Only whether it is there counts: it is a link, as old as the Python of the system.
# Every file that is installed has one of the hashes in requirements/, and none of them runs code to be built.
$(VENV)/.has-%: requirements/%.txt requirements/build.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(QUIET) --require-hashes --only-binary :all: -r requirements/build.txt -r requirements/$*.txt
	$(BIN)/python -m pip install $(QUIET) --no-deps --no-build-isolation -e .
	@touch $@

demo: $(DEMO)  ## the service on its own servers, with ten simulated devices
	@$(BIN)/iot-bridge demo $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS))

test: $(TEST)  ## everything, on real servers
	@scripts/servers
	$(BIN)/python -m pytest -q -m "not soak" -n 4 --dist worksteal

soak: $(TEST)  ## the long faults at full size: ten kills, two weeks offline, ...; about 45 minutes, prints figures
	@scripts/servers
	$(BIN)/python -m pytest -q -s -m soak tests/acceptance

field: $(TEST)  ## the package in a Debian 12 and 13 that boot: docs/gateway.md as written, 100 plugs pulled, updates; as root, 30 minutes
	@scripts/servers
	$(BIN)/python -m pytest -q -s tests/field

restarts: $(TEST)  ## Mosquitto killed and restarted ten times under load, plain and shared; MOSQUITTO=... names another; 4 minutes
	@scripts/servers
	$(BIN)/python -m pytest -q -s -m soak tests/acceptance/test_broker_restarts.py

debian-broker: $(TEST)  ## our files and processes on Debian's Mosquitto; MOSQUITTO=... names another, or the folder of another Debian
	@scripts/servers
	$(BIN)/python -m pytest -q tests/acceptance/test_debian_broker.py tests/acceptance/test_gateway_device_keys.py \
		tests/integration/test_broker_conflicts.py tests/integration/test_mqtt_refused_publications.py

fleet: $(TEST)  ## 1,000 simulated devices for 5 minutes on Mosquitto: balanced books, flat memory
	@scripts/servers
	$(BIN)/python -m pytest -q -m soak tests/fleet

chaos: $(TEST)  ## CHAOS_SECONDS of a bad link between gateway and service, and a plug pulled 100 times
	@scripts/servers
	CHAOS_SECONDS=$(CHAOS_SECONDS) $(BIN)/python -m pytest -q -m soak tests/acceptance/test_gateway_chaos.py tests/acceptance/test_gateway.py

hostile: $(TEST)  ## every hostile input beside 99 good devices, whose p99 is held to 3 times that without; prints figures
	@scripts/servers
	$(BIN)/python -m pytest -q -s -m soak tests/hostile

bench: $(TEST) $(BENCH)  ## readings per second, as ratios to ceilings of the same run
	@scripts/servers
	$(BIN)/python -m bench
	$(BIN)/python -m bench.converters
	$(BIN)/python -m bench.spool

check: $(CHECK)  ## ruff, mypy, import-linter, the pins
	scripts/check

docs: $(DOCS)  ## the documentation site, in site/
	$(BIN)/mkdocs build --strict
	scripts/offline-site site

wheel: $(TEST)  ## in dist/: the wheel of what is committed, and what service and gateway bring along (CycloneDX)
	scripts/release

packages: $(TEST)  ## in dist/: Debian packages of what is committed, for Debian 12 and 13, amd64 and arm64
	$(BIN)/python -m packages debs

apt-repo: packages  ## in dist/apt: the packages as a folder for any web server; KEY=... names gpg's key, URL=... where it is served
	$(BIN)/python -m packages apt-repo $(if $(KEY),--key '$(KEY)') $(if $(URL),--url '$(URL)')

offline: packages  ## in dist/: iot-edge-offline-arm64.tar and -amd64, to carry to a site without a network; MIRROR=... is Debian's
	$(BIN)/python -m packages offline $(if $(MIRROR),--mirror '$(MIRROR)')

container: wheel  ## the steps of the Containerfile in a Debian root, and its entry point; needs root and debootstrap; minutes
	$(BIN)/python -m pytest -q -s -m soak tests/acceptance/test_container.py

flash: $(TEST)  ## what a gateway writes to its SD card, at 1 and 50 readings/s; needs root, for loop mounts; ten minutes
	$(BIN)/python -m bench.flash

fresh:  ## `make demo` and `make test` on stock Debian 12 and 13, by an ordinary user; needs root and debootstrap
	scripts/fresh $(SUITES)

clean:
	rm -rf $(VENV) site build dist *.egg-info

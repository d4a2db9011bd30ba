PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_SECONDS ?=
CHAOS_SECONDS ?= 180

.PHONY: install demo test soak fleet chaos bench check docs clean

install: $(VENV)/.installed  ## only makes .venv

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install  ## the service on its own servers, with ten simulated devices
	@$(BIN)/iot-bridge demo $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS))

test: install  ## everything, on real servers
	@scripts/servers
	$(BIN)/python -m pytest -q -m "not soak" -n 4 --dist worksteal

soak: install  ## the long faults at full size: ten kills, two weeks offline, ...; about 45 minutes, prints figures
	@scripts/servers
	$(BIN)/python -m pytest -q -s -m soak tests/acceptance

fleet: install  ## 1,000 simulated devices for 5 minutes on Mosquitto: balanced books, flat memory
	@scripts/servers
	$(BIN)/python -m pytest -q -m soak tests/fleet

chaos: install  ## CHAOS_SECONDS of a bad link between gateway and service, and a plug pulled 100 times
	@scripts/servers
	CHAOS_SECONDS=$(CHAOS_SECONDS) $(BIN)/python -m pytest -q -m soak tests/acceptance/test_gateway_chaos.py tests/acceptance/test_gateway.py

bench: install  ## readings per second, as ratios to ceilings of the same run
	@scripts/servers
	$(BIN)/python -m bench
	$(BIN)/python -m bench.converters
	$(BIN)/python -m bench.spool

check: install  ## ruff, mypy, import-linter
	scripts/check

docs: install  ## the documentation site, in site/
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site build *.egg-info

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test soak bench docs check clean

install: $(VENV)/.installed  ## make .venv with everything in it

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

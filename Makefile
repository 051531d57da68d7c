# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
ifeq ($(OS),Windows_NT)
  BIN := .venv/Scripts
else
  BIN := .venv/bin
endif
export NO_ALBUMENTATIONS_UPDATE = 1
export GRADIO_ANALYTICS_ENABLED = False

.PHONY: run test test-fast lint types walls unit bench screenshots docs clean

run: .venv/run.stamp
	$(BIN)/python app.py

test: lint types walls unit

# in two minutes, while writing: no training and no browser
test-fast: .venv/dev.stamp
	$(BIN)/python -m pytest -m "not browser and not slow" -n 2

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/biome check --error-on-warnings

types: .venv/dev.stamp
	$(BIN)/mypy

walls: .venv/dev.stamp
	$(BIN)/lint-imports

# in the order of the files: by the number of tests, those of few slow ones would come last, on one core;
# three browser tests at once, since they also wait
unit: .venv/dev.stamp
	$(BIN)/python -m pytest -m "not browser" -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m browser -n 3 --dist loadfile

bench: .venv/run.stamp
	$(BIN)/python bench/models.py

screenshots: .venv/dev.stamp
	$(BIN)/python bench/screenshots.py docs

docs: .venv/dev.stamp
	$(BIN)/python docs/reference.py
	$(BIN)/python -m sphinx -b html -n -W -q -c docs . build/docs

.venv/run.stamp: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/dev.stamp: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch .venv/run.stamp $@

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis

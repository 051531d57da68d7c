# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
ifeq ($(OS),Windows_NT)
  BIN := .venv/Scripts
else
  BIN := .venv/bin
endif
export NO_ALBUMENTATIONS_UPDATE = 1
export GRADIO_ANALYTICS_ENABLED = False
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --only-binary :all: \
  --no-annotate --custom-compile-command 'make lock'

.PHONY: run test test-fast lint types walls unit bench screenshots docs environment dev-environment lock clean

run:
	$(PYTHON) start.py

test: lint types walls unit

# in two minutes, while writing: no training and no browser
test-fast: dev-environment
	$(BIN)/python -m pytest -m "not browser and not slow" -n 2

lint: dev-environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/biome check --error-on-warnings

types: dev-environment
	$(BIN)/mypy

walls: dev-environment
	$(BIN)/lint-imports

# in the order of the files: by the number of tests, those of few slow ones would come last, on one core;
# three browser tests at once, since they also wait
unit: dev-environment
	$(BIN)/python -m pytest -m "not browser" -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest tests/browser -n 3 --dist loadgroup

bench: environment
	$(BIN)/python bench/models.py

screenshots: dev-environment
	$(BIN)/python bench/screenshots.py docs

docs: dev-environment
	$(BIN)/python docs/reference.py
	$(BIN)/python -m sphinx -b html -n -W -q -c docs . build/docs

# the one way to install: within a tenth of a second where everything is there
environment:
	@$(PYTHON) start.py --install_only

dev-environment:
	@$(PYTHON) start.py --install_only --dev

# the locks from the pins, for every system; torch and what it alone needs come from PyTorch's own index
lock: dev-environment
	grep -v '^torch==' requirements.txt | $(LOCK) --output-file requirements.lock -
	grep -v '^-r ' requirements-dev.txt | $(LOCK) --constraint requirements.lock --output-file requirements-dev.lock requirements.lock -

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis

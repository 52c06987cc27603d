# Each target makes its own environment on a machine that has only Python with pip, and make.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
WORKERS ?= 2
BIN = $(VENV)/bin
PYTEST = $(BIN)/python -m pytest

.PHONY: install demo demo-smoke test test-marked test-all lint constraints clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt -e ".[test]"
	$(BIN)/python -m compileall -q pathologies models orchestrator
	touch $@

demo: install
	$(BIN)/hilum demo --out $(DEMO)

demo-smoke: install
	$(BIN)/hilum demo --smoke --out $(DEMO)

test: install lint
	$(PYTEST) -n $(WORKERS) --dist worksteal -m "not ray and not browser and not slow"

test-marked: install
	$(PYTEST) -n $(WORKERS) --dist loadfile -m "ray or browser or slow"

test-all: test test-marked

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Newest versions that fit together; names no index.
constraints: install
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --extra test --no-emit-index-url --no-annotate --no-header \
		-o constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info

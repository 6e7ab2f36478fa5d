# Two commands on a fresh machine: `make demo` runs the whole pipeline, `make test` passes all tests.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: install demo test gpu-test check stack clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'LightGen needs Python 3.11 or newer; set PYTHON=/path/to/python')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@

demo: $(READY)
	$(BIN)/lightgen run demo

test: $(READY) check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

gpu-test: $(READY)
	LIGHTGEN_REQUIRE_GPU=1 $(BIN)/python -m pytest -m cuda

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

stack: $(READY)
	$(BIN)/python -m tests.programs.stack

clean:
	rm -rf .venv

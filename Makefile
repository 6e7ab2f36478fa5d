# Two commands on a fresh machine: `make demo` runs the whole pipeline, `make test` passes all tests.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
UV := $(shell command -v uv 2> /dev/null)

# `make install TORCH=cpu`: PyTorch without CUDA, for machines without a GPU. TORCH_INDEX names a mirror of that index.
TORCH ?=
TORCH_INDEX ?= $(if $(filter cpu,$(TORCH)),https://download.pytorch.org/whl/cpu)
ifneq ($(filter-out cpu,$(TORCH)),)
$(error TORCH=$(TORCH): give cpu, or leave it out for the build of the package registry, which serves CPUs and CUDA)
endif

# One lock for both: constraints.txt. A build such as 2.11.0+cpu satisfies the pin 2.11.0 and is preferred to it.
ifneq ($(UV),)
PIP_INSTALL := $(UV) pip install --quiet --python $(BIN)/python $(if $(TORCH_INDEX),--index $(TORCH_INDEX) --index-strategy unsafe-best-match)
else
PIP_INSTALL := $(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
endif

.PHONY: install demo test gpu-test check stack clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'LightGen needs Python 3.11 or newer; set PYTHON=/path/to/python')"
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) --editable '.[dev]' --constraint constraints.txt
	touch $@

demo: $(READY)
	$(BIN)/lightgen run demo

test: $(READY) check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 40 --durations-min 10

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

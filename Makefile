# Everything a newcomer needs: `make demo`, `make test`. Both set up .venv by themselves.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := sdk engines export training cli tests benchmarks

.PHONY: demo test test-slow lint format link wheel capi-wheel clean

demo: link
	$(BIN)/pathgene-rt demo --out demo-out

test: link
	$(BIN)/python -m pytest -m "not slow"

test-slow: link
	$(BIN)/python -m pytest

lint: link
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p pathgene_rt
	$(BIN)/lint-imports

format: link
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Strict editable mode keeps a tree of links, which mypy and import-linter can follow; it must be
# renewed when files come or go, so every target renews it (seconds, no network).
link: $(STAMP)
	@$(BIN)/pip install -q --no-deps --no-build-isolation --config-settings editable_mode=strict -e .

$(STAMP): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt setuptools wheel
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation \
	  --config-settings editable_mode=strict -e ".[cpu,export,train,capi,int8,dev]"
	touch $@

wheel: link
	$(BIN)/python -m build --wheel --no-isolation

# For machines without a C compiler (docs/c-api.md).
capi-wheel: link
	$(BIN)/pathgene-rt capi wheel --out dist

clean:
	rm -rf $(VENV) build dist demo-out *.egg-info

# Everything a newcomer needs: `make demo`, `make test`. Both set up .venv by themselves.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TYPINGS := typings
LOWEST := $(addprefix tests/,bundle/test_bundle.py bundle/test_onnx_guard.py features/test_features.py \
  features/test_safe_hdf5.py report/test_page.py report/test_report.py slides/test_pyramid.py \
  slides/test_slides.py slides/test_tiff_reader.py streaming tiles test_predictor.py)
TENSORRTS := tensorrt10_3 tensorrt10 tensorrt11 tensorrt_rtx

# Three processes for two cores: tests wait, for a browser, a server, a timeout.
WORKERS := $(shell echo $$(( ($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2 )))

# Where it is set, each process of a test would compile all its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-world test-lowest test-slow lint lint-gpu native-calls format link wheel capi-wheel clean

demo: link
	$(BIN)/pathgene-rt demo --out demo-out

# A file's tests stay in one process, which its fixtures are made for, with one thread each. In the
# order of names: those with fewest tests, which xdist would leave for the end, take longest.
test: link
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	  -m "not slow and not world"

# What meets the originals' outputs, signals that each head is to learn, the whole CTransPath, each
# head's graph in every engine, hosts in C, NVIDIA's compiler, a browser, an archive, a tracer of
# system calls, and fuzzed input.
test-world: link
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	  -m "world and not slow"

# The runtime, installed from its wheel with the lowest versions that pyproject.toml allows: one file
# or more of each room, without torch.
test-lowest: wheel
	test -d .venv-lowest || $(PYTHON) -m venv .venv-lowest || python3 -m venv .venv-lowest
	$(BIN)/python -m tests.support.lowest_versions cpu jpeg2000 > .venv-lowest/lowest.txt
	.venv-lowest/bin/pip install -q -c .venv-lowest/lowest.txt "$$(ls -t dist/*.whl | head -1)[cpu,jpeg2000]" \
	  hypothesis onnx psutil pytest pytest-timeout pytest-xdist
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n auto --dist loadfile \
	  -m "not slow and not world" $(LOWEST)

test-slow: link
	$(BIN)/python -m pytest

lint: link
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p pathgene_rt
	@$(MAKE) --no-print-directory lint-gpu
	$(BIN)/lint-imports

# GPU code is the same for all versions of TensorRT that it runs on, so it must fit each one's types.
# Without a stub mypy would take a library's every call for right.
lint-gpu: link
	@for stub in $(TENSORRTS:%=%/tensorrt/__init__.pyi) cuda_core/cuda/core/__init__.pyi \
	  pycuda/pycuda/driver.pyi; do \
	  test -f $(TYPINGS)/$$stub || { echo "GPU code is not checked: no $(TYPINGS)/$$stub"; exit 1; }; \
	done
	@for version in $(TENSORRTS); do \
	  echo "mypy with the types of $$version"; \
	  MYPYPATH=$(TYPINGS)/$$version:$(TYPINGS)/pycuda:$(TYPINGS)/cuda_core \
	    $(BIN)/mypy --cache-dir .mypy_cache/$$version -p pathgene_rt.engines || exit 1; \
	done

# The lists in docs/gpu.md of native functions that our source calls, and of those that a build
# without a card executes.
native-calls: link
	$(BIN)/python -m tests.support.native_calls
	$(BIN)/python -m tests.support.executed_calls

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
	$(BIN)/pip install -q -c constraints.txt --no-compile --no-build-isolation \
	  --config-settings editable_mode=strict -e ".[cpu,export,train,capi,int8,tensorrt-rtx,view,pdf,dicom,dicomweb,jpeg2000,czi,tmap,isyntax,ray,s3,sign,pkcs11,sbom,dev]"
	# pip would compile on one core. What no Python can compile is a package's own affair.
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	touch $@

wheel: link
	$(BIN)/python -m build --wheel --no-isolation

# For machines without a C compiler (docs/c-api.md).
capi-wheel: link
	$(BIN)/pathgene-rt capi wheel --out dist

clean:
	rm -rf $(VENV) .venv-lowest .pytest_cache build dist demo-out *.egg-info

# One command each on a fresh machine: python3.11 with venv and pip (uv is used when present).
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := build/demo
# Tests compile alike in many processes: once is enough. Two of them run, on a core each (NPROC; BLAS would
# otherwise start a thread per core in both, which slows small matrices several times).
# Without fusion emitters XLA compiles in two thirds of the time; training then takes a third longer. With few passes
# of LLVM it compiles in two thirds of that.
COMPILED := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 XLA_FLAGS="--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=1" JAX_COMPILATION_CACHE_DIR=$(CURDIR)/build/compiled \
    JAX_COMPILATION_CACHE_MAX_SIZE=2000000000 \
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.3

.PHONY: demo test lint bench validate gpu-check clean

$(READY): setup.cfg pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
	    uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
	    uv pip install --quiet --python $(BIN)/python -e '.[test]'; \
	else \
	    $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet -e '.[test]'; \
	fi
	@touch $@

demo: $(READY)
	@rm -rf $(DEMO)
	$(BIN)/cestprep-tools demo $(DEMO)/bids --size tiny
	$(BIN)/cestprep $(DEMO)/bids $(DEMO)/out participant --recipe brain-3t --method voxelwise --sloppy -w $(DEMO)/work
	@echo "Report: $$(ls $(CURDIR)/$(DEMO)/out/*.html)"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	@mkdir -p build
	$(COMPILED) NPROC=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=40 --junitxml=build/junit.xml

bench: $(READY)
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/whole_brain.py

validate: $(READY)
	$(COMPILED) NPROC=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow
	$(BIN)/python benchmarks/validate.py

gpu-check: $(READY)
	$(BIN)/python -m pytest -m gpu

clean:
	rm -rf build $(VENV)

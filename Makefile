# make demo   the main job at full size (planned, no weights needed), then a small network checked and its memory measured
# make test   style, types and tests
# Both need Python 3.11 or later and nothing else; packages go into $(VENV).

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
# Linux without a GPU: TORCH_INDEX=https://download.pytorch.org/whl/cpu saves 2 GB of download.
TORCH_INDEX ?=
JOBS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.vgcomp-installed
SOURCES := vgcomp passes cost_models targets models

.PHONY: demo test lint typecheck unit install clean

demo: $(STAMP)
	$(BIN)/vgcomp optimize svd-vae-decoder --set frames=14 --set height=576 --set width=1024 \
		--target a100 --mem 5GB --dry-run
	$(BIN)/vgcomp optimize svd-vae-decoder-small --target cpu --mem 7MB --check -o out/demo
	$(BIN)/python -m tests.benchmarks.measured_peak svd-vae-decoder-small out/demo/optimized

test: lint typecheck unit

lint: $(STAMP)
	$(BIN)/ruff check $(SOURCES) tests
	$(BIN)/ruff format --check $(SOURCES) tests

# mypy sees the folders as they install, vgcomp.passes and so on, through a tree of links.
typecheck: $(STAMP)
	@rm -rf build/typed && mkdir -p build/typed/vgcomp
	@for entry in vgcomp/*; do ln -s "../../../$$entry" build/typed/vgcomp/; done
	@for folder in $(filter-out vgcomp,$(SOURCES)); do ln -s "../../../$$folder" build/typed/vgcomp/; done
	MYPYPATH=build/typed $(BIN)/mypy -p vgcomp

# One thread a process: the two workers of the tests are the parallelism. Few tests take most of the time: stolen, not dealt.
unit: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "vgcomp needs Python 3.11 or later: none found on PATH, set PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet -c constraints.txt --index-url $(TORCH_INDEX) torch)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,tvm,coreml,search,ray]'
	@touch $@

clean:
	rm -rf build dist out .mypy_cache .pytest_cache .ruff_cache .hypothesis

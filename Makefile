# Every way to work on this project, a target each; `make` alone lists them.
#
# Options of the pipeline are given as variables, each passed on only where it is set:
#     make train MODEL=alexnet EPOCHS=1 LR=5e-4 BATCH=64 DEVICE=cpu SEED=0
#     make train RECIPE=fast SEED=1                                 a file of recipes/, and what differs from it
#     make dataset SET="plan.seed=7 plan.samples_per_class=100"     any other key of pipeline.yaml, without spaces in it
#     make dataset ARGS="--force --threads 2"                       any other flag of the program
# The builds are cargo's own to keep fresh, the stages' outputs the program's: nothing here is a file target.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build build-cuda cuda-toolkit raw plan dataset augment train evaluate report demo quickstart table1 publish test check faults torture bench bench-peers clean
# The order of a recipe's prerequisites is the order of the work, and two runs on one artifacts folder would collide.
.NOTPARALLEL:

CARGO ?= cargo
PYTHON ?= python3

# The program and its crate of networks; the fuzz targets are built by scripts/fuzz.sh.
PACKAGES = --package multidigit --package multidigit-nn

# One word of the shell, whatever is in it.
quoted = '$(subst ','\'',$(1))'
set_key = $(if $(strip $(2)),--set $(call quoted,$(1)=$(strip $(2))))

RUN_FLAG = $(if $(strip $(RUN)),--run $(call quoted,$(strip $(RUN))))
RECIPE_FLAG = $(if $(strip $(RECIPE)),--recipe $(call quoted,$(strip $(RECIPE))))
TRAIN_SETS = $(RECIPE_FLAG) $(call set_key,train.model,$(MODEL)) $(call set_key,train.epochs,$(EPOCHS)) \
	$(call set_key,train.learning_rate,$(LR)) $(call set_key,train.batch_size,$(BATCH)) \
	$(call set_key,train.device,$(DEVICE)) $(call set_key,train.seed,$(SEED)) $(call set_key,evaluate.device,$(DEVICE))
SETS = $(foreach pair,$(SET),--set $(call quoted,$(pair)))
# A GPU takes the program that was built for it.
BUILD = $(if $(filter cuda,$(DEVICE)),build-cuda,build)
MULTIDIGIT = $(if $(filter cuda,$(DEVICE)),scripts/cuda_env.sh $(CARGO) run --release --locked --quiet --features cuda --,$(CARGO) run --release --locked --quiet --)

help: ## list these targets
	@echo 'multidigit: make TARGET [RECIPE=.. MODEL=.. EPOCHS=.. LR=.. BATCH=.. DEVICE=.. SEED=..] [SET="key=value ..."] [ARGS="--flag .."]'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## build the program (release)
	$(CARGO) build --release --locked

cuda-toolkit: ## put a CUDA compiler and its libraries, from pip, into target/cuda-toolkit
	PYTHON=$(call quoted,$(PYTHON)) scripts/cuda_toolkit.sh

build-cuda: ## build the program for NVIDIA GPUs: target/cuda/release/multidigit; CUDA_COMPUTE_CAP=90 for a GPU of another machine
	PYTHON=$(call quoted,$(PYTHON)) scripts/cuda_env.sh $(CARGO) build --release --locked --features cuda
	strip $${CARGO_TARGET_DIR:-target}/cuda/release/multidigit

raw: $(BUILD) ## fetch the MNIST files that are missing, and verify all: raw/
	$(MULTIDIGIT) run raw $(SETS) $(ARGS)

plan: $(BUILD) ## draw the table of all images: artifacts/plan
	$(MULTIDIGIT) run plan $(SETS) $(ARGS)

dataset: $(BUILD) ## write the Parquet shards and their card: artifacts/dataset
	$(MULTIDIGIT) run dataset $(SETS) $(ARGS)

augment: $(BUILD) ## write augmented epochs of the training images: artifacts/augment
	$(MULTIDIGIT) run augment $(SETS) $(ARGS)

train: $(BUILD) ## train one network: artifacts/train/RUN; RUN=NAME continues an existing run
	$(MULTIDIGIT) run train $(RUN_FLAG) $(TRAIN_SETS) $(SETS) $(ARGS)

evaluate: $(BUILD) ## measure a trained network, RUN=NAME or the one that these variables name: artifacts/evaluate/RUN
	$(MULTIDIGIT) run evaluate $(if $(RUN),$(RUN_FLAG) $(call set_key,evaluate.device,$(DEVICE)),$(TRAIN_SETS)) $(SETS) $(ARGS)

report: $(BUILD) ## write the page with curves and numbers of all existing runs: artifacts/report
	$(MULTIDIGIT) report $(SETS) $(ARGS)

demo: $(BUILD) ## write a page on which a network reads drawn digits, RUN=NAME or the one that these variables name: artifacts/export
	$(MULTIDIGIT) export demo $(if $(RUN),$(RUN_FLAG),$(TRAIN_SETS)) $(SETS) $(ARGS)

quickstart: $(BUILD) ## everything at full data size with the recipe fast, ending in the report
	$(MULTIDIGIT) run dataset $(SETS) $(ARGS)
	$(MULTIDIGIT) run train evaluate report $(if $(strip $(RECIPE)),,--recipe fast) $(TRAIN_SETS) $(SETS) $(ARGS)
	@pages="$$(find artifacts/report/ -type f -name '*.html' 2>/dev/null | sort)"; \
	if [ -z "$$pages" ]; then echo 'quickstart: artifacts/report holds no page' >&2; exit 1; fi; \
	printf 'quickstart: done. Open %s\n' "$$pages"

table1: $(BUILD) ## the paper's six runs with three seeds each, one after another, and the report; ARGS=--dry-run tells the time
	$(MULTIDIGIT) sweep sweeps/table1.yaml $(call set_key,train.device,$(DEVICE)) $(call set_key,evaluate.device,$(DEVICE)) $(SETS) $(ARGS)
	$(if $(findstring --dry-run,$(ARGS)),,$(MULTIDIGIT) report $(SETS))

publish: build ## push the data set to Hugging Face: REPO=owner/name; ARGS=--dry-run shows the files and the command
	@$(PYTHON) scripts/publish.py $(call quoted,$(REPO)) --program "$${CARGO_TARGET_DIR:-target}/release/multidigit" $(SETS) $(ARGS)

test: ## run the tests of both packages; those on the official MNIST files need MULTIDIGIT_TEST_MNIST=FOLDER
	$(CARGO) test --release --locked $(PACKAGES)
	@if [ -n "$${MULTIDIGIT_TEST_MNIST:-}" ]; then \
		printf 'make test: all passed, with the MNIST files in %s\n' "$$MULTIDIGIT_TEST_MNIST"; \
	else \
		echo 'make test: all passed; the tests on the official MNIST files were skipped, as MULTIDIGIT_TEST_MNIST names no folder'; \
	fi

check: ## what must hold before a commit: format, lints, documentation, tests
	$(CARGO) fmt --check
	$(CARGO) clippy --release --all-targets --locked $(PACKAGES) -- -D warnings
	$(CARGO) clippy --release --test faults --locked -- -D warnings
	$(CARGO) clippy --release --package multidigit-fuzz --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --no-deps --locked $(PACKAGES)
	@$(MAKE) --no-print-directory test

faults: ## kills, failing calls, power cuts, damaged and hostile files: a sample of the cases, some minutes
	$(CARGO) test --release --locked --test faults -- --nocapture

torture: ## the same with every case, and each fuzz target for ten minutes: many hours
	MULTIDIGIT_TORTURE=1 $(CARGO) test --release --locked --test faults -- --nocapture
	scripts/fuzz.sh 600

bench: ## measure, and write the figures to artifacts/bench.json
	began="$$(date +%s)" && \
	$(CARGO) bench --locked $(PACKAGES) && \
	$(PYTHON) scripts/bench_json.py --since "$$began" --out artifacts/bench.json

bench-peers: $(BUILD) ## torchvision and PyTorch beside ours, or one: WHAT=augment, WHAT=train, or DEVICE=cuda; PYTHON=VENV/bin/python
	@$(PYTHON) -c 'import numpy, PIL, pyarrow, torch, torchvision' || { \
		echo 'bench-peers: needs a Python with torchvision and the other readers, such as:' >&2; \
		echo '  python3 -m venv .venv && .venv/bin/pip install -r tests/readers/requirements.txt' >&2; \
		echo '  make bench-peers PYTHON=.venv/bin/python' >&2; exit 1; }
	@if [ $(call quoted,$(DEVICE)) = cuda ]; then \
		PYTHON=$(call quoted,$(PYTHON)) scripts/cuda_env.sh $(PYTHON) scripts/bench_peers_cuda.py \
			--program target/cuda/release/multidigit --work . $(ARGS); \
		exit; \
	fi; \
	for what in $(or $(WHAT),augment train); do \
		case "$$what" in augment|train) ;; *) echo "bench-peers: WHAT=$$what: expected augment or train" >&2; exit 1;; esac; \
		CARGO=$(call quoted,$(CARGO)) $(PYTHON) scripts/bench_$${what}_peers.py $(ARGS); \
	done

clean: $(BUILD) ## remove the files that stages made; runs and their evaluations stay, but for ARGS=--force
	$(MULTIDIGIT) clean $(SETS) $(ARGS)

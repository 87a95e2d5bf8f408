# `make demo` and `make test` do their own set-up on a bare machine: a .venv with pinned installs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export TOKENIZERS_PARALLELISM := false
# what `make report` reports on
DIR ?= outputs/demo
# the question that `make demo` asks, and what it changes of it; .ci/run passes a smaller model
DEMO ?= demo
WITH ?=

.PHONY: help setup demo test fuzz check faults agents parity bench report pictures

help:
	@echo "make demo    what does beta do? a small model, two betas, three seeds, a report (minutes, no network, no account)"
	@echo "make test    the whole test suite, slow end-to-end tests included"
	@echo "make check   linter and type checker"
	@echo "make fuzz    10,000 damaged rows of every data set's form, 3,000 random settings: taken, or one line, never a traceback"
	@echo "make faults  kills and full disks at every file operation of every command (hours; PART=0/20 a part of it)"
	@echo "make parity  every loss that TRL has, against TRL's own trainers; writes docs/parity.md"
	@echo "make bench   speed and memory beside TRL on the same work; writes bench/results/latest.json and docs/bench.md"
	@echo "make report  the page of all runs below a directory: make report DIR=outputs/beta"
	@echo "make pictures  the README's pictures, from the demo's report (needs chromium)"
	@echo "make setup   the .venv that all of these use"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11 to 3.13 is needed: make PYTHON=python3.12"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/dpo sweep $(DEMO) $(WITH)
	$(BIN)/dpo report outputs/$(DEMO)

test: setup
	PYTHONHASHSEED=0 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# SETTINGS random settings, and FUZZ data files for each of eight data sets, with one or two damaged rows each, others every time
fuzz: setup
	FUZZ=$(or $(FUZZ),850) $(BIN)/python -m pytest -q tests/data/test_rowfuzz.py
	DPO_FUZZ=$(or $(SETTINGS),3000) $(BIN)/python -m pytest -q tests/test_config_fuzz.py

check: setup
	$(BIN)/ruff format --check dpo tests bench hydra_plugins
	$(BIN)/ruff check dpo tests bench hydra_plugins
	$(BIN)/mypy

# ONLY=train,sweep,stacked,judge,reward KIND=kill,full PART=0/20 (every twentieth point)
faults: setup
	$(BIN)/python -m tests.faults

# four agents at one instant, 50 times: no job of theirs is lost
agents: setup
	TIMES=50 $(BIN)/python -m pytest -q tests/test_agents.py

parity: setup
	$(BIN)/python -m tests.parity

report: setup
	$(BIN)/dpo report $(DIR)

pictures: report
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1200,1700 --screenshot=docs/report.png file://$(abspath $(DIR))/report.html
	cp $(DIR)/report/beta.svg docs/beta.svg
	cp $(DIR)/report/curves.svg docs/rewards.svg

# make bench ONLY=train_135m_fp32 (or growth, or gpu) runs one case; RESUME=1 goes on where an interrupted bench stopped
bench: setup
	$(BIN)/python -m bench $(ONLY) $(if $(RESUME),--resume)

# SPDX-License-Identifier: Apache-2.0
PYTHON ?= /usr/bin/python3
BIN := .venv/bin
INSTALLED := .venv/.installed
FAST := tests/unit tests/property tests/contract tests/fault tests/damage
SWEEP := tests/sweep

export PYTHON

.PHONY: help install lint check test robustness demo bench bench-live bench-audit score clean
.DEFAULT_GOAL := help

help: ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

install: $(INSTALLED) ## .venv with the donjon command; as root also the Debian packages that are missing
	@:

$(INSTALLED): pyproject.toml constraints.txt scripts/install
	@scripts/install
	@touch $@

lint: install ## form, types and layers of the code
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

check: lint ## lint, and the quick tests: no guest, no other program's repositories
	@scripts/in-memory $(BIN)/pytest -n 5 --dist worksteal $(FAST)

test: lint ## everything: check, interoperability with stock restic, real guests; says what it skips and why
	@scripts/newer-restic >/dev/null || true
	@scripts/in-memory $(BIN)/pytest -n 5 --dist worksteal -rs $(FAST) $(SWEEP)
	$(BIN)/pytest -n 2 -rs tests/interop tests/system

robustness: install ## two hours of random operations on a real guest; MINUTES=, SEED= for others
	$(BIN)/python -m lab.robustness --minutes $(or $(MINUTES),120) $(if $(SEED),--seed $(SEED))

demo: install ## a real guest is backed up, lost, restored and booted, in a few minutes
	@scripts/demo

bench: install ## donjon against restic, borg and qemu-img on the same image; table in bench/RESULTS.md
	@command -v borg >/dev/null || [ "$$(id -u)" != 0 ] || apt-get -qq -y --no-install-recommends install borgbackup >/dev/null
	$(BIN)/python bench/run

bench-live: install ## donjon against virtnbdbackup on a running guest, minutes; bench/results/live.json and a table
	@command -v virtnbdbackup >/dev/null || [ "$$(id -u)" != 0 ] || apt-get -qq -y --no-install-recommends install virtnbdbackup >/dev/null
	PYTHONPATH=. $(BIN)/python bench/live.py

bench-audit: install ## what it costs to look at hosts and guests, and to judge them; prints figures
	PYTHONPATH=. $(BIN)/python bench/audit_collect.py
	PYTHONPATH=. $(BIN)/python bench/audit_judge.py
	PYTHONPATH=. $(BIN)/python bench/audit_guest.py
	PYTHONPATH=. $(BIN)/python bench/startup.py $(BIN)/donjon

score: install ## what donjon and virtnbdbackup make of the same accidents; writes docs/score.md
	@command -v virtnbdbackup >/dev/null || [ "$$(id -u)" != 0 ] || apt-get -qq -y --no-install-recommends install virtnbdbackup >/dev/null
	PYTHONPATH=. $(BIN)/python bench/score.py

clean: ## remove what was made: .venv, downloads, caches
	rm -rf .venv .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests lab bench -name __pycache__ -type d -prune -exec rm -rf {} +

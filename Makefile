# make up | down | check | test | bench | proof. Everything is installed into .venv and node_modules; a second
# run finds the stamps of the same lock files and needs no network.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export DO_NOT_TRACK := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
MAKEFLAGS += --no-print-directory

fingerprint = $(shell cat $(1) | cksum | cut -d' ' -f1)
RUNTIME := .venv/.runtime-$(call fingerprint,constraints.txt pyproject.toml)
DEV := .venv/.dev-$(call fingerprint,constraints.txt pyproject.toml)
NODE := node_modules/.npm-$(call fingerprint,package-lock.json)

.PHONY: help up down check test bench proof reference install install-dev format

help:
	@echo "make up      install what is missing, start everything, print addresses and logins"
	@echo "make down    stop everything make up started"
	@echo "make check   lint, types, format"
	@echo "make test    install what the tests need and run them all"
	@echo "make bench   measure the budgets side by side"
	@echo "make proof   show that the suite would notice: a page with mutations, races, budgets"
	@echo "make reference  write the generated pages, types and models"
	@echo "make format  let the formatters have their way"

up: install
	@$(BIN)/nessos up

down:
	@test ! -x $(BIN)/nessos || $(BIN)/nessos down

install: $(RUNTIME) $(NODE)
install-dev: $(DEV) $(NODE)

define venv
	@test -n "$(PYTHON)" || { echo "error: Python is missing → install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $$($(PYTHON) --version) is too old → install Python 3.11 or newer" >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet --constraint constraints.txt setuptools==80.9.0
endef

$(RUNTIME):
	$(venv)
	@echo "installing Python packages …" >&2
	@$(BIN)/pip install --quiet --no-build-isolation --constraint constraints.txt --editable '.[local]'
	@rm -f .venv/.runtime-* && touch $@

$(DEV):
	$(venv)
	@echo "installing Python packages for development …" >&2
	@$(BIN)/pip install --quiet --no-build-isolation --constraint constraints.txt --editable '.[local,dev]'
	@rm -f .venv/.dev-* .venv/.runtime-* && touch $@ $(RUNTIME)

$(NODE):
	@command -v npm >/dev/null && command -v node >/dev/null \
	  || { echo "error: Node is missing → install Node 20 or newer, with npm" >&2; exit 1; }
	@node -e 'process.exit(+process.versions.node.split(".")[0] < 20 ? 1 : 0)' \
	  || { echo "error: Node $$(node --version) is too old → install Node 20 or newer" >&2; exit 1; }
	@echo "installing npm packages …" >&2
	@npm ci --no-audit --no-fund --loglevel=error
	@touch $@

SCRIPTS := supabase/functions supabase/local tests/api
SQL := supabase/migrations $(wildcard supabase/seed.sql) supabase/local/platform.sql py/nessos/checks py/nessos/reference.sql

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy py tests bench
	$(BIN)/sqlfluff lint --processes 2 $(SQL)
	$(BIN)/deno fmt --check --config supabase/functions/deno.json $(SCRIPTS)
	$(BIN)/deno lint --config supabase/functions/deno.json $(SCRIPTS)
	$(BIN)/deno check --config supabase/functions/deno.json supabase/functions/*/index.ts supabase/local/functions.ts

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/deno fmt --config supabase/functions/deno.json $(SCRIPTS)

test: install-dev
	$(BIN)/pytest
	$(BIN)/pytest --pg=16 tests/rules tests/access tests/schema tests/races/test_catalogue.py

# Data dictionary, CLI reference, types and models, from the migrations as they stand.
reference: install-dev
	$(BIN)/python -m nessos.reference

bench: install-dev
	$(BIN)/python -m bench

# An hour or two. One of them alone: .venv/bin/python -m tests.proof mutations
proof: install-dev
	$(BIN)/python -m tests.proof

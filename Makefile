# What a developer types. `make help` lists it.

.DEFAULT_GOAL := help
.PHONY: help install demo test fuzz lint bench bench-accuracy docs docs-figures lock clean

PYTHON := .venv/bin/python
INSTALLED := .venv/.installed
LINTERS := .venv/.linters
WRITERS := .venv/.writers

help:  ## say what each target does
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

install: $(INSTALLED)  ## find or install DIALS, then this project, into .venv; commands land in .venv/bin

demo: install  ## simulate a small experiment and make its map of diffuse scattering
	$(PYTHON) -m diffuse_framework.command_line.demo

test: install  ## run the tests; PYTEST_ARGS="-k grid" adds options
	@./install.sh --for-tests
	$(PYTHON) -m pytest tests -n 2 --dist loadfile $(PYTEST_ARGS)

fuzz: install  ## try 10,000 damaged and absurd inputs: FUZZ_ARGS="--cases 100000 --first 7"
	$(PYTHON) tests/fuzz/fuzz.py $(FUZZ_ARGS)

lint: $(LINTERS)  ## ruff (rules and format), mypy and the rules on who may import whom
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: install  ## print speed, memory and cost with the machine's own limits and mdx2 beside them; DIALS_DATA=...
	@set -e; for script in pixel_rate engines memory_flat large_map end_to_end "mdx2_side_by_side --detector 6M --images 100 --threshold 200"; do \
		set -- $$script; name=$$1; shift; echo "# $$name $$*"; $(PYTHON) tests/benchmarks/$$name.py "$$@"; done

bench-accuracy: install  ## measure how right maps and scales are: slower than make bench
	@set -e; for script in fidelity accuracy rotation_accuracy absolute_scale scaling_against_mdx2; do \
		echo "# $$script"; $(PYTHON) tests/benchmarks/$$script.py; done

docs: $(WRITERS)  ## build the documentation into docs/_build/html; a warning is an error
	$(PYTHON) -m sphinx -E -W --keep-going -q docs docs/_build/html
	@echo "docs: docs/_build/html/index.html"

docs-figures: install  ## make the pictures of the documentation again
	$(PYTHON) docs/make_figures.py

lock: install  ## name anew, with their hashes, the files that pip brings on this system (locks/)
	./install.sh --write-locks

clean:  ## remove what make and the demo made, .venv too
	rm -rf .venv docs/_build build dist *.egg-info diffuse_demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): install.sh setup.cfg pyproject.toml $(wildcard locks/*.txt)
	./install.sh
	@touch $@

$(LINTERS): $(INSTALLED)
	./install.sh --extra dev
	@touch $@

$(WRITERS): $(INSTALLED)
	./install.sh --extra docs
	@touch $@

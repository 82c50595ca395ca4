# Two commands matter: `make demo` and `make test`. Each sets up .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
DEMO_OUT ?= runs/demo

.PHONY: demo test test-slow lint bench zoos docs wheel clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "weightspace needs Python 3.11 or newer, found " + sys.version.split()[0]'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/.installed
	$(BIN)/weightspace demo --out $(DEMO_OUT) --force

test: .venv/.installed
	$(BIN)/python -m pytest -n 2

.venv/.slow-installed: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ray,garden]'
	touch $@

test-slow: .venv/.slow-installed
	$(BIN)/python -m pytest -m slow -n 2 --timeout 1500

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed
	for bench in grow symmetry zoo_io pretrain embed embed_large; do $(BIN)/python benchmarks/$$bench.py || exit 1; done

zoos: .venv/.installed
	benchmarks/zoos.sh

.venv/.docs-installed: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

docs: .venv/.docs-installed
	cd docs && ../$(BIN)/zensical build --strict
	$(BIN)/python docs/check_site.py

wheel: .venv/.installed
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf .venv dist site runs .mypy_cache .ruff_cache .pytest_cache

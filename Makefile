# Every target builds .venv itself when it is missing or older than what it was built from.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint bench docs clean

demo: .venv/ready
	$(BIN)/unip quickstart

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf .venv/typed && mkdir .venv/typed && cp -r unip_hf .venv/typed && cp -r modeling scripts spaces_demo .venv/typed/unip_hf
	cd .venv/typed && ../bin/mypy --config-file ../../setup.cfg

bench: .venv/ready
	$(BIN)/unip benchmark

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir .venv/site

clean:
	rm -rf .venv outputs

.venv/ready: setup.cfg pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --disable-pip-version-check --quiet --editable ".[dev]"
	touch $@

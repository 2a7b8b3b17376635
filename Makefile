# Every target builds .venv itself when it is missing or older than what it was built from.
PYTHON ?= python3
BIN = .venv/bin
# Tests run side by side, one worker for each core; each takes up to 2 GB.
PYTEST = $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal --durations 15

.PHONY: demo test test-slow lint bench docs clean

demo: .venv/ready
	$(BIN)/unip quickstart

test: .venv/ready
	$(PYTEST) -m "not slow"

test-slow: .venv/ready
	$(PYTEST) -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf .venv/typed && mkdir .venv/typed && cp -r unip_hf .venv/typed && cp -r modeling scripts spaces_demo .venv/typed/unip_hf
	cd .venv/typed && ../bin/mypy --config-file ../../setup.cfg

bench: .venv/ready
	$(BIN)/python -m benchmarks

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir .venv/site

clean:
	rm -rf .venv outputs

# uv downloads side by side and shows how far it is. Bytecode is compiled once, here: tests start many
# processes.
.venv/ready: setup.cfg pyproject.toml
	@echo "Installing into .venv, once: 3.3 GB to download, 6.5 GB on disk, most of it PyTorch and CUDA."
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --editable ".[dev]"
	@touch $@

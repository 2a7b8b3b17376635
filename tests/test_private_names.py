"""Which private names of other libraries the project uses: those in the table of `docs/trust.md`, and no others."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import unip_hf


ROOT = Path(__file__).parents[1]
FOLDERS = ("modeling", "unip_hf", "scripts", "spaces_demo", "benchmarks", "docs")
LIBRARIES = ("accelerate", "datasets", "evaluate", "gradio", "timm", "torch", "transformers")
DOCUMENTED = {"_exit", "_replace"}  # of `os` and of named tuples
SET_BY_OTHERS = {"_abc_impl", "_auto_class"}  # by Python, and by `register_for_auto_class`


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != "_"


def own_names(tree: ast.AST) -> Iterator[str]:
    """What a file defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def read_names(tree: ast.AST) -> Iterator[str]:
    """The private names that a file reads or imports from elsewhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module and "unip_hf" not in node.module:
            parts = [*node.module.split("."), *(alias.name for alias in node.names)]
            yield from filter(is_private, parts)


def overridden_names() -> Iterator[str]:
    """The private names of other libraries' classes that ours define anew."""
    for found in pkgutil.walk_packages(unip_hf.__path__, "unip_hf."):
        if found.name.endswith(".app"):  # starts the demo
            continue
        for value in vars(importlib.import_module(found.name)).values():
            if isinstance(value, type) and value.__module__.startswith("unip_hf"):
                bases = [base for base in value.__mro__ if base.__module__.startswith(LIBRARIES)]
                yield from (
                    name
                    for name in filter(is_private, vars(value))
                    if any(name in vars(base) or name in vars(base).get("__annotations__", {}) for base in bases)
                )


LIBRARIES = ("accelerate", "datasets", "evaluate", "gradio", "timm", "torch", "transformers")


def test_the_table_has_all_private_names_and_the_tests_that_guard_them() -> None:
    trees = [ast.parse(path.read_text()) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    ours = {name for tree in trees for name in own_names(tree)} | DOCUMENTED
    used = {name for tree in trees for name in read_names(tree)} - ours | set(overridden_names()) - SET_BY_OTHERS
    page = (ROOT / "docs" / "trust.md").read_text().split("## Private names")[1].split("\n## ")[0]
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`(?:[\w.]+\.)?(_\w+)`", row[1])}
    assert listed == used
    for row in rows:
        for file in re.findall(r"`(\w[\w/]*\.py)`", row[4]):
            assert (ROOT / "tests" / file).is_file(), file
        assert row[4].strip()

"""What the commands import, each in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor

from ..conftest import PATIENCE


UNUSED = ["accelerate", "av", "datasets", "evaluate", "gradio", "matplotlib", "pandas", "scipy", "timm", "torchvision"]
PROGRAM = f"""
import json, sys
from unip_hf.scripts import cli
try:
    status = cli.main(sys.argv[1:])
except SystemExit as ended:
    status = ended.code
found = [name for name in {[*UNUSED, "torch", "transformers"]} if sys.modules.get(name) is not None]
print(json.dumps([status, found]))
"""


def imported_by(*arguments: object) -> tuple[int, list[str]]:
    """Exit status of `unip`, and which of these packages it imported."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    status, found = json.loads(done.stdout.splitlines()[-1])
    return status, found


def test_predict_imports_what_the_image_needs(make_config: Callable, tmp_path: Path) -> None:
    UnipForSemanticSegmentation(make_config()).save_pretrained(tmp_path / "model")
    UnipImageProcessor(do_resize=False).save_pretrained(tmp_path / "model")
    Image.fromarray(np.zeros((32, 48), np.uint8)).save(tmp_path / "image.jpg")
    status, found = imported_by("predict", tmp_path / "model", tmp_path / "image.jpg", "-o", tmp_path / "out")
    assert status == 0 and (tmp_path / "out" / "masks" / "image.png").is_file()
    assert found == ["torch", "transformers"]


def test_help_imports_nothing_heavy() -> None:
    assert imported_by("--help") == imported_by("predict", "--help") == (0, [])

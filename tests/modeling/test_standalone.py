"""A saved folder works on a machine that does not have this library, with torchvision and without."""

import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import transformers
from packaging.version import Version
from PIL import Image

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor, modeling

from ..conftest import PATIENCE


SCRIPT = Path(__file__).parent / "load_without_this_library.py"


@pytest.mark.parametrize(
    "absent", [("unip_hf",), pytest.param(("unip_hf", "torchvision"), marks=pytest.mark.slow)], ids="-".join
)
def test_a_saved_folder_loads_and_predicts(absent: tuple[str, ...], make_config: Callable, tmp_path: Path) -> None:
    if "torchvision" in absent and Version(transformers.__version__) < Version("5.18"):
        pytest.skip("AutoImageProcessor of transformers 5.17 itself needs torchvision")
    model, processor = UnipForSemanticSegmentation(make_config()).eval(), UnipImageProcessor(do_resize=False)
    model.decode_head.classifier.weight.data.normal_(std=2.0)
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    assert {path.name for path in (tmp_path / "checkpoint").iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        *(f"{module.name}.py" for module in pkgutil.iter_modules(modeling.__path__)),
    }
    counts = np.random.default_rng(0).integers(6743, 7077, (48, 64), dtype=np.uint16)
    Image.fromarray(counts).save(tmp_path / "frame.png")

    blocked = f"import sys, runpy\nfor name in {absent}: sys.modules[name] = None\n"
    run = "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    arguments = [SCRIPT, tmp_path / "checkpoint", tmp_path / "frame.png", tmp_path / "ids.npy"]
    subprocess.run(
        [sys.executable, "-c", blocked + run, *map(str, arguments)],
        check=True,
        timeout=PATIENCE,
        env={**os.environ, "HF_HOME": str(tmp_path / "home")},
    )
    outputs = model(**processor(counts, return_tensors="pt"))
    expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[(48, 64)])[0].numpy()
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(np.load(tmp_path / "ids.npy"), expected)


@pytest.mark.parametrize("fusion", ["iv_tuning", "unirgb_ir"])
def test_a_saved_model_of_pairs_loads_and_predicts(fusion: str, make_config: Callable, tmp_path: Path) -> None:
    model = UnipForSemanticSegmentation(make_config(fusion=fusion, num_hidden_layers=4)).eval()
    processor = UnipImageProcessor(do_resize=False)
    model.decode_head.classifier.weight.data.normal_(std=2.0)
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    grey = np.random.default_rng(0).integers(0, 255, (48, 64), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "frame.png")
    blocked = "import sys, runpy\nsys.modules['unip_hf'] = None\nsys.argv = sys.argv[1:]\n"
    arguments = [SCRIPT, tmp_path / "checkpoint", tmp_path / "frame.png", tmp_path / "ids.npy"]
    subprocess.run(
        [sys.executable, "-c", f"{blocked}runpy.run_path(sys.argv[0], run_name='__main__')", *map(str, arguments)],
        check=True,
        timeout=PATIENCE,
        env={**os.environ, "HF_HOME": str(tmp_path / "home")},
    )
    outputs = model(**processor(grey, auxiliary_images=grey, return_tensors="pt"))
    expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[(48, 64)])[0].numpy()
    assert len(np.unique(expected)) > 1
    assert (np.load(tmp_path / "ids.npy") == expected).mean() > 0.999  # rounding decides where two classes tie

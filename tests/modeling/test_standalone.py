"""Saved folders work on a machine that does not have this library, with torchvision and without."""

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

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor, UnipModel, modeling

from ..conftest import PATIENCE


SCRIPT = Path(__file__).parent / "load_without_this_library.py"


@pytest.mark.parametrize(
    "absent", [("unip_hf",), pytest.param(("unip_hf", "torchvision"), marks=pytest.mark.slow)], ids="-".join
)
def test_saved_folders_load_and_predict(absent: tuple[str, ...], make_config: Callable, tmp_path: Path) -> None:
    if "torchvision" in absent and Version(transformers.__version__) < Version("5.18"):
        pytest.skip("AutoImageProcessor of transformers 5.17 itself needs torchvision")
    processor = UnipImageProcessor(do_resize=False)
    UnipModel(make_config(num_hidden_layers=4)).save_pretrained(tmp_path / "backbone")
    models = {"single": UnipForSemanticSegmentation(make_config())}
    models["pairs"] = UnipForSemanticSegmentation(make_config(fusion="unirgb_ir", num_hidden_layers=4))
    config = make_config(fusion="iv_tuning", num_hidden_layers=4)
    models["only-trained"] = UnipForSemanticSegmentation.from_pretrained(tmp_path / "backbone", config=config)
    for name, model in models.items():
        model.eval().decode_head.classifier.weight.data.normal_(std=2.0)
        model.save_pretrained(tmp_path / name, only_trained=name == "only-trained")
        processor.save_pretrained(tmp_path / name)
    assert {path.name for path in (tmp_path / "single").iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        *(f"{module.name}.py" for module in pkgutil.iter_modules(modeling.__path__)),
    }
    counts = np.random.default_rng(0).integers(6743, 7077, (48, 64), dtype=np.uint16)
    Image.fromarray(counts).save(tmp_path / "frame.png")
    visible = np.random.default_rng(1).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(visible).save(tmp_path / "visible.png")

    blocked = f"import sys, runpy\nfor name in {absent}: sys.modules[name] = None\n"
    run = "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    arguments = [SCRIPT, *(tmp_path / name for name in ("frame.png", "visible.png", *models))]
    subprocess.run(
        [sys.executable, "-c", blocked + run, *map(str, arguments)],
        check=True,
        timeout=PATIENCE,
        env={**os.environ, "HF_HOME": str(tmp_path / "home")},
    )
    for name, model in models.items():
        auxiliary = None if name == "single" else visible
        outputs = model(**processor(counts, auxiliary_images=auxiliary, return_tensors="pt"))
        expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[(48, 64)])[0].numpy()
        found = np.load(tmp_path / f"{name}.npy")
        assert len(np.unique(expected)) > 1
        if name == "single":
            np.testing.assert_array_equal(found, expected)
        else:
            assert (found == expected).mean() > 0.999  # rounding decides where two classes tie

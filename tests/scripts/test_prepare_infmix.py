"""`unip prepare-infmix` as a user runs it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unip_hf.data import load_infrared_dataset
from unip_hf.data.infmix import read_sources_file
from unip_hf.data.infmix.sources import InfMixSource
from unip_hf.scripts import prepare_infmix
from unip_hf.scripts.cli import run


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Ten thermal frames of noise, the last two of them equal."""
    folder = tmp_path / "raw" / "camera" / "thermal"
    folder.mkdir(parents=True)
    for number in range(10):
        noise = np.random.default_rng(min(number, 8)).integers(30, 256, (40, 48), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return tmp_path / "raw"


def test_prints_a_table_and_writes_what_loads_by_name(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "infmix"
    arguments = ["--infrared", str(frames), "--output-dir", str(out), "--num_workers", "1", "--shortest-edge", "20"]
    arguments += ["--remove_near_duplicates", "--exclude", str(frames / "camera" / "thermal")]
    assert run(prepare_infmix.main, arguments) == 2  # nothing is left
    assert "No image is left" in capsys.readouterr().err
    evaluation_set = tmp_path / "test"
    evaluation_set.mkdir()
    (frames / "camera" / "thermal" / "3.png").rename(evaluation_set / "3.png")
    Image.open(evaluation_set / "3.png").save(frames / "camera" / "thermal" / "3.bmp")
    arguments = [*arguments[:-1], str(evaluation_set)]
    assert run(prepare_infmix.main, arguments) == 2
    assert "the evaluation sets were thermal, are test" in capsys.readouterr().err
    assert run(prepare_infmix.main, [*arguments, "--overwrite"]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[1].split() == ["camera", "10", "10", "0", "0", "1", "1", "8"]
    assert "Evaluation set test, 1 images: 1 candidates look like one of them and are left out." in output
    assert "(UNIP's pre-training: 0.3801, 0.1871)" in output and f"{out} is finished." in output
    rows = load_infrared_dataset("infmix", out, split="train", streaming=True)
    assert [min(row["image"].size) for row in rows] == [20] * 8
    assert run(prepare_infmix.main, arguments) == 0
    assert capsys.readouterr().out == output


def test_the_example_of_sources_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.exists", lambda path: True)
    sources = {s.name: s for s in read_sources_file(Path(__file__).parents[2] / "docs" / "infmix-sources.yaml")}
    assert len(sources) == 10
    rules = {name: (s.every, s.crop_border, s.minimum_brightness) for name, s in sources.items()}
    assert rules["drone-vehicle"] == (1, 100, None) and rules["scut-fir-pedestrian"] == (10, 0, 20)
    assert [rules[name][0] for name in ("infrared-aerial-photography", "lsotb-tir", "lasher", "llvip")] == [
        2,
        10,
        10,
        1,
    ]
    assert isinstance(sources["imagenet"], InfMixSource) and sources["imagenet"].images_per_class == 200


def test_wrong_input_ends_with_a_sentence_and_nothing_written(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "sources.yaml").write_text("- {path: raw, evry: 2}")
    before = set(tmp_path.rglob("*"))
    source, output = ["--infrared", str(frames)], ["--output_dir", str(tmp_path / "out")]
    for arguments, message in (
        (output, "There are no sources. Give --infrared"),
        (["--infrared", str(frames / "nowhere"), *output], "nowhere'"),
        (["--imagenet", str(frames / "camera" / "thermal"), *output], "The source 'imagenet' has no images"),
        (["--sources", str(tmp_path / "sources.yaml"), *output], "unknown field 'evry'"),
        ([*source, "--exclude", "mfnt=x.zip", *output], "There is no labelled dataset 'mfnt'"),
        ([*source, "--exclude", "nowhere", *output], "There is no evaluation set 'nowhere'"),
        ([*source, "--hash_distance", "16", *output], "hash_distance must be from 0 to 15, got 16"),
        ([*source, "--quality", "101", *output], "quality must be from 1 to 100"),
        ([*source, "--num_workers", "0", *output], "--num_workers must be above 0"),
        ([*source, "--output_dir", str(tmp_path / "raw")], "holds something other than InfMix"),
        ([*source, "--output_dir", str(tmp_path / "sources.yaml")], "is a file"),
    ):
        assert run(prepare_infmix.main, arguments) == 2, arguments
        errors = capsys.readouterr().err
        assert errors.startswith("error: ") and message in errors, errors
    assert set(tmp_path.rglob("*")) == before

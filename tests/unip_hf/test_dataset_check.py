"""The dataset check finds each problem in real broken files, and counts what the files hold."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unip_hf.data import DatasetReport, check_dataset, load_infrared_dataset
from unip_hf.data.statistics import MAX_CELLS, IntensityHistogram


ID2LABEL = {0: "ground", 1: "person"}
GENERATOR = np.random.default_rng(0)


def noise(dtype: type = np.uint8, size: tuple[int, int] = (20, 24)) -> np.ndarray:
    return GENERATOR.integers(0, 256, size).astype(dtype)


def two_classes(size: tuple[int, int] = (20, 24)) -> np.ndarray:
    ids = np.zeros(size, np.uint8)
    ids[:5] = 1
    return ids


def save(folder: Path, stem: str, image: np.ndarray | None = None, ids: np.ndarray | None = None) -> None:
    """A pair in the folders of images and masks; `stem` may start with a split."""
    for kind, values in (
        ("images", noise() if image is None else image),
        ("masks", two_classes() if ids is None else ids),
    ):
        path = folder / kind / f"{stem}.png"
        path = path.with_suffix(".tif") if values.dtype.kind == "f" else path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)


def check(folder: Path, id2label: dict[int, str] | None = ID2LABEL) -> DatasetReport:
    return check_dataset(load_infrared_dataset("folder", folder), id2label)


def truncate(folder: Path) -> None:
    path = folder / "images" / "train" / "0.png"
    path.write_bytes(path.read_bytes()[:-200])


def write_text(folder: Path) -> None:
    (folder / "masks" / "train" / "0.png").write_text("no image")


def zero_and_255(folder: Path) -> None:
    for path in (folder / "masks").rglob("*.png"):
        Image.fromarray(two_classes() * 255).save(path)


def ignore_all(folder: Path) -> None:
    for path in (folder / "masks" / "train").iterdir():
        Image.fromarray(np.full((20, 24), 255, np.uint8)).save(path)


def leak(folder: Path) -> None:
    target = folder / "images" / "validation" / "0.png"
    target.write_bytes((folder / "images" / "train" / "1.png").read_bytes())


def one_class(folder: Path) -> None:
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(folder / "masks" / "validation" / "0.png")


@pytest.mark.parametrize(("spoil", "severity", "expected"), [
    (truncate, "error", r"train: Files that cannot be read \(1 file\): .*train/0\.png"),
    (write_text, "error", r"train: Files that cannot be read \(1 file\): .*masks/train/0\.png"),
    (lambda f: save(f, "train/a", ids=two_classes((20, 30))), "error", r"different sizes.*24x20, .*a\.png: 30x20"),
    (lambda f: save(f, "train/a", ids=7 * two_classes()), "error", r"that have no name.*masks/train/a\.png: ids 7"),
    (zero_and_255, "error", r"^All masks hold only 0 and 255\. .*write 1 for it: Image.fromarray"),
    (lambda f: save(f, "train/a", ids=np.dstack([noise(), noise(), noise()])), "error", r"in colour.*train/a\.png"),
    (lambda f: save(f, "train/a", ids=255 + 0 * two_classes()), "warning", r"train: Masks that hold only 255"),
    (ignore_all, "error", r"train: Masks that hold only 255, which is ignored \(3 files\)"),
    (one_class, "warning", r"validation: All masks hold one class only, 0\."),
    (lambda f: save(f, "train/a", noise(np.uint16)), "warning", r"train: .*several depths \(uint16, uint8\)"),
    (leak, "warning", r"two splits.*\(1 file\): .*1\.png \(train\) = .*0\.png \(validation\)"),
    (lambda f: save(f, "train/a", noise(size=(12, 40)), two_classes((12, 40))), "error", r"a patch of 16.*40x12"),
    (lambda f: save(f, "train/a", 9 + 0 * noise()), "warning", r"one value everywhere \(1 file\): .*a\.png: 9"),
    (lambda f: save(f, "train/a", noise(np.float32) / 0), "error", r"NaN or infinite.*a\.tif"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:(divide|invalid):RuntimeWarning")
def test_each_problem_is_found(spoil: Callable, severity: str, expected: str, tmp_path: Path) -> None:
    for stem in ("train/0", "train/1", "train/2", "validation/0", "validation/1"):
        save(tmp_path, stem)
    (tmp_path / "masks" / "validation" / "1.png").unlink()
    (tmp_path / "images" / "validation" / "1.png").unlink()
    twin = tmp_path / "images" / "train" / "2.png"  # within one split this is nobody's business
    twin.write_bytes((tmp_path / "images" / "train" / "1.png").read_bytes())
    assert check(tmp_path).problems == []
    spoil(tmp_path)
    report = check(tmp_path)
    (problem,) = [p for p in report.problems if p.severity == severity and re.search(expected, str(p))]
    assert f"{severity}: {problem.split or ''}" in str(report) and problem.message in str(report)
    assert report.has_errors == (severity == "error")
    if severity == "error":
        with pytest.raises(ValueError, match=r"^The dataset cannot be used\. .*`unip check-dataset` shows all\.$"):
            report.raise_for_errors()
    else:
        report.raise_for_errors()


def test_classes_without_names_or_pixels(tmp_path: Path) -> None:
    save(tmp_path, "0", ids=2 * two_classes())
    report = check(tmp_path, {**ID2LABEL, 2: "car"})
    assert [str(problem) for problem in report.problems] == ["train: Classes that never occur: 1 person."]
    (problem,) = check(tmp_path, None).problems
    assert problem.severity == "error" and "The ids 0, 2 occur" in problem.message
    proposal = problem.message[problem.message.index("{") : problem.message.index("}") + 1]
    assert json.loads(proposal) == {"0": "class 0", "1": "class 1", "2": "class 2"}
    save(tmp_path, "0", ids=200 * two_classes())
    (problem,) = check(tmp_path, None).problems
    assert "Number the classes 0, 1, 2" in problem.message


def test_an_empty_split_and_rows_without_masks(tmp_path: Path) -> None:
    save(tmp_path, "0")
    rows = load_infrared_dataset("folder", tmp_path)["train"]
    report = check_dataset({"train": rows, "test": rows.select([])}, ID2LABEL)
    assert [str(problem) for problem in report.errors] == ["test: The split is empty."]
    report = check_dataset({"test": rows.remove_columns("annotation")}, ID2LABEL)
    assert [problem.message for problem in report.errors] == ["Images without a mask"]
    assert check_dataset({}, ID2LABEL).has_errors


def test_many_files_are_counted_and_the_first_named(tmp_path: Path) -> None:
    for number in range(9):
        save(tmp_path, str(number), ids=3 * two_classes())
    (problem,) = check(tmp_path).errors
    assert problem.num_files == 9 and [Path(file.split(":")[0]).stem for file in problem.files] == list("01234")
    assert str(problem).endswith("4.png: ids 3; and 4 more.")


def test_what_the_files_hold(tmp_path: Path) -> None:
    counts = (6000 + np.arange(480)).astype(np.uint16).reshape(20, 24)
    ids = two_classes()
    ids[-2:] = 255
    save(tmp_path, "0", counts, ids)
    save(tmp_path, "1", counts[::-1] + np.uint16(480), np.zeros((20, 24), np.uint8))
    save(tmp_path, "2", counts[:, :20], two_classes()[:, :20])
    dataset = load_infrared_dataset("folder", tmp_path)
    report = check_dataset(dataset, ID2LABEL, num_workers=2)
    split = report.splits["train"]
    assert split.num_images == 3 and split.sizes == {"24x20": 2, "20x20": 1}
    assert split.formats == {"uint16, 1 channel": 3}
    assert split.ignored_share == 48 / 1360
    ground, person = split.classes
    assert (person.id, person.name, person.num_images) == (1, "person", 2)
    assert person.pixel_share == (120 + 100) / (1360 - 48) and ground.pixel_share == 1 - person.pixel_share
    found = split.intensities["uint16"]
    values = np.concatenate([counts.ravel(), counts.ravel() + 480, counts[:, :20].ravel()])
    assert (found.min, found.max) == (6000, 6959)
    assert found.percentiles["50"] == np.percentile(values, 50, method="inverted_cdf")
    assert len(found.counts) == len(found.edges) - 1 <= 64
    np.testing.assert_array_equal(found.counts, np.histogram(values, found.edges)[0])
    assert sum(found.counts) == values.size

    assert json.loads(json.dumps(report.to_dict()))["splits"]["train"]["classes"][1]["name"] == "person"
    text = str(report)
    assert "24x20 (2), 20x20 (1)" in text and "6000 to 6959" in text and "No problems found." in text
    streamed = check_dataset(load_infrared_dataset("folder", tmp_path, streaming=True), ID2LABEL)
    assert streamed.to_dict() == report.to_dict()


def test_rare_classes_are_named_with_the_options_that_help(tmp_path: Path) -> None:
    ids = np.zeros((40, 40), np.uint8)
    ids[0, :3] = 1
    save(tmp_path, "train/0", noise(size=ids.shape), ids)
    save(tmp_path, "validation/0")
    report = check(tmp_path)
    (advice,) = report.recommendations
    assert advice.startswith("Classes with less than 1% of the pixels are easily ignored: 1 person (0.19%)")
    assert (
        "--dice_loss_weight 1 --rare_class_sampling 1" in advice
        and f"advice: {advice}." in str(report)
        and not report.problems
    )
    save(tmp_path, "train/0")
    assert not check(tmp_path).recommendations


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_histograms_of_wide_dtypes_stay_small_and_close(dtype: type) -> None:
    parts = [GENERATOR.normal(300, 20, 50_000) * (1 if dtype is np.float32 else 1000) for _ in range(4)]
    parts = [(part * 10**number).astype(dtype) for number, part in enumerate(parts)]
    histogram = IntensityHistogram(parts[0])
    for part in parts[1:]:
        histogram.merge(IntensityHistogram(part))
    values = np.concatenate(parts)
    assert histogram.counts.sum() == values.size and len(histogram.cells) <= MAX_CELLS
    assert (histogram.min, histogram.max) == (values.min(), values.max())
    for rank, value in histogram.percentiles().items():
        expected = np.percentile(values, float(rank), method="inverted_cdf").item()
        assert value == pytest.approx(expected, abs=values.max().item() / 10_000)
    assert len(histogram.bins()[1]) <= 64 and sum(histogram.bins()[1]) == values.size


def test_real_images_have_no_problems(real_images: Path) -> None:
    dataset = load_infrared_dataset("folder", real_images / "massmind")
    report = check_dataset(dataset, dict(enumerate("abcdefg")))
    assert not report.problems and report.splits["train"].num_images == 5

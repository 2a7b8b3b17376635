"""Folders, archives, masks and JSON of any content give rows or sentences, and none hangs."""

import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unip_hf import UnipImageProcessor
from unip_hf.data import load_id2label, load_infrared_dataset, scan_folder
from unip_hf.data.reading import read_sample, without_decoding
from unip_hf.data.samples import TrainingSamples
from unip_hf.data.source_files import SourceFiles
from unip_hf.data.transforms import training_transforms
from unip_hf.inference.sources import find_sources, read_frames
from unip_hf.scripts.check_dataset import check_folder

from ..nonsense import damaged, json_files, result_or_sentence


NO_OPTIONS = {"mask_values": None, "mask_suffix": None, "image_suffix": None, "resize_masks": False}


def encoded(array: np.ndarray, image_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, format=image_format)
    return file.getvalue()


COUNTS = np.arange(20 * 24, dtype=np.uint16).reshape(20, 24)
IDS = (COUNTS // 200).astype(np.uint8)  # 0 to 2
IMAGES = [
    encoded(COUNTS), encoded(IDS), encoded(np.stack([IDS] * 3, -1), "JPEG"), encoded(np.stack([IDS] * 4, -1)),
    b"", b"xx",
    encoded(COUNTS.astype(np.float32) * np.float32("nan"), "TIFF"), encoded(IDS[:1, :1]),
]  # fmt: skip
MASKS = [
    encoded(IDS), encoded(IDS * 100), encoded(np.stack([IDS, IDS * 0, IDS], -1)), encoded(COUNTS), encoded(IDS[:, :7]),
    encoded(IDS > 0), encoded(IDS, "JPEG"), encoded(COUNTS.astype(np.float32), "TIFF"), b"",
]  # fmt: skip


def use_folder(folder: Path) -> None:
    """Everything that commands do with a folder of one's own."""
    result_or_sentence(lambda: load_id2label("folder", folder))
    result_or_sentence(lambda: check_folder(folder, 1, NO_OPTIONS))
    loaded = result_or_sentence(lambda: load_infrared_dataset("folder", folder))
    for rows in (without_decoding(loaded) if loaded is not None else {}).values():
        for number, row in enumerate(rows):
            sample = result_or_sentence(lambda: read_sample(row, number), str(folder))  # noqa: B023
            assert sample is None or sample.ids.shape == sample.image.shape[:2]


def fresh(factory: pytest.TempPathFactory, *names: str) -> Path:
    """An empty folder with these folders in it. That of the example before is removed."""
    folder = factory.getbasetemp() / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("", *names):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


PLACES = [
    "images",
    "masks",
    "labels",
    "visible",
    "images/train",
    "masks/train",
    "train/images",
    "train/masks",
    "JPEGImages",
]
STEMS = ["a", "b", "c", "ü", "a b", "a\nb", ".hidden", "a_mask", "b_visible", "-x", "[a]", "%s", "\udcff"]
FILE = st.tuples(
    st.sampled_from(PLACES),
    st.tuples(st.sampled_from(STEMS), st.sampled_from([".png", ".png", ".PNG", ".tif", ".jpg", ""])).map("".join),
    st.one_of(
        st.sampled_from(IMAGES), st.sampled_from(MASKS), st.sampled_from(["..", ".", "nowhere", "folder", "pipe"])
    ),
)


@given(st.lists(FILE, min_size=1, max_size=12))
def test_any_tree_of_files_gives_rows_or_sentences(tmp_path_factory: pytest.TempPathFactory, files: list) -> None:
    folder = fresh(tmp_path_factory)
    for place, name, content in files:
        path = folder / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            continue
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content == "folder":
            path.mkdir()
        elif content == "pipe":  # reading it would never end
            os.mkfifo(path)
        else:
            path.symlink_to(content)
    use_folder(folder)
    files_found = result_or_sentence(lambda: SourceFiles(folder))
    for name in files_found.names if files_found else ():
        result_or_sentence(lambda: files_found._files[name].read())  # noqa: B023
    sources = result_or_sentence(lambda: find_sources([folder], unreadable=[]))
    result_or_sentence(lambda: list(read_frames(sources or [], unreadable=[])))


def test_an_image_that_the_processor_refuses_in_training_is_named(tmp_path: Path) -> None:
    for place, content in (("images", IMAGES[0]), ("masks", MASKS[0]), ("visible", IMAGES[0])):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.png").write_bytes(content)
    rows = load_infrared_dataset("folder", tmp_path, "train")
    transform = training_transforms(UnipImageProcessor(), 16)
    samples = TrainingSamples(rows, transform, num_labels=3, with_pairs=True)
    with pytest.raises(ValueError, match=r"images/a\.png with .*visible/a\.png: A visible image must have 8 bits"):
        samples[0, 0]


def test_links_in_circles_end(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "0.png").write_bytes(encoded(COUNTS))
        for number in range(4):
            (tmp_path / "images" / name / f"up-{number}").symlink_to("..")
            (tmp_path / "images" / name / f"other-{number}").symlink_to(f"../{'ba'['ab'.index(name)]}")
    (tmp_path / "masks" / "a").mkdir(parents=True)
    (tmp_path / "masks" / "a" / "0.png").write_bytes(encoded(IDS))
    assert scan_folder(tmp_path).splits
    assert len(find_sources([tmp_path / "images"])) >= 2
    assert any(name.endswith("a/0.png") for name in SourceFiles(tmp_path).names)


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images" / "locked").mkdir(parents=True)
    scandir = os.scandir

    def locked(path: str) -> object:  # root may read every folder
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(PermissionError, match="locked"):
        scan_folder(tmp_path)


COCO = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 24, "height": 20},
        {"id": 2, "file_name": "b.png", "width": 24, "height": 20},
    ],
    "categories": [{"id": 1, "name": "person", "supercategory": "x"}, {"id": 2, "name": "car"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 10, 1, 10, 10]], "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2, "segmentation": {"size": [20, 24], "counts": [100, 50, 330]}},
        {"id": 3, "image_id": 2, "category_id": 2, "segmentation": {"size": [20, 24], "counts": "T3b1Z:"}},
    ],
}


@given(json_files(COCO))
def test_nonsense_in_coco_json_gives_masks_or_sentences(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = fresh(tmp_path_factory, "images")
    for name in "ab":
        (folder / "images" / f"{name}.png").write_bytes(IMAGES[0])
    (folder / "result.json").write_bytes(content)
    use_folder(folder)


COLOURS = {"#000000": "a", "#010101": "b", "#020002": "c"}
LABEL_MAPS = [
    b"a:0,0,0::\nb:1,1,1::\n",
    b"a:0,0\n",
    b"a:0,0,999::",
    b"\xff:1,2,3::",
    b":::::",
    b"a:0,0,0::\nb:0,0,0::",
]
DESCRIPTIONS = st.one_of(
    st.tuples(st.just("id2label.json"), json_files({"0": "a", "1": "b", "2": "c"})),
    st.tuples(st.just("mask_values.json"), json_files({"0": 0, "100": 1, "200": 2})),
    st.tuples(st.just("mask_colours.json"), json_files(COLOURS)),
    st.tuples(st.just("labelmap.txt"), st.sampled_from(LABEL_MAPS)),
)


@given(st.lists(DESCRIPTIONS, min_size=1, max_size=2), st.sampled_from(MASKS))
def test_nonsense_in_what_describes_masks_gives_ids_or_sentences(
    tmp_path_factory: pytest.TempPathFactory, descriptions: list[tuple[str, bytes]], mask: bytes
) -> None:
    folder = fresh(tmp_path_factory, "images", "masks")
    (folder / "images" / "a.png").write_bytes(IMAGES[0])
    (folder / "masks" / "a.png").write_bytes(mask)
    for name, content in descriptions:
        (folder / name).write_bytes(content)
    use_folder(folder)


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


ARCHIVE = zipped({"images/a.png": IMAGES[0], "masks/a.png": MASKS[0]})


@given(damaged(ARCHIVE))
def test_a_damaged_archive_gives_its_files_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = fresh(tmp_path_factory) / "set.zip"
    path.write_bytes(content)
    found = result_or_sentence(lambda: SourceFiles(path), str(path))
    for folder in ("images", "masks") if found is not None else ():
        for file in found.images(folder).values():
            whole = {"images/a.png": IMAGES[0], "masks/a.png": MASKS[0]}.get(file.name)
            read = result_or_sentence(file.read, str(path))
            assert read is None or whole is None or read == whole


@pytest.mark.parametrize(
    "name", ["../a.png", "/a.png", "x/../../a.png", "..\\a.png", "C:\\a.png", "a.png/../../b.png"]
)
def test_a_member_that_climbs_out_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "set.zip").write_bytes(zipped({name: IMAGES[0]}))
    with pytest.raises(ValueError, match="leads out of the archive"):
        SourceFiles(tmp_path / "set.zip")


def test_a_member_that_explodes_is_not_read(tmp_path: Path) -> None:
    content = bytearray(zipped({"images/a.png": bytes(1000)}))
    place = content.index(b"PK\x01\x02") + 24  # the size in the directory
    content[place : place + 4] = (2**31).to_bytes(4, "little")
    (tmp_path / "set.zip").write_bytes(content)
    (file,) = SourceFiles(tmp_path / "set.zip").images("images").values()
    with pytest.raises(ValueError, match=r"a\.png' of .* cannot be read: it has 2\.0 GB"):
        file.read()

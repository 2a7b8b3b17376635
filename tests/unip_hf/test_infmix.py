"""InfMix: shards, interrupted and resumed, and loading them."""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from PIL import Image

from unip_hf.data import load_id2label, load_infrared_dataset
from unip_hf.data.infmix import (
    InfMixSettings,
    InfMixSource,
    find_evaluation_sets,
    find_infmix_sources,
    load_infmix,
    prepare_infmix,
    read_sources_file,
    shards,
)
from unip_hf.data.infmix.candidates import list_candidates
from unip_hf.data.scenes_builder import InfraredScenes

from ..conftest import PATIENCE, wait_until
from .benchmark_archives import mfnet_files, write_files
from .infmix_sources import all_sources, names_of, picture, write, write_mix


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    return write_mix(tmp_path / "raw")


def content(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_shards_hold_each_image_once_in_mixed_order_with_the_numbers_that_are_reported(
    mix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = InfMixSettings(shortest_edge=32, image_format="png", images_per_shard=3, seed=5)
    report = prepare_infmix(all_sources(mix), tmp_path / "out", settings)
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert [file.name for file in files] == [f"train-{n:05d}-of-00016.parquet" for n in range(16)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "infmix.json", "data"}
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    named = [(row["source"], row["name"]) for row in rows]
    expected = [(source, name) for source, names in names_of(all_sources(mix)).items() for name in names]
    assert sorted(named) == sorted(expected) and named != expected and len(rows) == 30
    assert {"car/3.png", "boat/boat/3.png"} < {row["image"]["path"] for row in rows}  # as they are encoded now
    images = {name: np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for name, row in zip(named, rows)}
    assert all(image.ndim == 2 and min(image.shape) == 32 for image in images.values())
    unlimited = Image.fromarray(picture(4))
    np.testing.assert_array_equal(images["drone", "4.png"], np.asarray(unlimited.resize((45, 32), Image.BICUBIC)))
    pixels = np.concatenate([image.ravel() for image in images.values()]) / 255
    assert report.mean == pytest.approx(pixels.mean(), abs=1e-12) and report.std == pytest.approx(pixels.std())
    assert report.num_images == 30 and [row["kept"] for row in report.sources] == [8, 8, 4, 4, 6]
    assert "imagenet: 1 of 2 classes have fewer images" in str(report)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| total | 32 | 30 | 0 | 0 | 0 | 0 | 30 |" in card and "keeps its own licence" in card
    written = json.loads((tmp_path / "out" / "infmix.json").read_text())
    assert written["mean"] == report.mean and str(mix) not in json.dumps(written) + card

    again = prepare_infmix(all_sources(mix), tmp_path / "again", settings)
    assert again == report and content(tmp_path / "again") == content(tmp_path / "out")
    monkeypatch.setattr(shards, "ROWS_OF_GROUP", 3)
    other = prepare_infmix(all_sources(mix), tmp_path / "other", InfMixSettings(shortest_edge=32, image_format="png"))
    assert other.mean == report.mean and list(other.shards.values()) == [4, 4, 4, 4, 4, 4, 3, 3]
    files = sorted((tmp_path / "other" / "data").iterdir())
    assert [pq.read_metadata(file).num_row_groups for file in files] == [2, 2, 2, 2, 2, 2, 1, 1]
    reordered = [(row["source"], row["name"]) for file in files for row in pq.read_table(file).to_pylist()]
    assert sorted(reordered) == sorted(named) and reordered != named


def test_dark_damaged_and_repeated_images_and_those_of_evaluation_sets(mix: Path, tmp_path: Path) -> None:
    drone = mix / "infpre" / "drone" / "thermal"
    write(drone / "dark.png", np.full((40, 56), 20, dtype=np.uint8))
    write(drone / "repeated.png", picture(12, noise=1))  # of the car, which comes first
    write(mix / "test-set" / "5.jpg", picture(5, noise=1))
    (mix / "test-set" / "broken.jpg").write_bytes(b"")
    (drone / "broken.png").write_bytes((drone / "1.png").read_bytes()[:200])
    (mix / "sources.yaml").write_text("- {path: infpre/car}\n- {path: infpre/drone, minimum_brightness: 20}\n")
    sources = read_sources_file(mix / "sources.yaml")
    evaluation_sets = find_evaluation_sets([str(mix / "test-set")])
    with pytest.raises(ValueError, match=r"The image '.*broken\.jpg' cannot be used: .* add --skip_damaged"):
        prepare_infmix(sources, tmp_path / "out", InfMixSettings(remove_near_duplicates=True), evaluation_sets)
    settings = InfMixSettings(remove_near_duplicates=True, skip_damaged=True)
    report = prepare_infmix(sources, tmp_path / "out", settings, evaluation_sets)  # goes on
    car, second = report.sources
    assert (car["kept"], car["duplicate"]) == (8, 0)
    counts = {"found": 11, "taken": 11, "kept": 7, "too_dark": 1, "damaged": 1, "duplicate": 1, "in_evaluation_set": 1}
    assert second == {"name": "drone", **counts}
    assert report.evaluation_sets == [{"name": "test-set", "images": 2, "matches": 1, "damaged": 1}]
    assert "1 images of the evaluation set test-set cannot be read" in str(report)
    names = {
        row["name"] for row in datasets.Dataset.from_parquet(list(map(str, (tmp_path / "out").rglob("*.parquet"))))
    }
    assert names == {f"{n}.jpg" for n in range(8)} | {f"{n}.png" for n in range(8) if n != 5}
    with pytest.raises(ValueError, match="skip_damaged was True, is False"):
        prepare_infmix(sources, tmp_path / "out", InfMixSettings(remove_near_duplicates=True), evaluation_sets)
    # Without looking at the images first, the shards find what is dark or damaged.
    plain = prepare_infmix(sources, tmp_path / "plain", InfMixSettings(skip_damaged=True))
    assert {name: plain.sources[1][name] for name in counts} == {
        **counts, "kept": 9, "duplicate": 0, "in_evaluation_set": 0
    }  # fmt: skip


def test_evaluation_sets_by_name(mix: Path, tmp_path: Path) -> None:
    write(mix / "a" / "test" / "1.png", picture(1))
    for number in (1, 2):
        write(mix / "b" / "test" / f"{number}.png", picture(number))
    for kind in ("images", "masks"):
        write(mix / "labelled" / kind / "train" / "a.png", picture(60))
    write_files(mix / "mfnet.zip", mfnet_files())
    sources, settings = find_infmix_sources([mix / "infpre"]), InfMixSettings(skip_damaged=True)
    places = [str(mix / "a" / "test"), str(mix / "b" / "test"), f"mfnet={mix / 'mfnet.zip'}"]
    places.append(f"folder={mix / 'labelled'}")
    with pytest.raises(ValueError, match="--allow_partial"):
        prepare_infmix(sources, tmp_path / "out", settings, find_evaluation_sets(places))
    report = prepare_infmix(sources, tmp_path / "out", settings, find_evaluation_sets(places, allow_partial=True))
    found = [(row["name"], row["images"], row["matches"]) for row in report.evaluation_sets]
    assert found == [("test", 1, 1), ("test (2)", 2, 2), ("mfnet", 6, 0), ("folder", 1, 0)]
    # Four channels: read as plain images, none of them could be compared.
    images = write_files(mix / "mfnet", mfnet_files()) / "ir_seg_dataset" / "images"
    with pytest.raises(ValueError, match="No image of the evaluation set 'images' can be used"):
        prepare_infmix(sources, tmp_path / "b", settings, find_evaluation_sets([str(images)]))


def test_changed_scenes_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint(cache: str, seeds: range) -> str:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / cache)
        monkeypatch.setattr(InfraredScenes, "SEEDS", {"train": seeds, "test": range(50, 52)})
        _, counts = list_candidates([InfMixSource("scenes", dataset="scenes", split=None)])
        return counts[0].fingerprint

    first = fingerprint("a", range(3))
    assert fingerprint("b", range(3)) == first and fingerprint("c", range(1, 4)) != first


def test_changed_files_of_a_dataset_are_noticed_wherever_it_lies(mix: Path, tmp_path: Path) -> None:
    def prepare() -> None:
        prepare_infmix([InfMixSource("streets", dataset="folder", data_dir=str(mix / "labelled"))], tmp_path / "out")

    for kind in ("images", "masks"):
        write(mix / "labelled" / kind / "train" / "a.png", picture(0))
    prepare()
    (mix / "labelled").rename(mix / "elsewhere")
    (mix / "labelled").symlink_to(mix / "elsewhere")
    prepare()
    os.utime(mix / "labelled" / "images" / "train" / "a.png", (0, 0))
    with pytest.raises(ValueError, match="the files of streets have changed"):
        prepare()
    for kind in ("images", "masks"):
        write(mix / "labelled" / kind / "train" / "b.png", picture(1))
    source = InfMixSource("streets", dataset="folder", data_dir=str(mix / "labelled"))
    assert len(list_candidates([source])[0]) == 2


def test_a_damaged_member_of_an_archive_is_named(mix: Path, tmp_path: Path) -> None:
    data = bytearray((mix / "boat.zip").read_bytes())
    data[data.index(b"IDAT") + 20] ^= 255
    (mix / "boat.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"The member 'boat/0\.png' of .*boat\.zip' cannot be read"):
        prepare_infmix(find_infmix_sources([mix / "boat.zip"]), tmp_path / "out")
    assert (
        prepare_infmix(
            find_infmix_sources([mix / "boat.zip"]), tmp_path / "b", InfMixSettings(skip_damaged=True)
        ).num_images
        == 3
    )
    (mix / "infpre" / "car" / "thermal" / "0.jpg").unlink()
    (mix / "infpre" / "car" / "thermal" / "0.jpg").symlink_to(mix / "nowhere.jpg")
    with pytest.raises((ValueError, OSError), match=r"0\.jpg"):  # not damaged: gone, and never skipped
        prepare_infmix(find_infmix_sources([mix / "infpre"]), tmp_path / "c", InfMixSettings(skip_damaged=True))


def test_other_settings_and_other_files_are_refused(mix: Path, tmp_path: Path) -> None:
    out, sources = tmp_path / "out", find_infmix_sources([mix / "boat.zip"])
    first = prepare_infmix(sources, out)
    before = content(out)
    assert prepare_infmix(sources, out) == first and content(out) == before
    with pytest.raises(ValueError, match=r"holds another InfMix: quality was 90, is 80\. Choose another --output_dir"):
        prepare_infmix(sources, out, InfMixSettings(quality=80))
    with pytest.raises(ValueError, match="the sources were boat, are car, drone"):
        prepare_infmix(find_infmix_sources([mix / "infpre"]), out)
    with pytest.raises(ValueError, match="every of boat was 1, is 2"):
        prepare_infmix([InfMixSource("boat", str(mix / "boat.zip"), every=2)], out)
    time_of_archive = (mix / "boat.zip").stat().st_mtime_ns
    os.utime(mix / "boat.zip", (0, 0))
    with pytest.raises(ValueError, match="the files of boat have changed"):
        prepare_infmix(sources, out)
    assert content(out) == before
    (out / "data" / "train-00002-of-00004.parquet").unlink()
    os.utime(mix / "boat.zip", ns=(time_of_archive, time_of_archive))
    assert prepare_infmix(sources, out) == first and content(out) == before  # written again
    (out / "mine.txt").write_text("stays")
    report = prepare_infmix(sources, out, InfMixSettings(quality=80), overwrite=True)
    assert report.num_images == 4 and (out / "mine.txt").is_file() and len(content(out)) == 4 + 3
    with pytest.raises(ValueError, match="holds something other than InfMix"):
        prepare_infmix(sources, mix, overwrite=True)
    (tmp_path / "new" / "data" / ".incomplete-a").mkdir(parents=True)
    (tmp_path / "new" / "data" / ".incomplete-a" / "shard.parquet").touch()  # of a run that was killed
    prepare_infmix(sources, tmp_path / "new")
    assert content(tmp_path / "new") == before


@pytest.mark.slow
def test_a_killed_run_goes_on_and_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(96):
        write(tmp_path / "raw" / f"{number:03d}.jpg", picture(number, 500, 500))
    arguments = ["--infrared", str(tmp_path / "raw"), "--output_dir", str(tmp_path / "out"), "--num_workers", "2"]
    arguments += ["--images_per_shard", "6", "--remove_near_duplicates"]
    command = [sys.executable, "-m", "unip_hf.scripts.prepare_infmix", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    data = tmp_path / "out" / "data"
    wait_until(lambda: bool(list(data.glob("*.parquet"))) or process.poll() is not None, "the first shard")
    process.kill()
    process.communicate(timeout=PATIENCE)  # until its workers have ended as well
    assert not (tmp_path / "out" / "infmix.json").exists() and 0 < len(list(data.glob("*.parquet"))) < 16
    with pytest.raises(ValueError, match=r"unfinished\. Start `unip prepare-infmix` again"):
        load_infmix(tmp_path / "out")
    whole = {path: path.stat().st_mtime_ns for path in data.glob("*.parquet")}
    sources, settings = (
        find_infmix_sources([tmp_path / "raw"]),
        InfMixSettings(images_per_shard=6, remove_near_duplicates=True),
    )
    with monkeypatch.context() as patched:
        patched.delattr(shards, "perceptual_hash")  # all images were looked at before
        report = prepare_infmix(sources, tmp_path / "out", settings)
    assert all(path.stat().st_mtime_ns == time for path, time in whole.items())
    assert report == prepare_infmix(sources, tmp_path / "fresh", settings)
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_prepared_and_streamed_images_are_the_same(mix: Path, tmp_path: Path) -> None:
    write(mix / "infpre" / "car" / "thermal" / "deep.tif", np.arange(2000, 3920, dtype=np.uint16).reshape(40, 48))
    (mix / "sources.yaml").write_text("- {path: infpre/car}\n- {path: boat.zip}\n")
    settings = InfMixSettings(image_format="png", seed=3, shortest_edge=36)
    prepare_infmix(read_sources_file(mix / "sources.yaml"), tmp_path / "out", settings)
    prepared = load_infrared_dataset("infmix", tmp_path / "out", "train")
    assert prepared.column_names == ["image", "source", "name"] and len(prepared) == 13
    deep = next(row for row in prepared if row["name"] == "deep.tif")["image"]
    assert deep.mode == "I;16" and deep.size == (43, 36) and abs(np.asarray(deep, dtype=int)[0, 0] - 2000) < 50
    streamed = load_infrared_dataset("infmix", tmp_path / "out", "train", streaming=True)
    for expected, row in zip(prepared, streamed, strict=True):
        assert (row["source"], row["name"]) == (expected["source"], expected["name"])
        np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(expected["image"]))


def test_folders_that_do_not_hold_a_whole_infmix(mix: Path, tmp_path: Path) -> None:
    prepare_infmix(find_infmix_sources([mix / "boat.zip"]), tmp_path / "out")
    next((tmp_path / "out" / "data").iterdir()).unlink()
    with pytest.raises(ValueError, match="1 of 4 files of InfMix are missing"):
        load_infmix(tmp_path / "out")
    with pytest.raises(ValueError, match="does not hold InfMix"):
        load_infmix(mix)
    (mix / "sources.yaml").write_text("- {path: boat.zip}\n")
    with pytest.raises(ValueError, match=r"Run `unip prepare-infmix --sources .*sources\.yaml --output_dir"):
        load_infrared_dataset("infmix", mix / "sources.yaml")
    with pytest.raises(ValueError, match="no labelled dataset 'infmix'"):
        load_id2label("infmix")


def names_of_batch(rows: list[dict]) -> list[str]:
    return [row["source"] + row["name"] for row in rows]


def test_two_processes_of_two_workers_see_each_image_once(mix: Path, tmp_path: Path) -> None:
    prepare_infmix(all_sources(mix), tmp_path / "out")
    rows = load_infmix(tmp_path / "out", streaming=True)["train"]
    seen = []
    for rank in range(2):
        mine = split_dataset_by_node(rows, rank=rank, world_size=2)
        loader = torch.utils.data.DataLoader(mine, batch_size=4, num_workers=2, collate_fn=names_of_batch)
        seen.append([name for names in loader for name in names])
    assert len(seen[0]) == len(seen[1]) == 15 and len({*seen[0], *seen[1]}) == 30


def test_the_published_set_has_its_image_column_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    columns = {"jpg": datasets.Image(), "__key__": datasets.Value("string")}
    rows = datasets.Dataset.from_dict(
        {"jpg": [Image.new("L", (4, 4), 7)], "__key__": ["a"]}, datasets.Features(columns)
    )

    def load_dataset(path: str, streaming: bool = False, **options: object) -> object:
        asked.append(path)
        if streaming:
            return datasets.IterableDatasetDict({"train": rows.to_iterable_dataset()})
        return datasets.DatasetDict({"train": rows})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_infmix()["train"][0]["image"].getpixel((0, 0)) == 7
    assert next(iter(load_infmix(streaming=True)["train"]))["image"].size == (4, 4)
    assert asked == ["casiatao/InfMix"] * 2
    second = rows.rename_columns({"jpg": "png", "__key__": "key"})
    rows = datasets.concatenate_datasets([rows, second], axis=1)
    with pytest.raises(ValueError, match="has 2 columns of images among jpg, __key__, png"):
        load_infmix()


def test_the_published_set_without_network() -> None:
    with pytest.raises(OSError, match=r"The published InfMix, 'casiatao/InfMix' .* cannot be reached\. Go online"):
        load_infmix()

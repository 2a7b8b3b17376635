"""Benchmarks with files that are missing, damaged or in the wrong place give rows or sentences."""

import shutil

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unip_hf.data import load_infrared_dataset
from unip_hf.data.benchmarks import BENCHMARKS
from unip_hf.data.reading import read_sample, without_decoding

from ..nonsense import damaged, result_or_sentence
from .benchmark_archives import Files, mfnet_files, scut_files, soda_files, write_files
from .test_more_benchmarks import depth_files, paired_files


WHOLE = {
    "soda": soda_files,
    "mfnet": mfnet_files,
    "scut_seg": scut_files,
    "msrs": lambda: paired_files("MSRS"),
    "pst900": lambda: paired_files("PST900"),
    "fmb": lambda: paired_files("FMB"),
    "nyuv2_depth": depth_files,
    "sunrgbd_depth": lambda: depth_files(prefix="SUNRGBD/", labels="labels", classes=38),
}
OTHERS = sorted(WHOLE.keys() - {"mfnet", "pst900"})
TEXTS = [b"", b"\n\n", b"\xff\xfe", b"../../x\n", b"/etc/passwd\n", b"a\0b\n", b"00001D\n" * 3, b"x " * 500]


@st.composite
def changed(draw: st.DrawFn, files: Files) -> Files:
    files = dict(files)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(files)))
        kind = draw(st.sampled_from(["missing", "moved", "damaged", "of another", "copied", "text"]))
        folder, _, file = name.rpartition("/")
        if kind == "missing":
            del files[name]
        elif kind == "moved":
            files[f"{folder}/other/{file}"] = files.pop(name)
        elif kind == "damaged" and files[name]:
            files[name] = draw(damaged(files[name]))
        elif kind == "of another":
            files[name] = files[draw(st.sampled_from(sorted(files)))]
        elif kind == "copied":
            files[
                draw(st.sampled_from([f"second/{name}", f"{folder}/{file.upper()}", f"{folder}/copy of {file}"]))
            ] = files[name]
        else:
            files[name] = draw(st.sampled_from(TEXTS))
        if not files:
            break
    return files


@pytest.mark.parametrize("name", ["mfnet", "pst900", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
@given(st.data())
def test_a_changed_benchmark_gives_its_rows_or_a_sentence(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    files = data.draw(changed(WHOLE[name]()))
    home = tmp_path_factory.getbasetemp() / "changed"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    data_dir = write_files(home / data.draw(st.sampled_from(["set.zip", "set"])), files)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "cache")
        loaded = result_or_sentence(
            lambda: load_infrared_dataset(
                name, data_dir, streaming=data.draw(st.booleans()), allow_partial=data.draw(st.booleans())
            )
        )
    for rows in (without_decoding(loaded) if loaded is not None else {}).values():
        number = 0
        iterator = iter(rows)
        while (row := result_or_sentence(lambda: next(iterator, None))) is not None:  # noqa: B023
            assert row["image"]["bytes"] in files.values() or name == "mfnet"  # which has four channels in a file
            sample = result_or_sentence(lambda: read_sample(row, number))  # noqa: B023
            if sample is not None and row["annotation"] is not None:
                assert sample.ids.shape == sample.image.shape[:2]
                assert set(np.unique(sample.ids)) <= {*range(len(BENCHMARKS[name].CLASSES)), 255}
            number += 1

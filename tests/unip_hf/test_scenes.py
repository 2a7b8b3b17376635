"""Drawn scenes are seeded, radiometric and hold every class."""

from pathlib import Path

import datasets
import numpy as np
import pytest

from unip_hf.data import SCENE_CLASSES, draw_scene, draw_scene_pair, load_infrared_dataset


def test_scenes_are_seeded_radiometric_and_varied() -> None:
    scenes = [draw_scene(seed) for seed in range(12)]
    for again, first in zip(draw_scene(3), scenes[3]):
        np.testing.assert_array_equal(again, first)
    assert len({counts.tobytes() for counts, _ in scenes}) == 12
    assert len(SCENE_CLASSES) == 8
    for counts, ids in scenes:
        assert counts.dtype == np.uint16 and ids.dtype == np.uint8 and counts.shape == ids.shape == (256, 320)
        celsius = counts * 0.04 - 273.15
        assert celsius.min() > -60 and celsius.max() < 60
    counts, ids = (np.stack(parts) for parts in zip(*scenes))
    assert set(np.unique(ids)) == set(range(8))
    means = {name: counts[ids == index].mean() for index, name in enumerate(SCENE_CLASSES)}
    assert max(means, key=means.get) == "person" and min(means, key=means.get) == "sky"
    assert [part.shape for part in draw_scene(0, height=120, width=200)] == [(120, 200)] * 2


def test_pairs_show_the_same_street_and_hide_persons_from_one_camera_each() -> None:
    """By day persons are as warm as what is behind them; at night they are too dark to be seen."""
    person, nights = SCENE_CLASSES.index("person"), 0
    for seed in range(16):
        counts, visible, ids = draw_scene_pair(seed)
        alone, same_ids = draw_scene(seed)
        assert visible.shape == (256, 320, 3) and visible.dtype == np.uint8
        np.testing.assert_array_equal(ids, same_ids)
        is_night, is_person = np.median(visible) < 20, ids == person
        nights += is_night
        far = np.ones_like(is_person)  # from persons, which blur their neighbourhood
        for down in range(-3, 4):
            for right in range(-3, 4):
                far &= ~np.roll(is_person, (down, right), (0, 1))
        np.testing.assert_array_equal(counts[far], alone[far])
        changed = np.abs(counts.astype(int) - alone)[is_person].mean() * 0.04  # Kelvin
        assert changed == 0 if is_night else changed > 2
    assert 4 < nights < 12
    for again, first in zip(draw_scene_pair(3), draw_scene_pair(3)):
        np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("streaming", [False, True])
def test_pairs_are_a_configuration_of_the_scenes(
    streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unip_hf.data.scenes_builder import InfraredScenes

    monkeypatch.setattr(InfraredScenes, "SEEDS", {"train": range(3), "validation": range(3, 5)})
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    rows = load_infrared_dataset("scenes", split="train", config_name="both", streaming=streaming)
    row = next(iter(rows))
    assert list(row) == ["image", "rgb", "annotation"] and row["rgb"].mode == "RGB" and row["image"].mode == "I;16"
    np.testing.assert_array_equal(np.asarray(row["rgb"]), draw_scene_pair(0)[1])
    alone = next(iter(load_infrared_dataset("scenes", split="train", streaming=streaming)))
    assert list(alone) == ["image", "annotation"]
    np.testing.assert_array_equal(np.asarray(alone["image"]), draw_scene(0)[0])
    with pytest.raises(ValueError, match="'scenes' has no configuration 'rgb', only thermal, both"):
        load_infrared_dataset("scenes", config_name="rgb")
    with pytest.raises(ValueError, match="'scenes' cannot be partial"):
        load_infrared_dataset("scenes", allow_partial=True)

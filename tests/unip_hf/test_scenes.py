"""Drawn scenes are seeded, radiometric and hold every class."""

import numpy as np

from unip_hf.data import SCENE_CLASSES, draw_scene


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

# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""MFNet, street scenes by day and night in colour and thermal infrared."""

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from ..source_files import SourceFiles, read_names
from .base import BenchmarkConfig, InfraredBenchmark, Row
from .encoding import EncodedImage, encode_image, open_image


LISTS = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}


@dataclass
class MFNetConfig(BenchmarkConfig):
    """
    Args:
        time_of_day (`str`, *optional*): "day" or "night" for frames of that time only.
        use_black_list (`bool`): Whether to leave out the names in `black_list.txt`, which some copies of the dataset
            have.
    """

    time_of_day: str | None = None
    use_black_list: bool = False


class MFNet(InfraredBenchmark):
    """
    MFNet (Ha et al., IROS 2017): 784 frames for training, 392 for validation and 393 for testing, of 9 classes.

    Each published frame is a PNG of four channels: red, green, blue and thermal. Image programs show the thermal image
    as transparency. Here each frame is divided into 8-bit PNGs that hold the channels unchanged.

    The configurations "thermal" (column `image`), "rgb" (column `image`) and "both" (`image` is thermal, `rgb` the
    other) also exist for frames of one time of day, such as "thermal_day" and "thermal_night". Two kinds of frames are
    left out and counted: mirrored copies such as "00001D_flip.png", which the published code writes beside the frames,
    even if a list names them; and frames that no list names. Only the lists train.txt, val.txt and test.txt are read.
    """

    BUILDER_CONFIG_CLASS = MFNetConfig
    BUILDER_CONFIGS = [
        MFNetConfig(name=modality + (f"_{time}" if time else ""), modality=modality, time_of_day=time)
        for time in (None, "day", "night")
        for modality in ("thermal", "rgb", "both")
    ]
    DEFAULT_CONFIG_NAME = "thermal"

    NAME = "mfnet"
    TITLE = "MFNet"
    HOMEPAGE = "https://www.mi.t.u-tokyo.ac.jp/static/projects/mil_multispectral/"
    LICENSE = "not stated by the authors; for research"
    CITATION = """\
@inproceedings{ha2017mfnet,
  title     = {{MFNet}: Towards Real-Time Semantic Segmentation for Autonomous Vehicles with Multi-Spectral Scenes},
  author    = {Ha, Qishen and Watanabe, Kohei and Karasawa, Takumi and Ushiku, Yoshitaka and Harada, Tatsuya},
  booktitle = {IEEE/RSJ International Conference on Intelligent Robots and Systems (IROS)},
  pages     = {5108--5115},
  year      = {2017}
}"""
    LAYOUT = """\
  images/00001D.png  (four channels)
  labels/00001D.png
  train.txt  val.txt  test.txt  (also in splits/)
(known as ir_seg_dataset.zip)."""
    CLASSES = ("background", "car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump")
    PALETTE = (
        (0, 0, 0), (64, 0, 128), (64, 64, 0), (0, 128, 192), (0, 0, 192), (128, 128, 0), (64, 64, 128),
        (192, 128, 128), (192, 64, 0),
    )  # fmt: skip
    NUM_EXAMPLES = {"train": 784, "validation": 392, "test": 393}

    def find_rows(self, files: SourceFiles) -> dict[str, list[Row]]:
        images = self.find_images(files, "images")
        annotations = self.find_images(files, "labels", is_required=not self.config.allow_partial)
        splits, flips = {}, {name for name in images if name.endswith("_flip")}
        for split, list_name in LISTS.items():
            names = self.read_list(files, f"splits/{list_name}", list_name)
            if names is not None:
                listed_flips = {name for name in names if _stem(name).endswith("_flip")}
                flips.update(map(_stem, listed_flips))
                names = [name for name in names if name not in listed_flips]
                splits[split] = self.pair(names, images, annotations, rgb=images, source=list_name)
        self.leave_out("mirrored copies", sorted(flips))
        self.leave_out_unlisted((name for name in images if name not in flips), splits)
        return splits

    def select_rows(self, rows: list[Row], files: SourceFiles) -> list[Row]:
        if self.config.use_black_list:
            file = files.find_file("black_list.txt")
            if file is None:
                raise ValueError(f"{files.data_dir!r} has no black_list.txt. Do not set use_black_list.")
            black_list = set(map(_stem, read_names(file)))
            self.leave_out("frames of black_list.txt", (row.name for row in rows if row.name in black_list))
            rows = [row for row in rows if row.name not in black_list]
        if self.config.time_of_day is not None:
            letter = {"day": "D", "night": "N"}[self.config.time_of_day]
            rows = [row for row in rows if row.name.endswith(letter)]
        return rows

    def read_images(self, row: Row) -> dict[str, EncodedImage]:
        with open_image(row.image) as (_, opened):
            if opened.mode != "RGBA":
                raise ValueError(
                    f"{row.image.path!r} has the mode {opened.mode}, not the four channels red, green, blue and "
                    "thermal of the published frames. It may have been converted: download it again."
                )
            channels = np.asarray(opened)  # (H, W, 4), as stored: Pillow does not multiply by the fourth
        rgb, thermal = channels[..., :3], channels[..., 3]
        columns = {"thermal": {"image": thermal}, "rgb": {"image": rgb}, "both": {"image": thermal, "rgb": rgb}}
        name = PurePosixPath(row.image.name).name
        return {
            column: EncodedImage(name, encode_image(Image.fromarray(np.ascontiguousarray(array))), array.shape[:2])
            for column, array in columns[self.config.modality].items()
        }


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


__all__ = ["MFNet", "MFNetConfig"]

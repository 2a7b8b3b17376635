# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""SODA, thermal images of indoor and outdoor scenes."""

import re
from dataclasses import dataclass

from ..source_files import SourceFiles
from .base import BenchmarkConfig, InfraredBenchmark, Row


COPIES = re.compile(r"\(\d+\)$|~temp$")


@dataclass
class SODAConfig(BenchmarkConfig):
    """
    Args:
        annotation_folder (`str`): Name of the folder of masks.
    """

    annotation_folder: str = "SegmentationClassPNG"


class SODA(InfraredBenchmark):
    """
    The real images of SODA (Li et al., "Segmenting Objects in Day and Night", arXiv 1907.10303): 1,168 for training
    and 1,000 for testing, of 21 classes.

    Only what the lists name is read. All other images are left out and counted: the copies among the published files,
    such as "0012(1).jpg" and "0034~temp.png", and those that no list names, such as the synthetic images.

    The configurations "segmentation_class_png" and "segmentation_class_one" select one of the two folders of masks.
    """

    BUILDER_CONFIG_CLASS = SODAConfig
    BUILDER_CONFIGS = [
        SODAConfig(name="segmentation_class_png", description="Masks of SegmentationClassPNG."),
        SODAConfig(
            name="segmentation_class_one",
            description="Masks of SegmentationClassOne.",
            annotation_folder="SegmentationClassOne",
        ),
    ]
    DEFAULT_CONFIG_NAME = "segmentation_class_png"

    NAME = "soda"
    TITLE = "SODA"
    HOMEPAGE = "https://arxiv.org/abs/1907.10303"
    LICENSE = "not stated by the authors; for research"
    CITATION = """\
@article{li2021segmenting,
  title   = {Segmenting Objects in Day and Night: Edge-Conditioned {CNN} for Thermal Image Semantic Segmentation},
  author  = {Li, Chenglong and Xia, Wei and Yan, Yan and Luo, Bin and Tang, Jin},
  journal = {IEEE Transactions on Neural Networks and Learning Systems},
  volume  = {32},
  number  = {7},
  pages   = {3069--3082},
  year    = {2021}
}"""
    LAYOUT = """\
  JPEGImages/0001.jpg
  SegmentationClassPNG/0001.png  (or SegmentationClassOne)
  train_infrared.txt  test_infrared.txt
(known as InfraredSemanticLabel.zip)."""
    CLASSES = (
        "background", "person", "building", "tree", "road", "pole", "grass", "door", "table", "chair", "car",
        "bicycle", "lamp", "monitor", "trafficCone", "trash can", "animal", "fence", "sky", "river", "sidewalk",
    )  # fmt: skip
    NUM_EXAMPLES = {"train": 1168, "test": 1000}

    def find_rows(self, files: SourceFiles) -> dict[str, list[Row]]:
        images = self.find_images(files, "JPEGImages")
        folder = self.config.annotation_folder
        annotations = self.find_images(files, folder, is_required=not self.config.allow_partial)
        splits = {}
        for split in self.NUM_EXAMPLES:
            names = self.read_list(files, f"{split}_infrared.txt")
            if names is not None:
                splits[split] = self.pair(names, images, annotations, source=f"{split}_infrared.txt")
        self.leave_out_unlisted(sorted({*images, *annotations}), splits, COPIES)
        return splits


__all__ = ["SODA", "SODAConfig"]

# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""SCUT-Seg, thermal images of streets at night."""

from dataclasses import dataclass

from ..source_files import SourceFiles
from .base import BenchmarkConfig, InfraredBenchmark, Row


IMAGE_FOLDERS = ("images", "image", "imgs", "img", "thermal", "JPEGImages", "leftImg8bit")
ANNOTATION_FOLDERS = (
    "labels", "label", "masks", "mask", "annotations", "annotation", "SegmentationClassPNG", "SegmentationClass",
    "gtFine",
)  # fmt: skip
SPLIT_NAMES = {"train": ("train",), "validation": ("val", "validation")}


@dataclass
class SCUTSegConfig(BenchmarkConfig):
    """
    Args:
        has_class_ids (`bool`): Whether the masks hold class ids, 0 to 9, instead of the published ids.
    """

    has_class_ids: bool = False


class SCUTSeg(InfraredBenchmark):
    """
    SCUT-Seg (Xiong et al., "MCNet", 2021): 1,345 images for training and 665 for validation, of 10 classes.

    Published masks hold ids as in Cityscapes. The configuration "raw" maps them to class ids, and "converted" expects
    class ids. Which of the two a folder holds is never guessed: an id that does not fit the configuration is an error.

    Images are in a folder `images`, `image`, `imgs`, `img`, `thermal`, `JPEGImages` or `leftImg8bit`, masks of the
    same names in `labels`, `label`, `masks`, `mask`, `annotations`, `annotation`, `SegmentationClassPNG`,
    `SegmentationClass` or `gtFine`. Splits are folders in these or around them, `images/train` or `train/images`, or
    the lists train.txt and val.txt. Images that no list names are left out and counted.
    """

    BUILDER_CONFIG_CLASS = SCUTSegConfig
    BUILDER_CONFIGS = [
        SCUTSegConfig(name="raw", description="Masks as published."),
        SCUTSegConfig(name="converted", description="Masks that hold class ids already.", has_class_ids=True),
    ]
    DEFAULT_CONFIG_NAME = "raw"

    NAME = "scut-seg"
    TITLE = "SCUT-Seg"
    HOMEPAGE = "https://doi.org/10.1016/j.infrared.2020.103628"
    LICENSE = "not stated by the authors; for research"
    CITATION = """\
@article{xiong2021mcnet,
  title   = {{MCNet}: Multi-Level Correction Network for Thermal Image Semantic Segmentation of Nighttime Driving
             Scene},
  author  = {Xiong, Haitao and Cai, Wenjie and Liu, Qiong},
  journal = {Infrared Physics \\& Technology},
  volume  = {113},
  pages   = {103628},
  year    = {2021}
}"""
    LAYOUT = """\
  images/a.jpg  labels/a.png  train.txt  val.txt
or
  images/train/a.jpg  labels/train/a.png  (and val)
or
  train/images/a.jpg  train/labels/a.png  (and val)."""
    CLASSES = ("background", "road", "person", "rider", "car", "truck", "fence", "tree", "bus", "pole")
    PALETTE = (  # of Cityscapes
        (0, 0, 0), (128, 64, 128), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (190, 153, 153),
        (107, 142, 35), (0, 60, 100), (153, 153, 153),
    )  # fmt: skip
    NUM_EXAMPLES = {"train": 1345, "validation": 665}
    IDS = {id: class_id for class_id, id in enumerate((0, 7, 24, 25, 26, 27, 13, 21, 28, 17))}
    ID_HINT = (
        'The configuration "raw" is for masks with the ids as published, "converted" for masks with class ids, 0 to 9.'
    )

    def find_rows(self, files: SourceFiles) -> dict[str, list[Row]]:
        if files.find_folder(*_folders("train", IMAGE_FOLDERS)) is not None:
            splits = {}
            for split, names in SPLIT_NAMES.items():
                image_folders = [folder for name in names for folder in _folders(name, IMAGE_FOLDERS)]
                annotation_folders = [folder for name in names for folder in _folders(name, ANNOTATION_FOLDERS)]
                splits[split] = self.pair_folders(files, f"the folder {split!r}", image_folders, annotation_folders)
            return splits
        images = self.find_images(files, *IMAGE_FOLDERS)
        annotations = self.find_images(files, *ANNOTATION_FOLDERS, is_required=not self.config.allow_partial)
        splits = {}
        for split, names in SPLIT_NAMES.items():
            lists = [f"{name}.txt" for name in names]
            listed = self.read_list(files, *lists)
            if listed is not None:
                splits[split] = self.pair(listed, images, annotations, source=lists[0])
        self.leave_out_unlisted(images, splits)
        return splits

    def id_table(self) -> dict[int, int]:
        return {id: id for id in range(len(self.CLASSES))} if self.config.has_class_ids else self.IDS


def _folders(split: str, folders: tuple[str, ...]) -> list[str]:
    return [path for folder in folders for path in (f"{folder}/{split}", f"{split}/{folder}")]


__all__ = ["SCUTSeg", "SCUTSegConfig"]

# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Indoor benchmarks of depth images, in the form that code for RGB-D segmentation uses."""

import os
from typing import Any

import numpy as np

from ..reading import IGNORE_INDEX
from ..source_files import SourceFile, SourceFiles
from .base import BenchmarkConfig, InfraredBenchmark, Row


NYU_40_CLASSES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books",
    "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand",
    "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
)  # fmt: skip
RGB_FOLDERS, DEPTH_FOLDERS = ("RGB",), ("Depth",)
LABEL_FOLDERS = ("Label", "Labels", "Lable_single_channel")  # the last as the published configuration spells it


class DepthBenchmark(InfraredBenchmark):
    """
    Folders of visible images, depth images and masks, with lists of the names in each split.

    Configurations:

    - `depth` (default): the column `image` is the depth image. The visible images are not needed.
    - `rgb`: `image` is the visible image. The depth images are not needed.
    - `both`: `image` is the depth image, and a further column `rgb` the visible one.

    Depth images of 8 or 16 bits, with one channel or three, stay as they are.

    The lists are `train.txt` and `test.txt` or, as in the published configurations, `train_depth.txt` and
    `test_depth.txt`. A line names an image in any of the usual forms: `0`, `0.jpg`, `RGB/0.jpg`,
    `RGB/0.jpg Label/0.png`. Images that no list names are left out.

    Masks hold 0 for background and the classes from 1 on. A mask that holds both 0 and 255 raises a `ValueError`,
    because 1 has probably been subtracted from all of its ids.
    """

    BUILDER_CONFIGS = [BenchmarkConfig(name=modality, modality=modality) for modality in ("depth", "rgb", "both")]
    DEFAULT_CONFIG_NAME = "depth"
    ID_HINT = "Masks that hold the hundreds of raw labels must be mapped to these classes first."

    def __init__(self, *args: Any, data_dir: str | os.PathLike | None = None, **kwargs: Any):
        if data_dir is not None and os.fspath(data_dir).lower().endswith(".mat"):
            raise ValueError(self._is_matlab(os.fspath(data_dir)))
        super().__init__(*args, data_dir=data_dir, **kwargs)

    def find_rows(self, files: SourceFiles) -> dict[str, list[Row]]:
        is_whole, modality = not self.config.allow_partial, self.config.modality
        matlab_files = [name for name in files.names if name.lower().endswith(".mat")]
        if matlab_files and files.find_folder(*RGB_FOLDERS) is None:
            raise ValueError(self._is_matlab(matlab_files[0]))
        depth = self.find_images(files, *DEPTH_FOLDERS, is_required=modality != "rgb")
        rgb = self.find_images(files, *RGB_FOLDERS, is_required=modality != "depth")
        annotations = self.find_images(files, *LABEL_FOLDERS, is_required=is_whole)
        splits = {}
        for split in self.NUM_EXAMPLES:
            lists = (f"{split}.txt", f"{split}_depth.txt")
            names = self.read_list(files, *lists)
            if names is not None:
                source = next(name for name in lists if files.find_file(name) is not None)
                splits[split] = self.pair(names, depth, annotations, rgb, source)
        if not splits:
            raise ValueError(f"{files.data_dir!r} has no list that says which images are in which split.")
        self.leave_out_unlisted(rgb if modality == "rgb" else depth, splits)
        return splits

    def _read_ids(self, file: SourceFile) -> np.ndarray:
        ids = super()._read_ids(file)
        if {0, IGNORE_INDEX} <= set(np.unique(ids).tolist()):
            raise ValueError(
                f"The mask {file.path!r} holds both 0 and {IGNORE_INDEX}, as if 1 had been subtracted from all ids. "
                f'Add 1 again: 0 must be "{self.CLASSES[0]}", and 1 "{self.CLASSES[1]}".'
            )
        return ids

    def _is_matlab(self, name: str) -> str:
        return (
            f"{name!r} is a MATLAB file, which is not supported. First export images, depth images and masks with "
            f"the ids of the {len(self.CLASSES) - 1} classes as image files. {self._layout()}"
        )


class NYUv2Depth(DepthBenchmark):
    """
    Rooms, with depth from a Kinect: 795 train and 654 test, 640x480 pixels, 40 classes and background. The 40 classes
    are those of Gupta et al., "Perceptual Organization and Recognition of Indoor Scenes from RGB-D Images",
    CVPR 2013.
    """

    NAME = "nyuv2-depth"
    TITLE = "NYU Depth V2"
    HOMEPAGE = "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html"
    LICENSE = "see the homepage"
    CITATION = """\
@inproceedings{silberman2012indoor,
  title={Indoor Segmentation and Support Inference from {RGBD} Images},
  author={Silberman, Nathan and Hoiem, Derek and Kohli, Pushmeet and Fergus, Rob},
  booktitle={European Conference on Computer Vision (ECCV)},
  pages={746--760},
  year={2012}
}"""
    LAYOUT = """\
  NYUDepthv2/RGB/0.jpg  NYUDepthv2/Depth/0.png  NYUDepthv2/Label/0.png  (or Labels, or
  Lable_single_channel; 0 background, 1 to 40 classes)
  NYUDepthv2/train.txt  NYUDepthv2/test.txt  (or train_depth.txt, test_depth.txt)"""
    CLASSES = ("background", *NYU_40_CLASSES)
    NUM_EXAMPLES = {"train": 795, "test": 654}


class SUNRGBDDepth(DepthBenchmark):
    """
    Rooms, with depth from four kinds of cameras: 5,285 train and 5,050 test of many sizes, 37 classes and background.
    The 37 classes are the first 37 of the 40 of NYU Depth V2.
    """

    NAME = "sun-rgbd-depth"
    TITLE = "SUN RGB-D"
    HOMEPAGE = "https://rgbd.cs.princeton.edu"
    LICENSE = "see the homepage"
    CITATION = """\
@inproceedings{song2015sun,
  title={{SUN} {RGB-D}: A {RGB-D} Scene Understanding Benchmark Suite},
  author={Song, Shuran and Lichtenberg, Samuel P. and Xiao, Jianxiong},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages={567--576},
  year={2015}
}"""
    LAYOUT = """\
  SUNRGBD/RGB/0.jpg  SUNRGBD/Depth/0.png  SUNRGBD/labels/0.png  (0 background, 1 to 37 classes)
  SUNRGBD/train.txt  SUNRGBD/test.txt  (or train_depth.txt, test_depth.txt)"""
    CLASSES = ("background", *NYU_40_CLASSES[:37])
    NUM_EXAMPLES = {"train": 5285, "test": 5050}


__all__ = ["DepthBenchmark", "NYUv2Depth", "SUNRGBDDepth"]

# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Benchmarks with thermal and visible images of the same scenes in parallel folders for each split."""

from ..source_files import SourceFiles
from .base import BenchmarkConfig, InfraredBenchmark, Row
from .mfnet import MFNet


class PairedBenchmark(InfraredBenchmark):
    """
    Files of the same name in the folders `<split>/<thermal>`, `<split>/<rgb>` and `<split>/<annotations>`.

    Configurations:

    - `thermal` (default): the column `image` is the thermal image. The visible images are not needed.
    - `rgb`: `image` is the visible image. The thermal images are not needed.
    - `both`: `image` is the thermal image, and a further column `rgb` the visible one.

    A file without a partner raises a `ValueError` that names it. With `allow_partial`, it is left out instead.
    """

    BUILDER_CONFIGS = [BenchmarkConfig(name=modality, modality=modality) for modality in ("thermal", "rgb", "both")]
    DEFAULT_CONFIG_NAME = "thermal"

    # Names of the folders, which a subclass states.
    THERMAL: str
    RGB: str
    ANNOTATIONS: str

    def find_rows(self, files: SourceFiles) -> dict[str, list[Row]]:
        splits = {}
        for split in self.NUM_EXAMPLES:
            folders = ([f"{split}/{folder}"] for folder in (self.THERMAL, self.ANNOTATIONS, self.RGB))
            splits[split] = self.pair_folders(files, f"the folder {split!r}", *folders)
        return splits


class MSRS(PairedBenchmark):
    """
    Road scenes by day ("D" at the end of the name) and by night ("N"). They are a selection from MFNet with its
    classes, and thermal images of higher contrast: 8-bit, 640x480 pixels, 1,083 train and 361 test.
    """

    NAME = "msrs"
    TITLE = "MSRS (multi-spectral road scenarios)"
    HOMEPAGE = "https://github.com/Linfeng-Tang/MSRS"
    LICENSE = "see the homepage"
    CITATION = """\
@article{tang2022piafusion,
  title={{PIAFusion}: A progressive infrared and visible image fusion network based on illumination aware},
  author={Tang, Linfeng and Yuan, Jiteng and Zhang, Hao and Jiang, Xingyu and Ma, Jiayi},
  journal={Information Fusion},
  volume={83--84},
  pages={79--92},
  year={2022}
}"""
    LAYOUT = """\
  MSRS/train/ir/00001D.png  MSRS/train/vi/00001D.png  MSRS/train/Segmentation_labels/00001D.png
  MSRS/test/...             (likewise; the outer folder may have any name, such as MSRS-main)"""
    CLASSES = MFNet.CLASSES
    PALETTE = MFNet.PALETTE
    NUM_EXAMPLES = {"train": 1083, "test": 361}
    THERMAL, RGB, ANNOTATIONS = "ir", "vi", "Segmentation_labels"


class PST900(PairedBenchmark):
    """
    Tunnels and caves, recorded by robots that search for four kinds of objects (DARPA Subterranean Challenge).
    1280x720 pixels.

    Besides the configurations of all paired benchmarks there is `thermal_raw`, whose `image` is the 16-bit thermal
    image from the folders `thermal_raw`.

    The paper counts 894 pairs, 597 train and 297 test. Other publications count 288 test, and a test split of that
    size is accepted, too.
    """

    NAME = "pst900"
    TITLE = "PST900 (Penn subterranean thermal 900)"
    HOMEPAGE = "https://github.com/ShreyasSkandanS/pst900_thermal_rgb"
    LICENSE = "see the homepage"
    CITATION = """\
@inproceedings{shivakumar2020pst900,
  title={{PST900}: {RGB}-Thermal Calibration, Dataset and Segmentation Network},
  author={Shivakumar, Shreyas S. and Rodrigues, Neil and Zhou, Alex and Miller, Ian D. and Kumar, Vijay and
          Taylor, Camillo J.},
  booktitle={IEEE International Conference on Robotics and Automation (ICRA)},
  pages={9441--9447},
  year={2020}
}"""
    LAYOUT = """\
  PST900_RGBT_Dataset/train/thermal/*.png  (and thermal_raw/*.png, of 16 bits, for the configuration thermal_raw)
  PST900_RGBT_Dataset/train/rgb/*.png
  PST900_RGBT_Dataset/train/labels/*.png
  PST900_RGBT_Dataset/test/...             (likewise)"""
    CLASSES = ("background", "fire-extinguisher", "backpack", "hand-drill", "survivor")
    PALETTE = ((0, 0, 0), (0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255))
    NUM_EXAMPLES = {"train": 597, "test": 297}
    THERMAL, RGB, ANNOTATIONS = "thermal", "rgb", "labels"
    BUILDER_CONFIGS = [*PairedBenchmark.BUILDER_CONFIGS, BenchmarkConfig(name="thermal_raw", modality="thermal")]

    def find_rows(self, files: SourceFiles) -> dict[str, list[Row]]:
        if self.config.name == "thermal_raw":
            self.THERMAL = "thermal_raw"
        splits = super().find_rows(files)
        if len(splits["test"]) == 288:
            self.NUM_EXAMPLES = {**self.NUM_EXAMPLES, "test": 288}
        return splits


class FMB(PairedBenchmark):
    """
    Roads in all weathers, by day and by night, 800x600 pixels, 1,220 train and 280 test. The paper names 14 classes.
    The masks hold id 0 where there is none of them, which is the class "background" here.
    """

    NAME = "fmb"
    TITLE = "FMB (full-time multi-modality benchmark)"
    HOMEPAGE = "https://github.com/JinyuanLiu-CV/SegMiF"
    LICENSE = "see the homepage"
    CITATION = """\
@inproceedings{liu2023segmif,
  title={Multi-interactive Feature Learning and a Full-time Multi-modality Benchmark for Image Fusion and
         Segmentation},
  author={Liu, Jinyuan and Liu, Zhu and Wu, Guanyao and Ma, Long and Liu, Risheng and Zhong, Wei and Luo, Zhongxuan and
          Fan, Xin},
  booktitle={IEEE/CVF International Conference on Computer Vision (ICCV)},
  pages={8115--8124},
  year={2023}
}"""
    LAYOUT = """\
  FMB/train/Infrared/00000.png  FMB/train/Visible/00000.png  FMB/train/Label/00000.png
  FMB/test/...                  (likewise)"""
    CLASSES = (
        "background", "road", "sidewalk", "building", "traffic lamp", "traffic sign", "vegetation", "sky", "person",
        "car", "truck", "bus", "motorcycle", "bicycle", "pole",
    )  # fmt: skip
    NUM_EXAMPLES = {"train": 1220, "test": 280}
    THERMAL, RGB, ANNOTATIONS = "Infrared", "Visible", "Label"


__all__ = ["FMB", "MSRS", "PST900", "PairedBenchmark"]

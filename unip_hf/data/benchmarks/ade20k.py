# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""ADE20K, the benchmark in visible light with which the infrared ones are compared."""

from ..reading import IGNORE_INDEX
from ..source_files import SourceFiles
from .base import BenchmarkConfig, InfraredBenchmark, Row


class ADE20K(InfraredBenchmark):
    """
    Photographs of scenes of every kind in 150 classes, of many sizes: 20,210 train and 2,000 validation, as released
    for the scene parsing challenge of 2016. (The full ADE20K of thousands of classes has another layout.)

    The column `image` is the photograph as it is. In the files, the classes have the ids 1 to 150, and 0 belongs to
    none of them. As is usual, 1 is subtracted from the ids, and 0 becomes 255 (ignore).
    """

    NAME = "ade20k"
    TITLE = "ADE20K (scene parsing challenge, 150 classes)"
    HOMEPAGE = "https://groups.csail.mit.edu/vision/datasets/ADE20K"
    LICENSE = "images for non-commercial research and education only, annotations BSD-3-Clause; see the homepage"
    CITATION = """\
@inproceedings{zhou2017scene,
  title={Scene Parsing through {ADE20K} Dataset},
  author={Zhou, Bolei and Zhao, Hang and Puig, Xavier and Fidler, Sanja and Barriuso, Adela and Torralba, Antonio},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages={633--641},
  year={2017}
}"""
    LAYOUT = """\
  ADEChallengeData2016/images/training/ADE_train_00000001.jpg
  ADEChallengeData2016/annotations/training/ADE_train_00000001.png
  ADEChallengeData2016/images/validation/...  ADEChallengeData2016/annotations/validation/..."""
    CLASSES = (
        "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet",
        "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water",
        "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk",
        "rock", "wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box", "column", "signboard",
        "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand",
        "path", "stairs", "runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge",
        "bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove",
        "palm", "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus",
        "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth", "television receiver",
        "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle", "buffet",
        "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything",
        "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven",
        "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher",
        "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier",
        "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
    )  # fmt: skip
    NUM_EXAMPLES = {"train": 20210, "validation": 2000}
    IDS = {0: IGNORE_INDEX, **{id: id - 1 for id in range(1, 151)}}
    BUILDER_CONFIGS = [BenchmarkConfig(name="rgb", modality="rgb")]
    DEFAULT_CONFIG_NAME = "rgb"

    def find_rows(self, files: SourceFiles) -> dict[str, list[Row]]:
        return {
            split: self.pair_folders(
                files, f"the folder {folder!r}", [], [f"annotations/{folder}"], [f"images/{folder}"]
            )
            for split, folder in {"train": "training", "validation": "validation"}.items()
        }


__all__ = ["ADE20K"]

# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Published benchmarks, read from the files that their authors distribute."""

from .ade20k import ADE20K
from .base import BenchmarkConfig, InfraredBenchmark, Row
from .depth import NYUv2Depth, SUNRGBDDepth
from .mfnet import MFNet
from .paired import FMB, MSRS, PST900
from .scut_seg import SCUTSeg
from .soda import SODA


BENCHMARKS: dict[str, type[InfraredBenchmark]] = {
    "soda": SODA,
    "mfnet": MFNet,
    "scut-seg": SCUTSeg,
    "msrs": MSRS,
    "pst900": PST900,
    "fmb": FMB,
    "nyuv2-depth": NYUv2Depth,
    "sun-rgbd-depth": SUNRGBDDepth,
    "ade20k": ADE20K,
}

__all__ = ["BENCHMARKS", "BenchmarkConfig", "InfraredBenchmark", "Row"]

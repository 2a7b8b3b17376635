# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Published benchmarks, read from the files that their authors distribute. A class with a `NAME` that is imported here is
a data set of that name.
"""
# ruff: noqa: F401

from .ade20k import ADE20K
from .base import BenchmarkConfig, InfraredBenchmark, Row
from .depth import NYUv2Depth, SUNRGBDDepth
from .mfnet import MFNet
from .paired import FMB, MSRS, PST900
from .scut_seg import SCUTSeg
from .soda import SODA


BENCHMARKS: dict[str, type[InfraredBenchmark]] = {
    value.NAME: value for value in list(globals().values()) if hasattr(value, "NAME")
}

__all__ = ["BENCHMARKS", "BenchmarkConfig", "InfraredBenchmark", "Row"]

# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Published benchmarks, read from the files that their authors distribute."""

from .ade20k import ADE20K
from .base import BenchmarkConfig, InfraredBenchmark, Row
from .depth import NYUv2Depth, SUNRGBDDepth
from .mfnet import MFNet
from .paired import FMB, MSRS, PST900
from .scut_seg import SCUTSeg
from .soda import SODA


ALL = (SODA, MFNet, SCUTSeg, MSRS, PST900, FMB, NYUv2Depth, SUNRGBDDepth, ADE20K)
BENCHMARKS: dict[str, type[InfraredBenchmark]] = {benchmark.NAME: benchmark for benchmark in ALL}

__all__ = ["BENCHMARKS", "BenchmarkConfig", "InfraredBenchmark", "Row"]

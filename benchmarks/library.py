# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The import, the image processor, attention, and the mean-IoU metric, beside what they are compared with."""

import json
import statistics
import subprocess
import sys

from .measuring import median_milliseconds, row


def measure_import(repeats: int) -> None:
    code = """
import json, resource, sys, time
def state(): return time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = state(); import transformers; between = state(); import unip_hf; after = state()
unit = 1024 ** (2 if sys.platform == "darwin" else 1)
print(json.dumps([between[0] - before[0], after[0] - between[0], between[1] / unit, (after[1] - between[1]) / unit]))
"""
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", code])) for _ in range(repeats)]
    theirs, ours, their_memory, our_memory = (statistics.median(column) for column in zip(*runs))
    print("import unip_hf, on top of import transformers")
    row("time", 1000 * ours, 1000 * theirs, "ms")
    row("memory", our_memory, their_memory, "MB")


def measure_processor(repeats: int) -> None:
    import numpy as np
    from transformers import SegformerImageProcessor

    from unip_hf import UnipImageProcessor

    random = np.random.default_rng(0)
    eight_bit = random.integers(0, 256, (512, 640, 3), dtype=np.uint8)
    counts = random.integers(6743, 7077, (512, 640), dtype=np.uint16)
    size = {"height": 512, "width": 512}
    ours, stock = UnipImageProcessor(size=size), SegformerImageProcessor(size=size)
    calls = [
        lambda: ours(eight_bit, return_tensors="pt", input_data_format="channels_last"),
        lambda: ours(counts, return_tensors="pt"),
        lambda: stock(eight_bit, return_tensors="pt"),
    ]
    colour, sixteen_bit, theirs = median_milliseconds(calls, repeats)
    print("UnipImageProcessor beside SegformerImageProcessor, 640x512 to 512x512")
    row("8-bit, 3 channels, both", colour, theirs, "ms")
    row("16-bit, percentiles (the other takes 8-bit only)", sixteen_bit, theirs, "ms")


def measure_attention(repeats: int) -> None:
    import torch

    from unip_hf import UnipConfig, UnipForSemanticSegmentation

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = UnipConfig.from_size("tiny", num_labels=21, image_size=512, layer_scale_init_value=1.0)
    model = UnipForSemanticSegmentation(config).eval().to(device)
    pixel_values = torch.randn(1, 3, 512, 512, device=device)

    def run(implementation: str) -> None:
        model.set_attn_implementation(implementation)
        with torch.inference_mode():
            model(pixel_values)
        if device == "cuda":
            torch.cuda.synchronize()

    ours, theirs = median_milliseconds([lambda: run("sdpa"), lambda: run("eager")], repeats)
    print(f"UNIP-Tiny segmentation at 512x512 on {device}, sdpa beside eager attention")
    row("forward, batch 1", ours, theirs, "ms")


def measure_metric(repeats: int) -> None:
    import tempfile
    import tracemalloc

    import datasets
    import evaluate
    import numpy as np

    from unip_hf.evaluation import MeanIoU

    classes, maps = 9, 100

    class StockMeanIoU(evaluate.Metric):
        """What `mean_iou` of the `evaluate` project computes. It keeps every map. The Hub is not asked for it."""

        def _info(self) -> evaluate.MetricInfo:
            ids = datasets.Sequence(datasets.Sequence(datasets.Value("uint16")))
            features = datasets.Features({"predictions": ids, "references": ids})
            return evaluate.MetricInfo(description="", citation="", features=features)

        def _compute(self, predictions: list, references: list) -> dict[str, float]:
            totals = np.zeros((3, classes))
            for predicted, true in zip(predictions, references):
                predicted, true = np.array(predicted), np.array(true)
                is_labelled = true != 255
                predicted, true = predicted[is_labelled], true[is_labelled]
                for total, ids in zip(totals, (predicted[predicted == true], predicted, true)):
                    total += np.histogram(ids, bins=classes, range=(0, classes - 1))[0]
            return {"mean_iou": float(np.nanmean(totals[0] / (totals[1] + totals[2] - totals[0])))}

    random = np.random.default_rng(0)
    predictions = random.integers(0, classes, (maps, 480, 640))
    references = np.where(random.random((maps, 480, 640)) < 0.1, 255, random.integers(0, classes, (maps, 480, 640)))
    scores = {}
    with tempfile.TemporaryDirectory() as folder:

        def run(metric: evaluate.Metric, number: int) -> None:
            for first in range(0, number, 10):
                metric.add_batch(
                    predictions=predictions[first : first + 10], references=references[first : first + 10]
                )
            scores[type(metric)] = metric.compute()["mean_iou"]

        def peak(metric: evaluate.Metric) -> float:
            tracemalloc.start()
            run(metric, maps)
            memory = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return memory / 2**20

        ours, stock = MeanIoU(classes), StockMeanIoU(cache_dir=folder)
        times = median_milliseconds([lambda: run(ours, maps), lambda: run(stock, maps)], repeats)
        memory = [peak(ours), peak(stock)]
    if abs(scores[MeanIoU] - scores[StockMeanIoU]) > 1e-12:
        raise RuntimeError(f"The two metrics differ: {scores}.")
    print(
        f"MeanIoU beside mean_iou of evaluate, {maps} int64 maps of 480x640, {classes} classes, adding and computing"
    )
    row("time for each map", times[0] / maps, times[1] / maps, "ms")
    row("peak memory beside the maps themselves", memory[0], memory[1], "MB")

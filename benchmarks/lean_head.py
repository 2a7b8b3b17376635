# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What narrower heads cost (`unip finetune --decoder_channels`), beside the paper's, as wide as the encoder."""

import statistics
from collections.abc import Sequence
from typing import Any

from .measuring import DTYPES, median_ratio, seconds_side_by_side
from .networks import make_unip, prepare
from .segmentation import draw_images


WIDTHS = (384, 256, 128, 64)


def measure_lean_head(
    repeats: int, device: str, sizes: Sequence[str] = ("tiny", "small", "base"), side: int = 512
) -> dict[str, Any]:
    """
    Prints parameters, operations, time and memory of one image for each width that is not above the paper's: in fp32
    on a CPU, in bf16 on a GPU.

    Returns:
        `{"heads": [...]}`, one dictionary for each row; `ratio` is how many times as fast as with the paper's width.
    """
    dtype, repeats = ("bf16", repeats) if device == "cuda" else ("fp32", min(repeats, 3))
    pixel_values = draw_images(1, side, side).to(device, DTYPES[dtype])
    found: list[dict[str, Any]] = []
    print(f"heads of several widths, 1 image of {side}x{side}, {dtype} on {device}, beside the paper's width")
    print(f"  {'':<12}{'decoder_channels':>16}{'M parameters':>14}{'GFLOP':>8}{'ms':>9}{'ratio':>7}{'MB':>7}")
    for size in sizes:
        paper = make_unip(size).config.hidden_size
        rows: list[dict[str, Any]] = []
        runs = []
        for channels in (paper, *(width for width in WIDTHS if width < paper)):
            model = make_unip(size, decoder_channels=channels)
            parameters = sum(parameter.numel() for parameter in model.parameters())
            run, gflop, megabytes = prepare(model, pixel_values)
            runs.append(run)
            row = {"size": size, "decoder_channels": channels, "parameters": parameters, "gflop": gflop}
            rows.append({**row, "peak_megabytes": megabytes})
        times = seconds_side_by_side(runs, repeats)
        for row, seconds in zip(rows, times):
            row |= {"seconds": seconds, "ratio": median_ratio(seconds, times[0])}
            print(
                f"  {f'UNIP-{size.capitalize()}':<12}{row['decoder_channels']:16d}{row['parameters'] / 1e6:14.1f}"
                f"{row['gflop']:8.1f}{1000 * statistics.median(seconds):9.1f}{row['ratio']:7.2f}"
                f"{row['peak_megabytes']:7.0f}",
                flush=True,
            )
        found += rows
    return {"heads": found}

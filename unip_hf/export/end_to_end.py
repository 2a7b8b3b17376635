# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Image processor and segmentation model as one graph: raw frames in, class ids out."""

import math

import torch
from torch import nn

from ..modeling.image_processing_unip import RESAMPLING_MODES, UnipImageProcessor


class EndToEndSegmentation(nn.Module):
    """
    What `segment_image` computes for a whole image, for frames of one size and dtype, written so that every operation
    can be exported.

    Args:
        model: Semantic segmentation model whose output has `logits`.
        processor: Its image processor.
        frame_size: Height and width of the frames in pixels.
        frame_dtype: `torch.uint8` or `torch.uint16`.
    """

    def __init__(
        self, model: nn.Module, processor: UnipImageProcessor, frame_size: tuple[int, int], frame_dtype: torch.dtype
    ):
        super().__init__()
        self.model = model
        self.processor = processor
        self.frame_size = frame_size
        self.scaling = processor.intensity_scaling or ("dtype_range" if frame_dtype == torch.uint8 else "percentiles")
        self.highest = torch.iinfo(frame_dtype).max
        self.processed_size = processor.output_size(*frame_size)
        mode = RESAMPLING_MODES[processor.resample]

        # Resizing is linear, and the same in each row and each column: two matrices, got by resizing unit vectors.
        def weights(size: int, new_size: int) -> torch.Tensor:
            units = torch.eye(size)[None, None]
            antialias = processor.antialias and mode != "nearest-exact"
            return nn.functional.interpolate(units, (new_size, size), mode=mode, antialias=antialias)[0, 0]

        self.row_weights: torch.Tensor
        self.column_weights: torch.Tensor
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("row_weights", weights(frame_size[0], self.processed_size[0]), persistent=False)
        self.register_buffer("column_weights", weights(frame_size[1], self.processed_size[1]), persistent=False)
        self.register_buffer("mean", torch.tensor(processor.image_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(processor.image_std).view(-1, 1, 1), persistent=False)

    def _percentile(self, values: torch.Tensor, rank: float) -> torch.Tensor:
        """Percentile of each row of `(B, N)`, linearly interpolated, as float64 `(B,)`: only one end is sorted."""
        last = values.shape[1] - 1
        position = rank / 100 * last
        below, above = math.floor(position), math.ceil(position)
        is_low = above < last - below
        ends = values.topk(above + 1 if is_low else last - below + 1, dim=1, largest=not is_low).values
        low, high = (ends[:, index if is_low else last - index].double() for index in (below, above))
        return low + (high - low) * (position - below)

    def _scale(self, frames: torch.Tensor) -> torch.Tensor:
        """Raw float32 `(B, H, W)` to 0..1, as `UnipImageProcessor.scale_intensities`."""
        processor = self.processor
        if self.scaling == "percentiles":
            values = frames.flatten(1)  # (B, H * W)
            low, high = (self._percentile(values, rank) for rank in processor.intensity_percentiles)
            is_flat = low == high
            low = torch.where(is_flat, values.amin(1).double(), low)
            high = torch.where(is_flat, values.amax(1).double(), high)
            span = (high - low).float()
            span = torch.where(span == 0, torch.ones_like(span), span)
            pixels = (frames - low.float()[:, None, None]) / span[:, None, None]
        elif self.scaling == "dtype_range":
            pixels = frames / self.highest
        else:
            lowest, highest = processor.intensity_range  # type: ignore[misc]
            if processor.counts_to_celsius is not None:
                factor, offset = processor.counts_to_celsius
                lowest, highest = (lowest - offset) / factor, (highest - offset) / factor
            pixels = (frames - lowest) / (highest - lowest)
        return pixels.clamp(0.0, 1.0)

    def forward(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            frames: Raw frames `(batch_size, height, width)`, uint8 or uint16.

        Returns:
            `{"ids": ...}`: class ids `(batch_size, height, width)`, uint8, above 256 classes int32.
        """
        processor = self.processor
        pixels = frames.float()  # (B, H, W)
        if processor.do_rescale:
            pixels = self._scale(pixels)
        if self.processed_size != self.frame_size:
            # Each matrix stands on the left, where quantisation to int8 leaves it alone.
            pixels = torch.matmul(self.row_weights, pixels)  # (B, h, W)
            pixels = torch.matmul(self.column_weights, pixels.mT).mT  # (B, h, w)
            if processor.do_rescale:
                pixels = pixels.clamp(0.0, 1.0)
        pixels = pixels.unsqueeze(1)  # (B, 1, h, w)
        if processor.do_normalize:
            pixels = (pixels - self.mean) / self.std  # (B, 1 or C, h, w)
        logits = self.model(pixels.expand(-1, processor.num_channels, -1, -1)).logits
        for size in (self.processed_size, self.frame_size):
            if logits.shape[-2:] != size:
                logits = nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        ids = logits.argmax(dim=1)  # (B, H, W)
        return {"ids": ids.to(torch.uint8 if logits.shape[1] <= 256 else torch.int32)}


__all__ = ["EndToEndSegmentation"]

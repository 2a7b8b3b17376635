# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Image processor and segmentation model as one graph: raw frames in, class ids out."""

import math
from functools import partial

import numpy as np
import torch
from torch import nn

from ..modeling.image_processing_unip import UnipImageProcessor
from ..modeling.image_settings_unip import RESAMPLING_MODES
from ..modeling.intensities_unip import luminance, scale_between
from ..modeling.modeling_unip_resampling import resize


def percentiles(frames: torch.Tensor, ranks: list[float]) -> torch.Tensor:
    """
    Percentiles of each frame, linearly interpolated as those of the processor. Only one end is sorted, with `topk`,
    which every runtime has.

    Args:
        frames (`torch.Tensor` of shape `(batch_size, height, width)`): Float32.
        ranks (`list[float]`): 0 to 100.

    Returns:
        Float64 `torch.Tensor` of shape `(ranks, batch_size)`.
    """
    values = frames.flatten(1)  # (B, H * W)
    last = values.shape[1] - 1
    found = []
    for rank in ranks:
        position = rank / 100 * last
        below, above = math.floor(position), math.ceil(position)
        is_low = above < last - below
        ends = values.topk(above + 1 if is_low else last - below + 1, dim=1, largest=not is_low).values
        low, high = (ends[:, index if is_low else last - index].double() for index in (below, above))
        found.append(low + (high - low) * (position - below))  # (B,)
    return torch.stack(found)


class EndToEndSegmentation(nn.Module):
    """
    What `segment_image` computes for a whole image, for frames of one size and dtype, written so that every operation
    can be exported.

    Args:
        model: Semantic segmentation model whose output has `logits`.
        processor: Its image processor.
        frame_size: Height and width of the frames in pixels.
        frame_dtype: `torch.uint8` or `torch.uint16`; of visible frames always `torch.uint8`.
    """

    def __init__(
        self, model: nn.Module, processor: UnipImageProcessor, frame_size: tuple[int, int], frame_dtype: torch.dtype
    ):
        super().__init__()
        self.model = model
        self.processor = processor
        self.frame_size = frame_size
        self.frame_dtype = np.dtype(str(frame_dtype).removeprefix("torch."))
        self.processed_size = processor.output_size(*frame_size)
        mode = RESAMPLING_MODES[processor.resample]

        # Resizing is linear, and the same in each row and each column: two matrices, got by resizing unit vectors.
        def weights(size: int, new_size: int) -> torch.Tensor:
            units = torch.eye(size)[None, None]
            antialias = processor.antialias and mode != "nearest-exact"
            return nn.functional.interpolate(units, (new_size, size), mode=mode, antialias=antialias)[0, 0]

        self.row_weights: torch.Tensor
        self.column_weights: torch.Tensor
        self.register_buffer("row_weights", weights(frame_size[0], self.processed_size[0]), persistent=False)
        self.register_buffer("column_weights", weights(frame_size[1], self.processed_size[1]), persistent=False)

    def forward(self, frames: torch.Tensor, auxiliary_frames: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """
        Args:
            frames: Raw frames: infrared `(batch_size, height, width)`, uint8 or uint16, or visible
                `(batch_size, height, width, 3)`, uint8.
            auxiliary_frames: Of the model of pairs: the other frames.

        Returns:
            `{"ids": ...}`: class ids `(batch_size, height, width)`, uint8, above 256 classes int32.
        """
        pixel_values = self._process(frames, self.processor)
        pair = {}
        if auxiliary_frames is not None:
            pair["auxiliary_pixel_values"] = self._process(auxiliary_frames, self.processor.auxiliary)
        logits = self.model(pixel_values, **pair).logits
        for size in (self.processed_size, self.frame_size):
            if logits.shape[-2:] != size:
                logits = resize(logits, size)
        ids = logits.argmax(dim=1)  # (B, H, W)
        return {"ids": ids.to(torch.uint8 if logits.shape[1] <= 256 else torch.int32)}

    def _process(self, frames: torch.Tensor, processor: UnipImageProcessor) -> torch.Tensor:
        """What the processor makes of its main images, `(batch_size, num_channels, height, width)`."""
        is_visible = processor.main_modality == "visible"
        dtype = np.dtype(np.uint8) if is_visible else self.frame_dtype
        pixels = frames.float()  # (B, H, W), or (B, H, W, 3)
        if processor.do_rescale:
            limits = processor.intensity_limits(dtype, partial(percentiles, pixels))  # (2,) or (2, B)
            pixels = scale_between(pixels, limits.view(2, -1, *[1] * (pixels.ndim - 1)))
        pixels = pixels.permute(0, 3, 1, 2) if is_visible else pixels.unsqueeze(1)  # (B, 3 or 1, H, W)
        if pixels.shape[1] > processor.num_channels:
            pixels = luminance(pixels)
        if self.processed_size != self.frame_size:
            # Each matrix stands on the left, where quantisation to int8 leaves it alone.
            pixels = torch.matmul(self.row_weights, pixels)  # (B, C, h, W)
            pixels = torch.matmul(self.column_weights, pixels.mT).mT  # (B, C, h, w)
            if processor.do_rescale:
                pixels = pixels.clamp(0.0, 1.0)
        return processor.normalize_channels(pixels)


__all__ = ["EndToEndSegmentation"]

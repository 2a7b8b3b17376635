# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""`pipeline("image-segmentation")` for infrared images of any depth."""

import re
from io import BytesIO
from typing import Any
from urllib.request import urlopen

from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.image_segmentation import ImageSegmentationPipeline

from .modeling.image_reading_unip import open_image, read_image, to_channels_last


class UnipImageSegmentationPipeline(ImageSegmentationPipeline):
    """
    The stock pipeline, except that UNIP's image processor gets the image as it is. The stock one converts every input
    to 8-bit RGB first, which turns 16-bit images white. Accepts paths, addresses (also `data:`), PIL images and
    arrays. Serves the task `"image-segmentation"` once `unip_hf` is imported; other models run through the stock code.
    """

    # Without this, transformers looks for a video processor, finds the image processor, and asks to run its code.
    _load_video_processor = False  # type: ignore[assignment]

    def check_model_type(self, supported_models: Any) -> None:
        if self.model.config.model_type != "unip":
            super().check_model_type(supported_models)

    def preprocess(  # type: ignore[override]
        self, image: Any, subtask: str | None = None, timeout: float | None = None
    ) -> Any:
        processor: Any = self.image_processor
        if type(processor).__name__ != "UnipImageProcessor":
            return super().preprocess(image, subtask=subtask, timeout=timeout)
        if isinstance(image, str) and re.match(r"(https?|data):", image, re.IGNORECASE):
            with urlopen(image, timeout=timeout) as response:  # noqa: S310  never file://, see above
                content = response.read()
            with open_image(BytesIO(content), image[:200]) as opened:
                array = read_image(opened)
        else:
            array = read_image(image)
        inputs = processor(images=[array], return_tensors="pt").to(self.dtype)
        inputs["target_size"] = [to_channels_last(array).shape[:2]]
        return inputs


# register_pipeline() would warn every user, and write this class into the checkpoints of other models, which then
# would not load without this library.
PIPELINE_REGISTRY.supported_tasks["image-segmentation"]["impl"] = UnipImageSegmentationPipeline

__all__ = ["UnipImageSegmentationPipeline"]

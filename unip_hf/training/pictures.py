# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures for the trackers of a run."""

import numpy as np
from accelerate import Accelerator
from PIL import Image


def log_picture(accelerator: Accelerator, name: str, picture: Image.Image, step: int) -> None:
    """Gives a picture of mode RGB to those trackers that take pictures."""
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_images"):
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: np.asarray(picture)[None]}, step=step, **layout)


__all__ = ["log_picture"]

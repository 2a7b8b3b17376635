# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Export: segmentation models as files for other runtimes."""

from .exporting import export_model


__all__ = ["export_model"]

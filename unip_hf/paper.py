# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The papers that this library implements, as model cards cite them."""

ARXIV_ID = "2502.02257"
URL = f"https://arxiv.org/abs/{ARXIV_ID}"
CITATION = f"""\
@inproceedings{{zhang2025unip,
  title = {{{{UNIP}}: Rethinking Pre-trained Attention Patterns for Infrared Semantic Segmentation}},
  author = {{Zhang, Tao and Wen, Jinyong and Chen, Zhen and Ding, Kun and Xiang, Shiming and Pan, Chunhong}},
  booktitle = {{International Conference on Learning Representations (ICLR)}},
  year = {{2025}},
  url = {{{URL}}}
}}"""

# Methods that read pairs of images, by `config.fusion`: name, and number on arXiv.
FUSION_PAPERS = {"iv_tuning": ("IV-tuning", "2412.16654"), "unirgb_ir": ("UniRGB-IR", "2404.17360")}

__all__ = ["ARXIV_ID", "CITATION", "FUSION_PAPERS", "URL"]

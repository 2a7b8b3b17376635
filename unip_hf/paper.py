# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The paper that this library implements, as model cards cite it."""

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

__all__ = ["ARXIV_ID", "CITATION", "URL"]

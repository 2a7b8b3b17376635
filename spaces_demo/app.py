# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
The Gradio Space: segments infrared images in the browser. Also `unip demo`, whose options it takes.

    python spaces_demo/app.py --model outputs/small/best

In a Space, where nothing is asked for, it shows the `models` that the header of the README.md beside it names.
"""

import sys
from pathlib import Path

from huggingface_hub import SpaceCard

from unip_hf.scripts import cli, demo


if __name__ == "__main__":
    models = SpaceCard.load(Path(__file__).with_name("README.md")).data.get("models")
    arguments = sys.argv[1:]
    if models and not arguments:
        arguments = ["--model", *models]
    sys.exit(cli.run(demo.main, arguments))

# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
The Gradio Space: segments infrared images in the browser.

    python spaces_demo/app.py --model outputs/small/best

Without `--model`, it shows the `models` that the header of the README.md beside it names, as in a Space.
"""

import argparse
from pathlib import Path

from huggingface_hub import SpaceCard

from unip_hf.spaces_demo.interface import serve


if __name__ == "__main__":
    models = SpaceCard.load(Path(__file__).with_name("README.md")).data.get("models")
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", nargs="+", default=models, required=not models, help="folders or names on the Hub")
    try:
        serve(parser.parse_args().model)
    except (OSError, ValueError) as error:
        parser.error(str(error))

# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
The Gradio Space: segments infrared images in the browser. `unip demo` starts the same page and has more options.

    python spaces_demo/app.py --model outputs/small/best

In a Space it shows the `models` that the header of the README.md beside it names.
"""

import argparse
from pathlib import Path

from huggingface_hub import SpaceCard

from unip_hf.spaces_demo.serving import serve


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    of_space = SpaceCard.load(Path(__file__).with_name("README.md")).data.get("models")
    parser.add_argument("--model", nargs="+", default=of_space, help="folders, exported files, or names on the Hub")
    serve(parser.parse_args().model)

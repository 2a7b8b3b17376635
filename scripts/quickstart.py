# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
The main job on built-in infrared scenes, offline, on a CPU, in about three minutes: fine-tunes a small UNIP network
(from a random start), evaluates it, and segments a 16-bit file with it. Prints the path of a page with all of it.

    unip quickstart --output_dir outputs/quickstart
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unip_hf.scripts.options import make_parser


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("quickstart", __doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/quickstart"), help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=700, help="training steps of 4 scenes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser


def main(arguments: Sequence[str]) -> None:
    options = command_parser().parse_args(arguments)
    if options.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {options.steps}.")
    import torch
    from PIL import Image

    from unip_hf import UnipConfig, UnipImageProcessor, UnipModel
    from unip_hf.data import draw_scene
    from unip_hf.files import write_whole
    from unip_hf.scripts import evaluate, finetune, predict
    from unip_hf.scripts.runs import save_with_processor

    output_dir = options.output_dir
    if output_dir.exists() and any(output_dir.iterdir()) and not (output_dir / "student").is_dir():
        raise ValueError(f"{str(output_dir)!r} holds something else: choose another --output_dir.")
    torch.manual_seed(options.seed)
    config = UnipConfig(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=256,
        num_channels=1,
        decoder_channels=48,
        auxiliary_channels=48,
    )
    save_with_processor(UnipModel(config), UnipImageProcessor(num_channels=1), output_dir / "student")

    print("Fine-tuning on 400 drawn 16-bit scenes of 256x320 pixels ...")
    sizes = ["--crop_size", "256", "--shortest_edge", "256", "--ratio_range", "0.75", "1.5"]
    recipe = ["--learning_rate", "2e-3", "--layer_decay", "1", "--drop_path_rate", "0", "--batch_size", "4"]
    length = ["--num_steps", str(options.steps), "--evaluate_every", str(options.steps), "--seed", str(options.seed)]
    student = ["--model", str(output_dir / "student"), "--dataset", "scenes", "--report_to", "none"]
    finetune.main([*student, "--output_dir", str(output_dir), "--overwrite", *sizes, *recipe, *length])

    print("Segmenting a 16-bit file ...")
    with write_whole(output_dir / "scene.png") as staged:
        Image.fromarray(draw_scene(3)[0]).save(staged)
    model, scene = str(output_dir / "best"), str(output_dir / "scene.png")
    predict.main([model, scene, "--output_dir", str(output_dir / "prediction"), "--overwrite"])

    print("Evaluating on 50 scenes it has not seen ...")
    test = ["--dataset", "scenes", "--split", "test", "--overwrite"]
    evaluate.main([model, *test, "--output_dir", str(output_dir / "evaluation")])
    print(f"Checkpoint: {model}\nThe page with numbers and pictures: {output_dir / 'evaluation' / 'report.html'}")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))

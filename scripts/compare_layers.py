# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Which block of a teacher should a student learn? Distils some blocks into the same student with the same budget,
fine-tunes all of them and a random start alike, each with several seeds, and reports mean IoU: the paper's central
experiment, on your own images. A comparison that was interrupted goes on when it is started again; more seeds and
blocks can be added later. `--nmi_target 0.06 0.09 0.12` shows how much the target matters, and `--objectives attention
features` whether attention is worth more than features.

    unip compare-layers --teacher timm:vit_base_patch16_224.dino --output_dir outputs/layers \\
        --distillation_config distil.yaml --finetuning_config finetune.yaml

The recipes hold the options of `unip distill` (data_dir, students, num_steps, ...) and of `unip finetune` (data_dir,
crop_size, num_steps, ...), except those given here.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unip_hf.scripts import distill, finetune, pretraining
from unip_hf.scripts.options import make_parser
from unip_hf.scripts.runs import make_accelerator, open_run, save_with_processor


if TYPE_CHECKING:
    from unip_hf.analysis.comparison import Learned


WORDS = ("auto", "first-third", "last")


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("compare-layers", __doc__)
    parser.add_argument("--teacher", required=True, help="as for unip distill")
    parser.add_argument(
        "--teacher_layers",
        nargs="+",
        default=["first-third", "auto", "last"],
        metavar="BLOCK",
        help="numbers from 1; auto: the blocks nearest to --nmi_target; first-third: local;\nlast "
        "(default: first-third auto last)",
    )
    parser.add_argument(
        "--nmi_target",
        type=float,
        nargs="+",
        metavar="NMI",
        help="normalised mutual information: the block nearest to each is compared\n"
        "(default: as the recipe of unip distill says, or 0.09)",
    )
    parser.add_argument(
        "--objectives",
        choices=["attention", "features"],
        nargs="+",
        help="what students learn of each block (default: as that recipe says, or attention)",
    )
    parser.add_argument("--distillation_config", type=Path, required=True, help="recipe for unip distill, one student")
    parser.add_argument("--finetuning_config", type=Path, required=True, help="recipe for unip finetune")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument(
        "--which",
        choices=["best", "last"],
        default="best",
        help="evaluation that counts, as for unip results: the best (default) is chosen on\nthe validation images "
        "that it is reported for, alike for all",
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="gets one folder for each run, table and figure"
    )
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(arguments)
    wrong = [word for word in options.teacher_layers if word not in WORDS and not word.isdecimal()]
    if wrong:
        raise ValueError(f"--teacher_layers must be numbers from 1, or {', '.join(WORDS)}, got {' '.join(wrong)}.")
    outside = [target for target in options.nmi_target or () if not 0 <= target <= 1]
    if outside:
        raise ValueError(f"--nmi_target must be from 0 to 1, got {outside[0]}.")
    if options.nmi_target:
        options.teacher_layers.append("auto")
    return options


def choose_layers(
    words: Sequence[str], targets: Sequence[float], options: argparse.Namespace
) -> tuple[list[int], dict[float, int], dict[str, Any]]:
    """
    Block numbers in ascending order, each once; the block nearest to each target; and what `unip distill` with these
    options finds out for the first of them.
    """
    from unip_hf.analysis.attention import nearest_block
    from unip_hf.data.grey_crops import sample_crops

    options.teacher_layer, options.nmi_target = "auto", targets[0]
    rows = pretraining.load_images(options)
    sample = sample_crops(rows, options.num_sample_images, options.crop_size, options.keep_colour)
    objective = pretraining.make_objective(options)
    _, found = pretraining.prepare_inputs(options, objective, make_accelerator(options), sample, found={})
    nmi = found["teacher_nmi"]
    last = len(nmi)
    if "auto" not in words:
        targets = []
    nearest = {target: nearest_block(nmi, target) for target in targets}
    known = {"auto": list(nearest.values()), "first-third": [max(1, round(last / 3))], "last": [last]}
    layers = sorted({layer for word in words for layer in (known[word] if word in known else [int(word)])})
    if not 1 <= layers[0] <= layers[-1] <= last:
        raise ValueError(f"--teacher_layers must be blocks of the teacher, 1 to {last}, got {layers}.")
    return layers, nearest, found


def folder_name(learned: "Learned | None") -> str:
    """Of the runs of a student; those that learned attention are called by their block alone."""
    if learned is None:
        return "random-start"
    return f"block-{learned.layer:02d}" + ("" if learned.objective == "attention" else f"-{learned.objective}")


def run_once(job: str, arguments: Sequence[object], output_dir: Path) -> None:
    """
    Starts a run, goes on with an interrupted one, or leaves a finished one.

    Raises:
        ValueError: if the folder holds a run with other options.
        SystemExit: if the run fails. It has said why.
    """
    from unip_hf.training.checkpoints import find_checkpoint

    words = [*map(str, arguments), "--output_dir", str(output_dir)]
    try:
        checkpoint = find_checkpoint(output_dir, "latest")
    except FileNotFoundError:
        words += ["--overwrite"]  # a run that was killed before its first checkpoint may have left something
    else:
        words += ["--resume_from_checkpoint", "latest"]
        script = distill if job == "distill" else finetune
        open_run(script.parse_arguments(words))
        num_steps = json.loads((output_dir / "run.json").read_text())["num_steps"]
        state = json.loads((checkpoint / "state.json").read_text())
        if state["step" if job == "distill" else "evaluated_step"] == num_steps:
            return
    if status := run_job(job, words):
        raise SystemExit(status)


def run_job(job: str, arguments: Sequence[str]) -> int:
    """Runs a job in a process of its own, which SIGTERM and Ctrl-C reach. Returns its exit status."""
    from unip_hf.processes import on_sigterm

    process = subprocess.Popen([sys.executable, "-m", "unip_hf.scripts.cli", job, *arguments])
    with on_sigterm(lambda *_: process.terminate()):
        try:
            status = process.wait()
        except KeyboardInterrupt:  # of a terminal it has reached the job, too
            process.terminate()
            process.wait()
            raise
    return status if status >= 0 else 128 - status


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    output_dir = options.output_dir
    distillation = ["--config", options.distillation_config, "--teacher", options.teacher]
    fine_tuning = ["--config", options.finetuning_config]
    # Both recipes are read before hours are spent on the first.
    of_recipe = ["--output_dir", str(output_dir)]
    recipe = distill.parse_arguments([*map(str, distillation), *of_recipe])
    objectives = list(dict.fromkeys(options.objectives or [recipe.objective]))
    for objective in objectives:
        distill.parse_arguments([*map(str, distillation), *of_recipe, "--objective", objective])
    task = finetune.parse_arguments([*map(str, fine_tuning), "--model", "tiny", "--output_dir", str(output_dir)])
    if task.layerwise_probe:
        raise ValueError(
            f"'{options.finetuning_config}' has layerwise_probe, which gives several results: leave it out."
        )
    if len(recipe.students) != 1:
        raise ValueError(f"'{options.distillation_config}' has several students, {recipe.students}: choose one.")

    import torch

    from unip_hf import UnipConfig, UnipForPreTraining, UnipImageProcessor
    from unip_hf.analysis.comparison import Learned, write_comparison
    from unip_hf.evaluation.result_tables import read_run

    targets = options.nmi_target or [recipe.nmi_target]
    layers, nearest, found = choose_layers(options.teacher_layers, targets, recipe)
    pretraining.show_layers(found, options.teacher, output_dir, targets[0], title=options.teacher)
    print(f"Compared: blocks {', '.join(map(str, layers))}, and a random start")
    for target, layer in nearest.items():
        print(f"Nearest to the NMI {target:g}: block {layer}")

    students = [Learned(layer, objective) for layer in layers for objective in objectives]
    mean_iou: dict[Learned | None, dict[int, float]] = {learned: {} for learned in (None, *students)}
    for seed in options.seeds:
        for learned in (*students, None):
            folder = output_dir / folder_name(learned) / f"seed-{seed}"
            name = "random start" if learned is None else f"{learned.objective} of block {learned.layer}"
            print(f"\nSeed {seed}, {name}: {folder}", flush=True)
            student = folder / "distillation" / "last"
            if learned is not None:
                learns = ["--teacher_layer", learned.layer, "--objective", learned.objective, "--seed", seed]
                run_once("distill", [*distillation, *learns], folder / "distillation")
            else:
                first = output_dir / folder_name(students[0]) / f"seed-{seed}"
                distilled, student = first / "distillation" / "last", folder / "student"
                if not student.exists():
                    torch.manual_seed(seed)
                    random_start = UnipForPreTraining(UnipConfig.from_pretrained(distilled))
                    save_with_processor(random_start, UnipImageProcessor.from_pretrained(distilled), student)
            run_once("finetune", [*fine_tuning, "--model", student, "--seed", seed], folder / "fine-tuning")
            mean_iou[learned][seed] = read_run(folder / "fine-tuning", options.which).mean_iou[None]
        table = write_comparison(output_dir, options.teacher, found["teacher_nmi"], mean_iou, options.which, nearest)
        print(f"\n{table}", end="", flush=True)


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))

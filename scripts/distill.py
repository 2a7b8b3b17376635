# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Pre-trains small networks on unlabelled infrared images: they learn the hybrid attention of one block of a large RGB
teacher (NMI-HAD), or its features, or, without a teacher, to fill in hidden patches (MAE). What it writes to
OUTPUT_DIR/last is what `unip finetune --model` starts from.

    unip distill --teacher timm:vit_large_patch16_224.mae --students small --data_dir my-images --output_dir outputs/s
    unip distill --teacher mae_pretrain_vit_large.pth --config distillation-small-mae-large-18 --data_dir infmix ...
    unip distill --teacher facebook/dinov2-large --students tiny small base --dataset infmix --data_dir infmix ...
    unip distill --objective mae --students models/mae-small --data_dir my-images --output_dir outputs/mae
    accelerate launch scripts/distill.py --config recipe.yaml --teacher ... --output_dir outputs/small
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unip_hf.scripts.options import (
    DATASETS,
    add_benchmark_options,
    add_recipe_options,
    add_training_options,
    check_positive,
    check_training_options,
    make_parser,
    with_recipe,
)
from unip_hf.scripts.pretraining import (
    count_operations,
    load_images,
    make_objective,
    place_teacher,
    prepare_inputs,
    prepare_students,
    show_layers,
)
from unip_hf.scripts.runs import (
    divide_batch,
    make_accelerator,
    open_run,
    prepare_speed,
    save_with_processor,
    started,
)


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("distill", __doc__)
    add_training_options(parser)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset", default="folder", help=f'"folder" (default), all images in folders; or infmix,\n{DATASETS}'
    )
    data.add_argument(
        "--data_dir", type=Path, nargs="+", help="folders; for InfMix and benchmarks one folder or zip file"
    )
    add_benchmark_options(data)
    data.add_argument("--split", help="of a data set (default: train); folders are read whole")
    data.add_argument(
        "--leave_out",
        nargs="+",
        metavar="SOURCE",
        help="sources of InfMix to leave out, for example coco; infrared: all but imagenet and coco",
    )
    data.add_argument("--streaming", action="store_true", help="read the data set in order, without an index or cache")

    teacher = parser.add_argument_group("teacher")
    teacher.add_argument(
        "--teacher",
        help="timm:NAME, a file as MAE, DINO or iBOT publish it, or folder or\nHub name of a ViT from transformers",
    )
    teacher.add_argument(
        "--teacher_layer",
        default="auto",
        help='block to learn, from 1; "auto" (default) takes the one with attention\nnearest to hybrid, see '
        "--nmi_target",
    )
    teacher.add_argument(
        "--nmi_target",
        type=float,
        default=0.09,
        help="normalised mutual information that auto looks for (default: %(default)s)",
    )
    teacher.add_argument(
        "--teacher_normalization",
        choices=["student", "teacher"],
        default="student",
        help="the teacher sees the students' pixel values (default, the paper),\nor those it was trained with",
    )
    teacher.add_argument(
        "--teacher_dtype",
        choices=["auto", "fp32", "bf16", "fp16"],
        default="auto",
        help="of its weights; auto (default): bf16 on a GPU with --mixed_precision bf16,\notherwise fp32",
    )
    teacher.add_argument("--teacher_num_attention_heads", type=int, help="for a published file of unusual width")

    students = parser.add_argument_group("students")
    students.add_argument(
        "--objective",
        choices=["attention", "features", "mae"],
        default="attention",
        help="what students learn: attention of the teacher (default, the paper), its\nfeatures, or, without "
        "a teacher, to fill in hidden patches",
    )
    students.add_argument(
        "--students",
        nargs="+",
        default=["small"],
        help="tiny, small, base, large (random start), UNIP models, or plain ViTs such as MAE's;\nseveral learn from "
        "one pass of the teacher (default: small)",
    )
    students.add_argument("--drop_path_rate", type=float, help="of every block (default: 0.1; 0 for mae)")
    students.add_argument("--num_channels", type=int, choices=[1, 3], default=3, help="of a random start")
    students.add_argument(
        "--last_layer_num_attention_heads", type=int, help="must be the teacher's (default);\nonly to learn attention"
    )

    masking = parser.add_argument_group("masked pre-training", "for --objective mae; defaults are MAE's")
    masking.add_argument(
        "--mask_ratio", type=float, default=0.75, help="share of patches to hide (default: %(default)s)"
    )
    for name, default in (("num_hidden_layers", 8), ("hidden_size", 512), ("num_attention_heads", 16)):
        masking.add_argument(f"--decoder_{name}", type=int, default=default, help="default: %(default)s")

    images = parser.add_argument_group("images", "grey, cropped at random, resized (bicubic), flipped")
    images.add_argument("--crop_size", type=int, default=224, help="pixels (default: %(default)s)")
    images.add_argument("--crop_scale", type=float, nargs=2, default=[0.2, 1.0], help="share of the image (0.2 to 1)")
    images.add_argument("--flip_probability", type=float, default=0.5, help="default: %(default)s")
    images.add_argument(
        "--keep_colour", action="store_true", help="three channels of colour images as they are (default: grey)"
    )
    images.add_argument("--image_mean", type=float, nargs="+", help="of intensities 0..1 (default: InfMix's)")
    images.add_argument("--image_std", type=float, nargs="+", help="standard deviation, likewise")

    recipe = add_recipe_options(parser, batch_size=4096)
    recipe.add_argument("--num_warmup_epochs", type=float, help="default: a twentieth of all")
    recipe.add_argument("--learning_rate", type=float, help="default: 1.5e-4 * batch_size / 256")
    recipe.add_argument("--adam_betas", type=float, nargs=2, default=[0.9, 0.95], help="default: 0.9 0.95")

    watching = parser.add_argument_group("watching")
    watching.add_argument(
        "--pictures_every", type=int, help="updates between attention pictures (default: 20 in the run; 0: none)"
    )
    watching.add_argument(
        "--num_sample_images", type=int, default=64, help="to choose the layer and for pictures (default: %(default)s)"
    )
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(with_recipe(arguments))
    if options.teacher_layer != "auto" and not options.teacher_layer.isdecimal():
        raise ValueError(
            f'--teacher_layer must be "auto" or the number of a block from 1, got {options.teacher_layer!r}.'
        )
    check_objective(options)
    check_training_options(options)
    check_positive(options, "num_sample_images")
    check_positive(options, "num_warmup_epochs", "pictures_every", "drop_path_rate", or_zero=True)
    if len(options.students) > 1 and options.max_gradient_norm is not None:
        raise ValueError("--max_gradient_norm would shorten the gradients of all students together: train one alone.")
    if options.streaming and options.num_steps is None:
        raise ValueError("--streaming needs --num_steps: the number of images in a stream is not known.")
    return options


def check_objective(options: argparse.Namespace) -> None:
    """Checks the options that only some objectives have, and fills in what depends on the objective."""
    usual = command_parser().parse_args(["--output_dir", "."])
    changed = [name for name, value in vars(options).items() if value != getattr(usual, name)]
    of_teacher = [name for name in changed if name.startswith("teacher") or name == "nmi_target"]
    of_masks = [name for name in changed if name.startswith(("decoder_", "mask_"))]
    if options.objective == "mae":
        if of_teacher:
            raise ValueError(f"--objective mae has no teacher: leave --{of_teacher[0]} out.")
    elif options.teacher is None:
        raise ValueError(f"--objective {options.objective} needs --teacher.")
    elif of_masks:
        raise ValueError(f"--{of_masks[0]} is for --objective mae: leave it out.")
    if options.objective != "attention" and options.last_layer_num_attention_heads is not None:
        raise ValueError(
            "--last_layer_num_attention_heads is for --objective attention: otherwise the student keeps its heads."
        )
    if not 0 <= options.nmi_target <= 1:
        raise ValueError(f"--nmi_target must be from 0 to 1, got {options.nmi_target}.")
    if options.drop_path_rate is None:
        options.drop_path_rate = 0.0 if options.objective == "mae" else 0.1


def count_steps(options: argparse.Namespace, num_images: int | None) -> tuple[int, float]:
    """
    Updates of the run and of its warm-up. An epoch is a whole number of updates: images left over do not count.

    Raises:
        ValueError: if the warm-up is as long as the run, or is given in epochs of a stream.
    """
    steps_of_epoch = num_images and (num_images // options.batch_size or num_images / options.batch_size)
    num_steps = options.num_steps or max(1, round(options.num_epochs * steps_of_epoch))
    if options.num_warmup_epochs is None:
        return num_steps, num_steps / 20
    if steps_of_epoch is None:
        raise ValueError("--num_warmup_epochs cannot be used with a stream: leave it out, for a twentieth of all.")
    num_warmup_steps = options.num_warmup_epochs * steps_of_epoch
    if num_warmup_steps >= num_steps:
        raise ValueError(
            f"--num_warmup_epochs {options.num_warmup_epochs:g} is {num_warmup_steps:g} updates, but the run has only "
            f"{num_steps}."
        )
    return num_steps, num_warmup_steps


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    run = open_run(options)
    import torch
    from accelerate.utils import FullyShardedDataParallelPlugin, set_seed

    from unip_hf.data.grey_crops import GreyCrop, read_crops, sample_crops
    from unip_hf.distillation import AttentionMonitor
    from unip_hf.training import TrainingLoop, TrainingSettings, cosine_schedule, layer_decay_parameter_groups

    # A configuration of Accelerate for FSDP divides the teacher. Each device has the small students.
    is_sharded = os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() == "true"
    sharding = FullyShardedDataParallelPlugin(fsdp_version=2) if is_sharded else None
    accelerator = make_accelerator(options)
    division = divide_batch(options, accelerator.num_processes)
    with accelerator.main_process_first():  # it fills the cache
        rows = load_images(options)
    colour = {"keep_colour": options.keep_colour}
    sample = sample_crops(rows, options.num_sample_images, options.crop_size, **colour)
    scale, flip_probability = tuple(options.crop_scale), options.flip_probability
    crop = GreyCrop(options.crop_size, scale, flip_probability=flip_probability, **colour)
    objective = make_objective(options)
    inputs, found = prepare_inputs(options, objective, accelerator, sample, run.get("found", {}), is_sharded)
    teacher = inputs.teacher
    if options.streaming:
        readers = [division.num_processes, division.per_device, options.num_workers]
        if found.setdefault("readers", readers) != readers:
            raise ValueError(
                "A resumed run that reads a stream must keep its processes, images at once and workers: they were "
                f"{found['readers']}, now {readers}."
            )
    set_seed(options.seed)
    students = prepare_students(options, objective, teacher)
    set_seed(options.seed, device_specific=True)
    num_operations = count_operations(options.crop_size, objective, teacher, students)
    if teacher is not None:
        place_teacher(options, teacher, accelerator.device, sharding)
    learning_rate = options.learning_rate or 1.5e-4 * options.batch_size / 256
    groups = layer_decay_parameter_groups(students, learning_rate, layer_decay=1, weight_decay=options.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=tuple(options.adam_betas), fused=True)
    num_images = None if options.streaming else len(rows)
    num_steps, num_warmup_steps = count_steps(options, num_images)
    if found.setdefault("num_images", num_images) != num_images:
        raise ValueError(f"A resumed run must keep its images: there were {found['num_images']}, now {num_images}.")
    twentieth = max(1, num_steps // 20)
    pictures_every = twentieth if options.pictures_every is None else options.pictures_every

    def batches(first_step: int) -> Iterable[dict[str, torch.Tensor]]:
        return read_crops(
            rows,
            crop,
            division.per_device,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            seed=options.seed,
            first_batch=first_step * division.accumulation_steps,
            num_workers=options.num_workers,
            pin_memory=accelerator.device.type == "cuda",
        )

    def save_model(trained: Any, folder: Path) -> None:
        for name, student in trained.checkpoints().items():
            save_with_processor(student, inputs.processor, folder if len(trained) == 1 else folder / name)

    loop = TrainingLoop(
        accelerator,
        students,
        optimizer,
        TrainingSettings(
            num_steps=num_steps,
            accumulation_steps=division.accumulation_steps,
            max_gradient_norm=options.max_gradient_norm,
            ema_decay=options.ema_decay,
            evaluate_every=pictures_every or num_steps,
            save_every=options.save_every or twentieth,
            log_every=options.log_every,
        ),
        options.output_dir,
        batches=batches,
        compute_loss=lambda model, batch: model(*inputs(batch["images"])),
        batch_weight=lambda batch: len(batch["images"]),
        schedule=lambda step: cosine_schedule(step, num_steps, num_warmup_steps),
        save_model=save_model,
        evaluate=AttentionMonitor(accelerator, inputs, sample, options.output_dir) if pictures_every else None,
        loss_names=[f"loss/{name}" for name in students] if len(students) > 1 else (),
        speed=prepare_speed(accelerator, options.batch_size, num_operations),
    )
    with started(options, {**run, "num_steps": num_steps, "found": found}, accelerator):
        if accelerator.is_main_process:
            if "teacher_nmi" in found:
                show_layers(found, options.teacher, options.output_dir, options.nmi_target)
            saved = students.checkpoints()
            sizes = {name: sum(p.numel() for p in student.parameters()) for name, student in saved.items()}
            parameters = ", ".join(f"{name} {size / 1e6:.2f} M" for name, size in sizes.items())
            described = f"students: {parameters} parameters; on {accelerator.device.type}"
            if teacher is None:
                described = f"No teacher: {options.mask_ratio:.0%} of each image is hidden; {described}"
            else:
                block = f"block {teacher.layer} of {teacher.num_layers} of {options.teacher}"
                learned = f"{teacher.num_attention_heads} heads" if objective.shares_heads else "features"
                described = f"Teacher: {block}, {learned}, {found['teacher_dtype']}; {described}"
            print(f"{described}\n{division.describe(num_steps, num_images)}", flush=True)
        loop.run(options.resume_from_checkpoint)
    if accelerator.is_main_process:
        last = options.output_dir / "last"
        places = [last] if len(students) == 1 else [last / name for name in students]
        print(f"Trained: {', '.join(map(str, places))}, for `unip finetune --model`")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))

# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Pre-trains small networks on unlabelled infrared images: they learn the hybrid attention of one block of a large RGB
teacher (NMI-HAD). What it writes to OUTPUT_DIR/last is what `unip finetune --model` starts from.

    unip distill --teacher timm:vit_large_patch16_224.mae --students small --data_dir my-images --output_dir outputs/s
    unip distill --teacher mae_pretrain_vit_large.pth --config distillation-small-mae-large-18 --data_dir infmix ...
    unip distill --teacher facebook/dinov2-large --students tiny small base --dataset infmix --data_dir infmix ...
    accelerate launch scripts/distill.py --config recipe.yaml --teacher ... --output_dir outputs/small
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unip_hf.scripts.options import (
    add_training_options,
    add_unlabelled_options,
    check_positive,
    make_image_processor,
    make_parser,
    with_recipe,
)
from unip_hf.scripts.runs import divide_batch, make_accelerator, open_run, start_run, tracked


if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin

    from unip_hf import UnipImageProcessor
    from unip_hf.distillation import DistillationInput, Students

LARGEST_PER_DEVICE_BATCH = 256  # the published one


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("distill", __doc__)
    add_training_options(parser)
    add_unlabelled_options(parser)

    teacher = parser.add_argument_group("teacher")
    teacher.add_argument(
        "--teacher",
        required=True,
        help="timm:NAME, a file as MAE, DINO or iBOT publish it, or folder or\nHub name of a ViT of transformers",
    )
    teacher.add_argument(
        "--teacher_layer",
        default="auto",
        help='block that is learned, from 1; "auto" (default) takes the one whose\nattention is nearest to hybrid: '
        "normalised mutual information 0.09",
    )
    teacher.add_argument(
        "--teacher_normalization",
        choices=["student", "teacher"],
        default="student",
        help="the teacher sees the students' pixel values (default, the paper),\nor those it was trained with",
    )
    teacher.add_argument(
        "--teacher_dtype", choices=["fp32", "bf16", "fp16"], default="fp32", help="of its weights (default: fp32)"
    )
    teacher.add_argument("--teacher_num_attention_heads", type=int, help="where a file of unusual width hides it")

    students = parser.add_argument_group("students")
    students.add_argument(
        "--students",
        nargs="+",
        default=["small"],
        help="tiny, small, base, large (random start), or UNIP models; several learn\nfrom one pass of the teacher "
        "(default: small)",
    )
    students.add_argument("--drop_path_rate", type=float, default=0.1, help="of every block (default: %(default)s)")
    students.add_argument("--num_channels", type=int, choices=[1, 3], default=3, help="of a random start")
    students.add_argument("--last_layer_num_attention_heads", type=int, help="must be the teacher's, which is default")

    images = parser.add_argument_group("images", "grey, cropped at random, resized (bicubic), flipped")
    images.add_argument("--crop_size", type=int, default=224, help="pixels (default: %(default)s)")
    images.add_argument("--crop_scale", type=float, nargs=2, default=[0.2, 1.0], help="share of the image (0.2 to 1)")
    images.add_argument("--flip_probability", type=float, default=0.5, help="default: %(default)s")
    images.add_argument("--image_mean", type=float, nargs="+", help="of intensities 0..1 (default: InfMix's)")
    images.add_argument("--image_std", type=float, nargs="+", help="standard deviation, likewise")

    recipe = parser.add_argument_group("recipe", "defaults are the paper's")
    recipe.add_argument("--batch_size", type=int, default=4096, help="of an update, in all (default: %(default)s)")
    recipe.add_argument(
        "--per_device_batch_size",
        type=int,
        help=f"at once on each device (default: {LARGEST_PER_DEVICE_BATCH} at most)",
    )
    recipe.add_argument("--num_epochs", type=float, default=100, help="default: %(default)s")
    recipe.add_argument("--num_steps", type=int, help="updates, instead of --num_epochs; needed with --streaming")
    recipe.add_argument("--num_warmup_epochs", type=float, help="default: a twentieth of all")
    recipe.add_argument("--learning_rate", type=float, help="default: 1.5e-4 * batch_size / 256")
    recipe.add_argument("--weight_decay", type=float, default=0.05, help="default: %(default)s")
    recipe.add_argument("--adam_betas", type=float, nargs=2, default=[0.9, 0.95], help="default: 0.9 0.95")
    recipe.add_argument("--max_gradient_norm", type=float, help="shorten longer gradients (default: off)")
    recipe.add_argument("--ema_decay", type=float, help="save a moving average, 0.9999 say (default: off)")
    recipe.add_argument("--gradient_checkpointing", action="store_true", help="less memory, a third more time")

    watching = parser.add_argument_group("watching")
    watching.add_argument(
        "--pictures_every", type=int, help="updates between attention pictures (default: 20 in the run; 0: none)"
    )
    watching.add_argument(
        "--num_sample_images", type=int, default=64, help="for the choice of the layer and pictures (%(default)s)"
    )
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(with_recipe(arguments))
    if options.teacher_layer != "auto" and not options.teacher_layer.isdecimal():
        raise ValueError(f'--teacher_layer is "auto" or the number of a block from 1, not {options.teacher_layer!r}.')
    check_positive(
        options, "crop_size", "batch_size", "per_device_batch_size", "num_epochs", "num_steps", "learning_rate",
        "max_gradient_norm", "save_every", "log_every", "num_sample_images",
    )  # fmt: skip
    check_positive(
        options, "weight_decay", "num_warmup_epochs", "num_workers", "pictures_every", "drop_path_rate", or_zero=True
    )
    if options.ema_decay is not None and not 0 < options.ema_decay < 1:
        raise ValueError(f"--ema_decay lies between 0 and 1, unlike {options.ema_decay}.")
    if len(options.students) > 1 and options.max_gradient_norm is not None:
        raise ValueError("--max_gradient_norm would shorten the gradients of all students together: train one alone.")
    if options.streaming and options.num_steps is None:
        raise ValueError("--streaming needs --num_steps: how many images a stream has is not known.")
    return options


def count_steps(options: argparse.Namespace, num_images: int | None) -> tuple[int, float]:
    """
    Updates, and those of the warm-up. What is left of an epoch behind its last update is not counted.

    Raises:
        ValueError: if the warm-up is as long as the run, or is in epochs of a stream.
    """
    steps_of_epoch = num_images and (num_images // options.batch_size or num_images / options.batch_size)
    num_steps = options.num_steps or max(1, round(options.num_epochs * steps_of_epoch))
    if options.num_warmup_epochs is None:
        return num_steps, num_steps / 20
    if steps_of_epoch is None:
        raise ValueError("--num_warmup_epochs cannot be counted in a stream: leave it out, for a twentieth of all.")
    num_warmup_steps = options.num_warmup_epochs * steps_of_epoch
    if num_warmup_steps >= num_steps:
        raise ValueError(
            f"--num_warmup_epochs {options.num_warmup_epochs:g} are {num_warmup_steps:g} updates, as many as the run."
        )
    return num_steps, num_warmup_steps


def load_images(options: argparse.Namespace) -> Any:
    """The images that the options name, a data set or a stream."""
    from unip_hf.data.unlabelled import load_unlabelled

    return load_unlabelled(
        options.dataset,
        options.data_dir,
        options.split,
        options.streaming,
        config_name=options.dataset_config,
        allow_partial=options.allow_partial,
    )


def look_at_students(options: argparse.Namespace) -> tuple[int, "UnipImageProcessor"]:
    """Patch size of the students, and the image processor that is saved with them."""
    from unip_hf.distillation.students import student_names
    from unip_hf.inference.loading import is_random_start, load_config

    patch_sizes = {getattr(load_config(name), "patch_size", 16) for name in options.students}
    for size in patch_sizes:
        if options.crop_size % size or options.crop_size < 2 * size:
            raise ValueError(
                f"--crop_size {options.crop_size}: take a multiple of the patch size, {size}, two at least."
            )
    if len(patch_sizes) > 1:
        raise ValueError(f"Students that learn together have patches of one size, not of {patch_sizes} pixels.")
    processors = [
        make_image_processor(options, None, options.num_channels)
        if is_random_start(name)
        else make_image_processor(options, name)
        for name in options.students
    ]
    if len({(tuple(processor.image_mean), tuple(processor.image_std)) for processor in processors}) > 1:
        raise ValueError("The students were trained with different normalisations: give --image_mean and --image_std.")
    student_names(options.students)  # before the teacher is loaded
    return patch_sizes.pop(), processors[0]


def prepare_teacher(
    options: argparse.Namespace,
    accelerator: "Accelerator",
    sample: "torch.Tensor",
    found: dict[str, Any],
    sharding: "FullyShardedDataParallelPlugin | None" = None,
) -> tuple["DistillationInput", dict[str, Any]]:
    """
    The teacher on its device, with the block that is learned as its last.

    Args:
        options: Of the command line.
        accelerator: Whose processes agree on the block.
        sample: uint8 images `(number, 1, crop_size, crop_size)` that the block is chosen by.
        found: What a resumed run found out before.
        sharding (*optional*): How the teacher is divided among the processes.

    Returns:
        What asks the teacher, and `teacher_layer` with, where it was searched, `teacher_nmi`.
    """
    import torch
    from accelerate.utils import broadcast_object_list

    from unip_hf.distillation import DistillationInput, load_teacher, select_layer

    patch_size, processor = look_at_students(options)
    layer = None if options.teacher_layer == "auto" else int(options.teacher_layer)
    found = found or {"teacher_layer": layer}
    teacher = load_teacher(
        options.teacher,
        found["teacher_layer"],
        dtype={"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[options.teacher_dtype],
        num_attention_heads=options.teacher_num_attention_heads,
        patch_size=patch_size,
    )
    inputs = DistillationInput(teacher, processor, options.teacher_normalization)
    if found["teacher_layer"] is None:
        choice: Any = (None, None)
        # What is to be divided may fit on no device: then the first process measures it on its CPU.
        device = accelerator.device if sharding is None else torch.device("cpu")
        if sharding is None or accelerator.is_main_process:
            teacher.to(device)
            with accelerator.autocast():
                choice = select_layer(teacher, inputs.for_teacher(sample), show_progress=accelerator.is_main_process)
        layer, nmi = broadcast_object_list(list(choice))  # the same everywhere, to the last bit
        found = {"teacher_layer": layer, "teacher_nmi": nmi}
        teacher.keep_layer(layer)
    heads = options.last_layer_num_attention_heads
    if heads not in (None, teacher.num_attention_heads):
        raise ValueError(
            f"--last_layer_num_attention_heads {heads}: the teacher has {teacher.num_attention_heads}, and so the "
            "students must. Leave it out."
        )
    if options.compile:
        teacher.compile()
    if sharding is None:
        teacher.to(accelerator.device)
    else:
        teacher.shard(
            accelerator.device,
            reshard_after_forward=sharding.reshard_after_forward,
            offload_policy=sharding.cpu_offload,
        )
    return inputs, found


def prepare_students(options: argparse.Namespace, num_teacher_heads: int) -> "Students":
    """The students, by the names that logs and folders give them."""
    from unip_hf.distillation import Students, load_student
    from unip_hf.distillation.students import student_names

    students = Students(
        {
            name: load_student(
                checkpoint, num_teacher_heads, options.crop_size, options.drop_path_rate, options.num_channels
            )
            for name, checkpoint in zip(student_names(options.students), options.students)
        }
    )
    student: Any
    for student in students.values():
        if options.gradient_checkpointing:
            student.gradient_checkpointing_enable()
        if options.compile:
            student.compile()
    return students


def show_layers(found: dict[str, Any], teacher: str, output_dir: Path) -> None:
    """Prints and draws the curve that a layer was chosen by."""
    from unip_hf.analysis.attention import STABLE_NMI
    from unip_hf.analysis.plots import nmi_curve
    from unip_hf.files import write_whole

    print(f"Normalised mutual information of the attention of {teacher}:")
    for number, value in enumerate(found["teacher_nmi"], start=1):
        print(f"  block {number:2d}  {value:.4f}" + "   <- nearest to 0.09" * (number == found["teacher_layer"]))
    lowest, highest = STABLE_NMI
    if not lowest <= found["teacher_nmi"][found["teacher_layer"] - 1] <= highest:
        print(f"No block is hybrid ({lowest} to {highest}): is it the right teacher, and --teacher_normalization?")
    with write_whole(output_dir / "teacher_layers.png") as staged:
        nmi_curve(found["teacher_nmi"], found["teacher_layer"]).savefig(staged, format="png", dpi=150)


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    run = open_run(options)
    import torch
    from accelerate.utils import FullyShardedDataParallelPlugin, set_seed
    from transformers.utils import logging as transformers_logging

    from unip_hf.data.grey_crops import GreyCrop, read_crops, sample_crops
    from unip_hf.distillation import AttentionMonitor
    from unip_hf.files import write_whole
    from unip_hf.training import cosine_schedule, layer_decay_parameter_groups, train

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # An accelerate configuration for FSDP is about the teacher: students are small, and each device has a copy.
    is_sharded = os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() == "true"
    sharding = FullyShardedDataParallelPlugin(fsdp_version=2) if is_sharded else None
    accelerator = make_accelerator(options)
    logging.basicConfig(level=logging.WARNING if accelerator.is_main_process else logging.ERROR, format="%(message)s")
    per_device, accumulation_steps = divide_batch(options, accelerator.num_processes, LARGEST_PER_DEVICE_BATCH)
    with accelerator.main_process_first():  # it fills the cache
        rows = load_images(options)
    sample = sample_crops(rows, options.num_sample_images, options.crop_size)
    crop = GreyCrop(options.crop_size, tuple(options.crop_scale), flip_probability=options.flip_probability)
    inputs, found = prepare_teacher(options, accelerator, sample, run.get("found", {}), sharding)
    teacher, processor = inputs.teacher, inputs.processor
    if options.streaming:
        readers = [accelerator.num_processes, per_device, options.num_workers]
        if found.setdefault("readers", readers) != readers:
            raise ValueError(
                "A run that reads a stream goes on with the processes, images at once and workers that it had, "
                f"{found['readers']}, not {readers}."
            )
    set_seed(options.seed)
    students = prepare_students(options, teacher.num_attention_heads)
    set_seed(options.seed, device_specific=True)
    learning_rate = options.learning_rate or 1.5e-4 * options.batch_size / 256
    groups = layer_decay_parameter_groups(students, learning_rate, layer_decay=1, weight_decay=options.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=tuple(options.adam_betas))
    num_images = None if options.streaming else len(rows)
    num_steps, num_warmup_steps = count_steps(options, num_images)
    if found.setdefault("num_images", num_images) != num_images:
        raise ValueError(f"A resumed run keeps its images: there were {found['num_images']}, now {num_images}.")

    def batches(first_step: int) -> Iterable[dict[str, torch.Tensor]]:
        return read_crops(
            rows,
            crop,
            per_device,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            seed=options.seed,
            first_batch=first_step * accumulation_steps,
            num_workers=options.num_workers,
            pin_memory=accelerator.device.type == "cuda",
        )

    def save_model(trained: Any, folder: Path) -> None:
        for name, student in trained.items():
            with write_whole(folder if len(trained) == 1 else folder / name) as staged:
                student.save_pretrained(staged)
                processor.save_pretrained(staged)

    if accelerator.is_main_process:
        start_run(options, {**run, "num_steps": num_steps, "found": found})
        if "teacher_nmi" in found:
            show_layers(found, options.teacher, options.output_dir)
        sizes = {name: sum(p.numel() for p in student.parameters()) for name, student in students.items()}
        parameters = ", ".join(f"{name} {size / 1e6:.2f} M" for name, size in sizes.items())
        epochs = num_images and f" = {num_steps * options.batch_size / num_images:.1f} epochs of {num_images} images"
        print(
            f"Teacher: block {teacher.layer} of {teacher.num_layers} of {options.teacher}, "
            f"{teacher.num_attention_heads} heads; students: {parameters} parameters; on {accelerator.device.type}\n"
            f"Batch {options.batch_size} = {accelerator.num_processes} device(s) x {per_device} images x "
            f"{accumulation_steps} accumulation step(s); {num_steps} steps{epochs or ''}",
            flush=True,
        )
    accelerator.wait_for_everyone()
    twentieth = max(1, num_steps // 20)
    pictures_every = twentieth if options.pictures_every is None else options.pictures_every
    monitor = AttentionMonitor(accelerator, inputs, sample, options.output_dir)
    with tracked(accelerator, run):
        train(
            accelerator,
            students,
            optimizer,
            batches=batches,
            compute_loss=lambda model, batch: model(*inputs(batch["images"])),
            batch_weight=lambda batch: len(batch["images"]),
            schedule=lambda step: cosine_schedule(step, num_steps, num_warmup_steps),
            num_steps=num_steps,
            output_dir=options.output_dir,
            save_model=save_model,
            loss_names=[f"loss/{name}" for name in students] if len(students) > 1 else (),
            evaluate=monitor if pictures_every else None,
            evaluate_every=pictures_every or num_steps,
            save_every=options.save_every or twentieth,
            log_every=options.log_every,
            accumulation_steps=accumulation_steps,
            max_gradient_norm=options.max_gradient_norm,
            ema_decay=options.ema_decay,
            resume_from_checkpoint=options.resume_from_checkpoint,
        )
    if accelerator.is_main_process:
        last = options.output_dir / "last"
        places = [last] if len(students) == 1 else [last / name for name in students]
        print(f"Trained: {', '.join(map(str, places))}, for `unip finetune --model`")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))

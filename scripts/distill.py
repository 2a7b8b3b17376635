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
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unip_hf.scripts.options import (
    DATASETS,
    add_benchmark_options,
    add_recipe_options,
    add_training_options,
    check_positive,
    check_training_options,
    make_image_processor,
    make_parser,
    with_recipe,
)
from unip_hf.scripts.runs import divide_batch, make_accelerator, open_run, save_with_processor, start_run, tracked


if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin

    from unip_hf import UnipImageProcessor
    from unip_hf.distillation import DistillationInput, Students


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
    data.add_argument("--streaming", action="store_true", help="read the data set in order, without an index or cache")

    teacher = parser.add_argument_group("teacher")
    teacher.add_argument(
        "--teacher",
        required=True,
        help="timm:NAME, a file as MAE, DINO or iBOT publish it, or folder or\nHub name of a ViT from transformers",
    )
    teacher.add_argument(
        "--teacher_layer",
        default="auto",
        help='block to learn, from 1; "auto" (default) takes the one with attention\nnearest to hybrid: '
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
    teacher.add_argument("--teacher_num_attention_heads", type=int, help="for a published file of unusual width")

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
    students.add_argument("--last_layer_num_attention_heads", type=int, help="must be the teacher's (default)")

    images = parser.add_argument_group("images", "grey, cropped at random, resized (bicubic), flipped")
    images.add_argument("--crop_size", type=int, default=224, help="pixels (default: %(default)s)")
    images.add_argument("--crop_scale", type=float, nargs=2, default=[0.2, 1.0], help="share of the image (0.2 to 1)")
    images.add_argument("--flip_probability", type=float, default=0.5, help="default: %(default)s")
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
    check_training_options(options)
    check_positive(options, "num_sample_images")
    check_positive(options, "num_warmup_epochs", "pictures_every", "drop_path_rate", or_zero=True)
    if len(options.students) > 1 and options.max_gradient_norm is not None:
        raise ValueError("--max_gradient_norm would shorten the gradients of all students together: train one alone.")
    if options.streaming and options.num_steps is None:
        raise ValueError("--streaming needs --num_steps: the number of images in a stream is not known.")
    return options


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


def load_images(options: argparse.Namespace) -> Any:
    """The images that the options name: a data set or a stream."""
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
    if len(patch_sizes) > 1:
        raise ValueError(f"Students that learn together must have the same patch size, got {sorted(patch_sizes)}.")
    size = patch_sizes.pop()
    if options.crop_size % size or options.crop_size < 2 * size:
        raise ValueError(
            f"--crop_size must be a multiple of the patch size, {size}, and at least {2 * size}, "
            f"got {options.crop_size}."
        )
    processors = [
        make_image_processor(options, None, options.num_channels)
        if is_random_start(name)
        else make_image_processor(options, name)
        for name in options.students
    ]
    if len({(tuple(processor.image_mean), tuple(processor.image_std)) for processor in processors}) > 1:
        raise ValueError("The students were trained with different normalisations: give --image_mean and --image_std.")
    student_names(options.students)  # fails before the teacher is loaded
    return size, processors[0]


def prepare_teacher(
    options: argparse.Namespace,
    accelerator: "Accelerator",
    sample: "torch.Tensor",
    found: dict[str, Any],
    sharding: "FullyShardedDataParallelPlugin | None" = None,
) -> tuple["DistillationInput", dict[str, Any]]:
    """
    The teacher on its device, with the block that is learned as its last; and `teacher_layer` with, if it was
    searched, `teacher_nmi`. It is searched with the sample, uint8 images `(number, 1, crop_size, crop_size)`. `found`
    is what a resumed run found out before, `sharding` how the teacher is divided among the processes.
    """
    import torch
    from accelerate.utils import broadcast_object_list

    from unip_hf.distillation import DistillationInput, load_teacher, select_layer

    patch_size, processor = look_at_students(options)
    found = dict(found)  # with `teacher_layer` in a resumed run
    found.setdefault("teacher_layer", None if options.teacher_layer == "auto" else int(options.teacher_layer))
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
        # A teacher that is to be divided may fit on no device: the first process measures it on its CPU.
        if sharding is None or accelerator.is_main_process:
            teacher.to(accelerator.device if sharding is None else "cpu")
            with accelerator.autocast():
                images = inputs.for_teacher(sample)
                choice = select_layer(teacher, images, show_progress=accelerator.is_main_process)
        layer, nmi = broadcast_object_list(list(choice))
        found |= {"teacher_layer": layer, "teacher_nmi": nmi}
        teacher.keep_layer(layer)
    if options.last_layer_num_attention_heads not in (None, teacher.num_attention_heads):
        raise ValueError(
            f"--last_layer_num_attention_heads must be that of the teacher, {teacher.num_attention_heads}, got "
            f"{options.last_layer_num_attention_heads}. Leave it out."
        )
    if options.compile:
        teacher.compile()
    if sharding is None:
        teacher.to(accelerator.device)
    else:
        reshards, offload_policy = sharding.reshard_after_forward, sharding.cpu_offload
        teacher.shard(accelerator.device, reshard_after_forward=reshards, offload_policy=offload_policy)
    return inputs, found


def prepare_students(options: argparse.Namespace, num_teacher_heads: int) -> "Students":
    """The students, by the names that logs and folders give them."""
    from unip_hf.distillation import Students, load_student
    from unip_hf.distillation.students import student_names

    students: dict[str, Any] = {}
    for name, checkpoint in zip(student_names(options.students), options.students):
        students[name] = student = load_student(
            checkpoint, num_teacher_heads, options.crop_size, options.drop_path_rate, options.num_channels
        )
        if options.gradient_checkpointing:
            student.gradient_checkpointing_enable()
        if options.compile:
            student.compile()
    return Students(students)


def show_layers(found: dict[str, Any], teacher: str, output_dir: Path, title: str = "") -> None:
    """Prints and draws the curve that a layer was chosen by."""
    from unip_hf.analysis.attention import STABLE_NMI
    from unip_hf.analysis.plots import nmi_curve
    from unip_hf.files import write_whole

    print(f"Normalised mutual information of the attention of {teacher}:")
    for number, value in enumerate(found["teacher_nmi"], start=1):
        print(f"  block {number:2d}  {value:.4f}" + "   <- nearest to 0.09" * (number == found["teacher_layer"]))
    lowest, highest = STABLE_NMI
    if not lowest <= found["teacher_nmi"][found["teacher_layer"] - 1] <= highest:
        print(f"No block is hybrid ({lowest} to {highest}). Check --teacher and --teacher_normalization.")
    with write_whole(output_dir / "teacher_layers.png") as staged:
        nmi_curve(found["teacher_nmi"], found["teacher_layer"], title=title).savefig(staged, format="png", dpi=150)


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
    sample = sample_crops(rows, options.num_sample_images, options.crop_size)
    crop = GreyCrop(options.crop_size, tuple(options.crop_scale), flip_probability=options.flip_probability)
    inputs, found = prepare_teacher(options, accelerator, sample, run.get("found", {}), sharding)
    teacher = inputs.teacher
    if options.streaming:
        readers = [division.num_processes, division.per_device, options.num_workers]
        if found.setdefault("readers", readers) != readers:
            raise ValueError(
                "A resumed run that reads a stream must keep its processes, images at once and workers: they were "
                f"{found['readers']}, now {readers}."
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
        for name, student in trained.items():
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
    )
    if accelerator.is_main_process:
        start_run(options, {**run, "num_steps": num_steps, "found": found})
        if "teacher_nmi" in found:
            show_layers(found, options.teacher, options.output_dir)
        sizes = {name: sum(p.numel() for p in student.parameters()) for name, student in students.items()}
        parameters = ", ".join(f"{name} {size / 1e6:.2f} M" for name, size in sizes.items())
        print(
            f"Teacher: block {teacher.layer} of {teacher.num_layers} of {options.teacher}, "
            f"{teacher.num_attention_heads} heads; students: {parameters} parameters; on {accelerator.device.type}\n"
            + division.describe(num_steps, num_images),
            flush=True,
        )
    accelerator.wait_for_everyone()
    with tracked(accelerator, run):
        loop.run(options.resume_from_checkpoint)
    if accelerator.is_main_process:
        last = options.output_dir / "last"
        places = [last] if len(students) == 1 else [last / name for name in students]
        print(f"Trained: {', '.join(map(str, places))}, for `unip finetune --model`")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))

# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What `unip distill` and `unip compare-layers` make of their options: images, objective, teacher and students."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unip_hf.scripts.image_options import make_image_processor


if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin

    from unip_hf import UnipImageProcessor
    from unip_hf.distillation import Objective, StudentInput, Students, Teacher


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
        leave_out=options.leave_out or (),
        keep_colour=options.keep_colour,
    )


def look_at_students(options: argparse.Namespace) -> tuple[int, "UnipImageProcessor"]:
    """Patch size of the students, and the image processor that is saved with them."""
    from unip_hf.distillation.students import student_names, student_patch_size

    patch_sizes = {student_patch_size(name) for name in options.students}
    if len(patch_sizes) > 1:
        raise ValueError(f"Students that learn together must have the same patch size, got {sorted(patch_sizes)}.")
    size = patch_sizes.pop()
    if options.crop_size % size or options.crop_size < 2 * size:
        raise ValueError(
            f"--crop_size must be a multiple of the patch size, {size}, and at least {2 * size}, "
            f"got {options.crop_size}."
        )
    processors = [processor_of_student(options, name) for name in options.students]
    if len({(tuple(processor.image_mean), tuple(processor.image_std)) for processor in processors}) > 1:
        raise ValueError("The students were trained with different normalisations: give --image_mean and --image_std.")
    if options.keep_colour and processors[0].num_channels == 1:
        raise ValueError("--keep_colour needs students of three channels: leave --num_channels 1 out.")
    student_names(options.students)  # fails before the teacher is loaded
    return size, processors[0]


def processor_of_student(options: argparse.Namespace, name: str) -> "UnipImageProcessor":
    """That of a UNIP model; for a random start or a ViT of another library one for infrared images."""
    from unip_hf.hub.pretrained import TIMM_PREFIX
    from unip_hf.inference.loading import is_random_start, load_config

    if is_random_start(name):
        return make_image_processor(options, None, options.num_channels)
    is_own = not name.startswith(TIMM_PREFIX) and load_config(name).model_type == "unip"
    return make_image_processor(options, name if is_own else None)


def make_objective(options: argparse.Namespace) -> "Objective":
    """What `--objective` names."""
    from unip_hf.distillation import ATTENTION, FEATURES, masked_reconstruction

    if options.objective == "mae":
        decoder = {name: value for name, value in vars(options).items() if name.startswith("decoder_")}
        return masked_reconstruction(options.crop_size, options.mask_ratio, **decoder)
    return {"attention": ATTENTION, "features": FEATURES}[options.objective]


def prepare_inputs(
    options: argparse.Namespace,
    objective: "Objective",
    accelerator: "Accelerator",
    sample: "torch.Tensor",
    found: dict[str, Any],
    is_sharded: bool = False,
) -> tuple["StudentInput", dict[str, Any]]:
    """
    What the students see and, if the objective has a teacher, are compared with; and what the run found out.

    The block that is learned is the teacher's last. `teacher_layer` and `teacher_dtype` are found and, if the layer
    was searched, `teacher_nmi`. It is searched with the sample, uint8 images `(number, 1, crop_size, crop_size)`.
    `found` is what a resumed run found out before. `is_sharded` says whether the teacher will be divided among the
    processes.
    """
    import torch
    from accelerate.utils import broadcast_object_list

    from unip_hf.distillation import DistillationInput, StudentInput, load_teacher, select_layer

    patch_size, processor = look_at_students(options)
    found = dict(found)  # with `teacher_layer` in a resumed run
    if objective.ask is None:
        return StudentInput(processor), found
    found.setdefault("teacher_layer", None if options.teacher_layer == "auto" else int(options.teacher_layer))
    is_bf16 = accelerator.device.type == "cuda" and accelerator.mixed_precision == "bf16"
    usual_dtype = "bf16" if is_bf16 else "fp32"
    found.setdefault("teacher_dtype", usual_dtype if options.teacher_dtype == "auto" else options.teacher_dtype)
    teacher = load_teacher(
        options.teacher,
        found["teacher_layer"],
        dtype={"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[found["teacher_dtype"]],
        num_attention_heads=options.teacher_num_attention_heads,
        patch_size=patch_size,
    )
    inputs = DistillationInput(teacher, processor, options.teacher_normalization, objective.ask)
    if found["teacher_layer"] is None:
        choice: Any = (None, None)
        # A teacher that is to be divided may fit on no device: the first process measures it on its CPU.
        if not is_sharded or accelerator.is_main_process:
            teacher.to("cpu" if is_sharded else accelerator.device)
            with accelerator.autocast():
                images = inputs.for_teacher(sample)
                choice = select_layer(
                    teacher, images, target=options.nmi_target, show_progress=accelerator.is_main_process
                )
        layer, nmi = broadcast_object_list(list(choice))
        found |= {"teacher_layer": layer, "teacher_nmi": nmi}
        teacher.keep_layer(layer)
    if options.last_layer_num_attention_heads not in (None, teacher.num_attention_heads):
        raise ValueError(
            f"--last_layer_num_attention_heads must be that of the teacher, {teacher.num_attention_heads}, got "
            f"{options.last_layer_num_attention_heads}. Leave it out."
        )
    return inputs, found


def place_teacher(
    options: argparse.Namespace,
    teacher: "Teacher",
    device: "torch.device",
    sharding: "FullyShardedDataParallelPlugin | None",
) -> None:
    """Puts the teacher on its device, or divides it among all processes; compiles it, if that is wanted."""
    if options.compile:
        teacher.compile()
    if sharding is None:
        teacher.to(device)
    else:
        reshards, offload_policy = sharding.reshard_after_forward, sharding.cpu_offload
        teacher.shard(device, reshard_after_forward=reshards, offload_policy=offload_policy)


def count_operations(
    side: int, objective: "Objective", teacher: "Teacher | None", students: "Students"
) -> float | None:
    """
    Floating-point operations for one image of `side` x `side` pixels: the forward pass of the teacher, which is not
    divided yet, and the forward and backward passes of all students. `None` if a network cannot be counted.
    """
    import torch

    from unip_hf.analysis.cost import count_training_operations

    (num_channels,) = {student.config.num_channels for student in students.checkpoints().values()}

    def learn(networks: "Students") -> list[torch.Tensor]:
        outputs = [network(torch.zeros(2, num_channels, side, side)) for network in networks.values()]
        return [getattr(output, answer) for output in outputs for answer in networks.answers]

    counts = [count_training_operations(students, learn)]
    if (ask := objective.ask) is not None and teacher is not None:
        counts.append(count_training_operations(teacher, lambda network: ask(network, torch.zeros(2, 3, side, side))))
    known = [count for count in counts if count is not None]
    return sum(known) / 2 if len(known) == len(counts) else None


def prepare_students(options: argparse.Namespace, objective: "Objective", teacher: "Teacher | None") -> "Students":
    """The students, by the names that logs and folders give them."""
    from unip_hf.distillation import Students, load_student
    from unip_hf.distillation.students import student_names
    from unip_hf.training import enable_gradient_checkpointing

    num_heads = teacher.num_attention_heads if objective.shares_heads and teacher is not None else None
    students: dict[str, Any] = {}
    for name, checkpoint in zip(student_names(options.students), options.students):
        student = load_student(checkpoint, num_heads, options.crop_size, options.drop_path_rate, options.num_channels)
        trained: Any = objective.prepare(student, teacher)
        students[name] = trained
        if options.gradient_checkpointing:
            enable_gradient_checkpointing(trained)
        if options.compile:
            trained.compile()
    return Students(students, objective.loss, objective.answers)


def show_layers(found: dict[str, Any], teacher: str, output_dir: Path, target: float = 0.09, title: str = "") -> None:
    """Prints and draws the curve that a layer was chosen by: the one nearest to the target."""
    from unip_hf.analysis.attention import STABLE_NMI
    from unip_hf.analysis.plots import nmi_curve
    from unip_hf.files import write_whole

    print(f"Normalised mutual information of the attention of {teacher}:")
    for number, value in enumerate(found["teacher_nmi"], start=1):
        print(
            f"  block {number:2d}  {value:.4f}" + f"   <- nearest to {target:g}" * (number == found["teacher_layer"])
        )
    lowest, highest = STABLE_NMI
    chosen = found["teacher_nmi"][found["teacher_layer"] - 1]
    if lowest <= target <= highest and not lowest <= chosen <= highest:
        print(f"No block is hybrid ({lowest} to {highest}). Check --teacher and --teacher_normalization.")
    with write_whole(output_dir / "teacher_layers.png") as staged:
        nmi_curve(found["teacher_nmi"], found["teacher_layer"], target, title).savefig(staged, format="png", dpi=150)

# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Options of `unip finetune` that choose which parts of a model are trained, and how: pairs, LoRA, the optimizer."""

import argparse
from typing import TYPE_CHECKING, Any

from unip_hf.scripts.image_options import training_crop
from unip_hf.scripts.runs import prepare_speed


if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from unip_hf.training import RunSpeed


def add_parts_options(parser: argparse.ArgumentParser) -> None:
    """What is trained beside a frozen backbone."""
    parts = parser.add_argument_group("pairs and small parts", "visible beside infrared images; a frozen backbone")
    parts.add_argument("--fusion", choices=["iv_tuning", "unirgb_ir"], help="read pairs (default: as the model)")
    parts.add_argument(
        "--main_modality",
        choices=["infrared", "visible"],
        help="which image the backbone reads (default: as the model, otherwise infrared)",
    )
    parts.add_argument("--unfreeze", action="store_true", help="of pairs, train the backbone, too")
    parts.add_argument(
        "--modality_dropout", type=float, metavar="P", help="probability of an example without its second image"
    )
    parts.add_argument(
        "--lora_rank", type=int, metavar="R", help="freeze the backbone but for LoRA, which is merged when saved"
    )
    parts.add_argument(
        "--only_trained", action="store_true", help="save what is trained alone; loading needs the model it came from"
    )


def add_optimizer_options(recipe: Any) -> None:
    """Optimizer and schedule."""
    recipe.add_argument("--learning_rate", type=float, default=1e-4, help="default: %(default)s")
    recipe.add_argument("--final_learning_rate", type=float, default=0.0, help="at the end (default: 0)")
    recipe.add_argument(
        "--decay_power", type=float, default=1.0, help="of the polynomial decay (default: 1, a straight line)"
    )
    recipe.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw", help="default: %(default)s")
    recipe.add_argument("--momentum", type=float, help="of sgd (default: 0.9)")
    recipe.add_argument("--layer_decay", type=float, default=0.85, help="default: %(default)s")
    recipe.add_argument("--decay_vectors", action="store_true", help="decay biases and norms like other weights")


def check_parts(options: argparse.Namespace) -> None:
    """Checks the options above against one another."""
    if options.final_learning_rate > options.learning_rate:
        raise ValueError(
            f"--final_learning_rate {options.final_learning_rate} must not be above --learning_rate "
            f"{options.learning_rate}."
        )
    if options.momentum is not None and (options.optimizer != "sgd" or options.momentum >= 1):
        raise ValueError("--momentum goes with --optimizer sgd and must be below 1.")
    if options.modality_dropout is not None and not 0 < options.modality_dropout < 1:
        raise ValueError(f"--modality_dropout must be between 0 and 1, got {options.modality_dropout}.")
    is_probe = options.linear_probe or options.layerwise_probe
    if is_probe and options.fusion is not None:
        raise ValueError("A probe trains classifiers alone, nothing that reads a second image: leave out --fusion.")
    if options.lora_rank is not None and (options.unfreeze or options.only_trained or is_probe):
        raise ValueError(
            "--lora_rank freezes the backbone, and is merged into it when saved: leave out --unfreeze, --only_trained "
            "and the probes."
        )
    if options.only_trained and (options.unfreeze or options.layerwise_probe):
        raise ValueError("--only_trained leaves out a frozen backbone: leave out --unfreeze and --layerwise_probe.")


def prepare_parts(options: argparse.Namespace, model: Any) -> None:
    """
    Adds LoRA to a model that was loaded, if it is wanted.

    Args:
        options: What [`add_parts_options`] were given.
        model: The model. It is changed.

    Raises:
        ValueError: if the options do not go with the model, or saving would not work.
    """
    from unip_hf.finetuning import add_lora
    from unip_hf.modeling.trained_weights_unip import without_backbone

    if getattr(model.config, "fusion", None) is None:
        names = ("main_modality", "unfreeze", "modality_dropout", "auxiliary_image_mean", "auxiliary_image_std")
        given = [name for name in names if getattr(options, name)]
        if given:
            raise ValueError(f"--{given[0]} is for pairs of images: add --fusion, or choose a model that reads pairs.")
    if options.lora_rank is not None:
        add_lora(model, options.lora_rank)
    if options.only_trained:
        if model.config.model_type != "unip":
            raise ValueError(f"--only_trained is for UNIP models, not for {model.config.model_type}.")
        without_backbone(model, model.state_dict(), model.config.backbone_checkpoint or model.config.name_or_path)


def prepare_segmentation_speed(options: argparse.Namespace, model: Any, accelerator: "Accelerator") -> "RunSpeed":
    """What the speed of the training is calculated from."""
    import torch

    from unip_hf.analysis.cost import count_training_operations, image_inputs

    height, width = training_crop(options)

    def compute_loss(network: Any) -> torch.Tensor:
        images = {name: image.expand(2, -1, -1, -1) for name, image in image_inputs(network, height, width).items()}
        return network(**images, labels=torch.zeros(2, height, width, dtype=torch.long)).loss

    num_operations = count_training_operations(model, compute_loss)  # of two images
    return prepare_speed(accelerator, options.batch_size, num_operations and num_operations / 2)


def make_optimizer(options: argparse.Namespace, model: Any) -> "torch.optim.Optimizer":
    """The optimizer for what is trained."""
    import torch

    from unip_hf.training import layer_decay_parameter_groups

    rate, decay = options.learning_rate, options.weight_decay
    groups: Any = [p for p in model.parameters() if p.requires_grad]  # probes: biases decay, as published
    if not getattr(model, "freezes_encoder", False):
        groups = layer_decay_parameter_groups(model, rate, options.layer_decay, decay, options.decay_vectors)
    if options.optimizer == "sgd":
        momentum = 0.9 if options.momentum is None else options.momentum
        return torch.optim.SGD(groups, rate, momentum=momentum, weight_decay=decay)
    return torch.optim.AdamW(groups, rate, (0.9, 0.999), weight_decay=decay, fused=True)

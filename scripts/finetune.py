# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Fine-tunes a UNIP model, a plain ViT of timm or transformers, or any other model for semantic segmentation, on infrared
images with masks; or probes frozen blocks with linear classifiers.

    unip finetune --model unip-small --data_dir my-images --output_dir outputs/small
    unip finetune --model unip-small --data_dir my-images --output_dir outputs/probe --layerwise_probe
    unip finetune --model timm:vit_small_patch16_224.dino --data_dir my-images --output_dir outputs/dino
    unip finetune --model nvidia/mit-b0 --data_dir my-images --output_dir outputs/segformer
    unip finetune --model unip-small --data_dir my-pairs --output_dir outputs/pairs --fusion iv_tuning
    accelerate launch scripts/finetune.py --config recipe.yaml --output_dir outputs/small
"""

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unip_hf.scripts.image_options import add_image_options, make_image_processor, make_transform
from unip_hf.scripts.options import (
    add_dataset_options,
    add_recipe_options,
    add_training_options,
    add_window_options,
    check_positive,
    check_training_options,
    load_dataset,
    make_parser,
    make_window_settings,
    with_recipe,
)
from unip_hf.scripts.parts import (
    add_optimizer_options,
    add_parts_options,
    check_parts,
    make_optimizer,
    prepare_parts,
    prepare_segmentation_speed,
)
from unip_hf.scripts.runs import divide_batch, make_accelerator, open_run, save_with_processor, started


if TYPE_CHECKING:
    from accelerate import Accelerator

    from unip_hf.finetuning import SegmentationLoss


CLASS_PIXELS = "class_pixels.npy"  # in the folder of the run


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("finetune", __doc__)
    add_training_options(parser, num_workers=None)
    data = add_dataset_options(parser)
    data.add_argument("--train_split", default="train", help="default: %(default)s")
    data.add_argument("--validation_split", default="validation", help="default: %(default)s")
    data.add_argument("--skip_check", action="store_true", help="do not look at every image before training")

    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        required=True,
        help="folder, name on the Hub, timm:NAME, or tiny, small, base, large for a random start",
    )
    model.add_argument("--task", help="which head is trained, by the task of its class (default: fine_tuning)")
    model.add_argument("--linear_probe", action="store_true", help="freeze the backbone, train one 1x1 classifier")
    model.add_argument("--layerwise_probe", action="store_true", help="one classifier for each block, all in one run")
    model.add_argument("--feature_layers", type=int, nargs="+", help="blocks that are read, from 1")
    model.add_argument("--new_classifier", action="store_true", help="replace a head that has other classes")
    model.add_argument("--drop_path_rate", type=float, default=0.1, help="of the last block (default: %(default)s)")
    model.add_argument(
        "--last_layer_num_attention_heads",
        type=int,
        help="keep the heads that distillation gave the last block\n(default: as all blocks, like the published code)",
    )
    model.add_argument("--decoder_channels", type=int, help="width of a new head (default: of the encoder)")
    model.add_argument(
        "--num_channels",
        type=int,
        choices=[1, 3],
        default=3,
        help="of a random start; 1 also for a ViT of timm or transformers",
    )

    add_parts_options(parser)
    add_image_options(parser)
    recipe = add_recipe_options(parser, batch_size=8)
    recipe.add_argument("--num_warmup_steps", type=int, help="default: a tenth of all")
    add_optimizer_options(recipe)
    recipe.add_argument(
        "--loss_average",
        choices=["valid_pixels", "all_pixels"],
        help="divide the loss by the labelled pixels, or by all like the published code\n"
        "(default: as the checkpoint says, otherwise valid_pixels)",
    )
    recipe.add_argument("--freeze_batch_norm", action="store_true", help="keep its statistics as they are")

    rare = parser.add_argument_group("rare classes", "not in the paper; all off by default")
    rare.add_argument(
        "--class_weights",
        nargs="+",
        default=["none"],
        metavar="none|enet|inverse_sqrt|FILE|NUMBERS",
        help='of the cross-entropy; a file is JSON, {"background": 0.5, "person": 10};\nnumbers: one for each class',
    )
    rare.add_argument("--dice_loss_weight", type=float, default=0.0, help="add a Dice loss with this weight")
    rare.add_argument("--focal_gamma", type=float, default=0.0, help="focal loss, 2 for example")
    rare.add_argument(
        "--rare_class_sampling",
        type=float,
        metavar="T",
        help="draw a class with softmax((1 - share) / T), then a crop that holds it;\n"
        "1 for example; less for more of the rarest",
    )

    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument("--evaluate_every", type=int, help="in updates (default: 18 times in the run)")
    add_window_options(evaluation)
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(with_recipe(arguments))
    if sum((options.linear_probe, options.layerwise_probe, options.task is not None)) > 1:
        raise ValueError("--task, --linear_probe and --layerwise_probe cannot be used together.")
    if options.task in ("linear_probe", "layerwise_probe"):  # these have options of their own
        setattr(options, options.task, True)
        options.task = None
    check_training_options(options)
    check_positive(options, "shortest_edge", "longest_edge", "evaluate_every", "decoder_channels")
    check_positive(options, "rare_class_sampling", "lora_rank", "decay_power")
    check_positive(options, "num_warmup_steps", "dice_loss_weight", "focal_gamma", or_zero=True)
    check_positive(options, "final_learning_rate", "momentum", or_zero=True)
    check_parts(options)
    if len(options.class_weights) == 1:
        (options.class_weights,) = options.class_weights
        return options
    try:
        options.class_weights = [float(weight) for weight in options.class_weights]
    except ValueError as error:
        raise ValueError(f"--class_weights takes one word, or a number for each class: {error}.") from error
    return options


def load_data(options: argparse.Namespace, accelerator: "Accelerator") -> tuple[dict[int, str], Any, Any]:
    """The classes, the training rows, and the validation rows, if there are any."""
    from unip_hf.data import check_dataset, load_id2label
    from unip_hf.data.labelled import select_split

    id2label = load_id2label(options.dataset, options.data_dir)
    dataset = load_dataset(options)
    used = {options.train_split: select_split(dataset, options.train_split)}
    if options.validation_split in dataset or options.validation_split != "validation":
        used[options.validation_split] = select_split(dataset, options.validation_split)
    else:
        logging.getLogger(__name__).warning("There is no split 'validation': nothing is evaluated during training.")
    # Other datasets were checked when their cache was filled.
    if options.dataset == "folder" and not options.skip_check and accelerator.is_main_process:
        check_dataset(used, id2label, options.num_workers).raise_for_errors()
    accelerator.wait_for_everyone()
    return id2label, used[options.train_split], used.get(options.validation_split)


def prepare_rare_classes(
    options: argparse.Namespace, rows: Any, id2label: dict[int, str], accelerator: "Accelerator", run: dict[str, Any]
) -> tuple["SegmentationLoss", Any]:
    """
    The loss, and the pixels of each class in each training mask if they are needed. They are counted once: a resumed
    run reads its own file. Shares and weights of the classes become part of `run`.
    """
    import numpy as np
    from accelerate.utils import broadcast_object_list

    from unip_hf.data.class_pixels import count_class_pixels
    from unip_hf.finetuning import SegmentationLoss, make_class_weights

    loss = SegmentationLoss(dice_loss_weight=options.dice_loss_weight, focal_gamma=options.focal_gamma)
    if options.class_weights == "none" and options.rare_class_sampling is None:
        return loss, None
    counts = None
    if accelerator.is_main_process:
        file = options.output_dir / CLASS_PIXELS
        is_counted = options.resume_from_checkpoint is not None and file.is_file()
        counts = np.load(file) if is_counted else count_class_pixels(rows, len(id2label))
        if counts.shape != (len(rows), len(id2label)):
            raise ValueError(f"{str(file)!r} is of another dataset than this one of {len(rows)} images: start anew.")
    (class_pixels,) = broadcast_object_list([counts])
    names, shares = list(id2label.values()), (class_pixels.sum(axis=0) / max(class_pixels.sum(), 1)).tolist()
    found = run.setdefault("found", {})
    found["class_shares"] = dict(zip(names, shares))
    if options.class_weights != "none":
        weights = make_class_weights(options.class_weights, shares, names)
        # a resumed run keeps its weights even if the file they came from has changed
        found.setdefault("class_weights", dict(zip(names, weights)))
        loss.class_weights = list(found["class_weights"].values())
    return loss, class_pixels


def prepare_batch_norm(options: argparse.Namespace, model: Any, accelerator: "Accelerator", per_device: int) -> Any:
    """Batch norm that sees the whole batch, not one device's part of it."""
    from torch import nn

    has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    if options.freeze_batch_norm or not has_batch_norm:
        return model
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if per_device == 1 and model.config.model_type != "unip":
        raise ValueError(
            f"The batch norm of {type(model).__name__} cannot be trained with one image at a time: add "
            "--freeze_batch_norm, or give each device two images."
        )
    if accelerator.num_processes > 1 and accelerator.is_main_process:
        logging.getLogger(__name__).warning("On CPUs each process has its own batch norm, or add --freeze_batch_norm.")
    return model


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    run = open_run(options)
    import numpy as np
    import torch
    from accelerate.utils import set_seed

    from unip_hf.data.reading import has_pairs
    from unip_hf.data.samples import RareClassBatches, ShuffledBatches, TrainingSamples, read_batches
    from unip_hf.evaluation import MAIN_METRIC
    from unip_hf.files import write_whole
    from unip_hf.finetuning import (
        ModalityDropout,
        UnipForLayerwiseProbing,
        Validation,
        load_model,
        merged_lora,
        set_training_mode,
    )
    from unip_hf.finetuning.backbones import describe_backbone
    from unip_hf.finetuning.validation import read_best_layer
    from unip_hf.hub.pairs import describe_trained
    from unip_hf.hub.plain_vits import find_plain_vit
    from unip_hf.hub.pretrained import TIMM_PREFIX
    from unip_hf.inference.loading import is_random_start, load_config
    from unip_hf.inference.windows import reads_pairs
    from unip_hf.training import TrainingLoop, TrainingSettings, enable_gradient_checkpointing, polynomial_schedule

    vit = find_plain_vit(options.model)  # of another library; `load_model` knows all others by their names
    is_timm = options.model.startswith(TIMM_PREFIX)
    is_unip = vit is not None or (not is_timm and load_config(options.model).model_type == "unip")
    # Models of others may have parts that the loss does not reach.
    accelerator = make_accelerator(options, not is_unip)
    division = divide_batch(options, accelerator.num_processes)
    id2label, rows, validation_rows = load_data(options, accelerator)

    task = "layerwise_probe" if options.layerwise_probe else "linear_probe" if options.linear_probe else options.task
    set_seed(options.seed)
    model = load_model(
        vit or options.model,
        id2label,
        task or "fine_tuning",
        image_size=options.crop_size,
        feature_layers=options.feature_layers,
        drop_path_rate=options.drop_path_rate,
        last_layer_num_attention_heads=options.last_layer_num_attention_heads,
        decoder_channels=options.decoder_channels,
        num_channels=options.num_channels,
        new_classifier=options.new_classifier,
        fusion=options.fusion,
        main_modality=options.main_modality,
        freeze_backbone=not options.unfreeze,
    )
    is_of_pairs = reads_pairs(model)
    prepare_parts(options, model)
    if options.layerwise_probe and options.resume_from_checkpoint is not None:
        best_layer: Any = read_best_layer(options.output_dir, options.resume_from_checkpoint)
        model.best_layer = best_layer
    if options.loss_average is not None:
        if model.config.model_type != "unip":
            raise ValueError(f"--loss_average is for UNIP models; {model.config.model_type} has its own loss.")
        model.config.loss_average = options.loss_average
    weights = vit
    if not is_unip and model.config.model_type == "unip":
        weights = describe_backbone(options.model, model.base_model)
    # Weights of other libraries begin with UNIP's processor, which has the statistics of infrared images.
    checkpoint = None if weights is not None or is_random_start(options.model) else options.model
    processor = make_image_processor(
        options,
        checkpoint,
        getattr(model.config, "num_channels", 3),
        weights,
        model.config.main_modality if is_of_pairs else None,
    )
    start = []
    if has_pairs(rows) and not is_of_pairs:
        start.append("Of each pair only the infrared image is read. Fine-tuning with --fusion reads both.")
    if (trained := describe_trained(model)) != "":
        start.append(f"Trained: {trained}")
    if weights is not None:
        start.append(weights.describe())
        run.setdefault("found", {})["weights_license"] = weights.license
        del vit, weights  # which are in the model now
    settings = make_window_settings(options, model, window_size=options.crop_size)
    set_seed(options.seed, device_specific=True)
    if options.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    model = prepare_batch_norm(options, model, accelerator, division.per_device)
    optimizer = make_optimizer(options, model)
    if options.compile:
        model.compile()

    num_steps = options.num_steps or max(1, round(options.num_epochs * len(rows) / options.batch_size))
    num_warmup_steps = num_steps // 10 if options.num_warmup_steps is None else options.num_warmup_steps
    evaluate_every = options.evaluate_every or max(1, num_steps // 18)
    final = options.final_learning_rate / options.learning_rate
    samples: Any = TrainingSamples(
        rows, make_transform(options, processor), len(id2label), options.seed, with_pairs=is_of_pairs
    )
    if options.modality_dropout is not None:
        samples = ModalityDropout(samples, options.modality_dropout, options.seed)
    loss, class_pixels = prepare_rare_classes(options, rows, id2label, accelerator, run)

    def batches(first_step: int) -> Iterable[dict[str, torch.Tensor]]:
        first_batch = first_step * division.accumulation_steps
        place = accelerator.process_index, accelerator.num_processes, options.seed, first_batch
        order = ShuffledBatches(len(samples), division.per_device, *place)
        if options.rare_class_sampling is not None:
            rare = {"class_pixels": class_pixels, "temperature": options.rare_class_sampling}
            order = RareClassBatches(len(samples), division.per_device, *place, **rare)
        is_cuda = accelerator.device.type == "cuda"
        return read_batches(samples, order, num_workers=options.num_workers, pin_memory=is_cuda)

    def count_pixels(batch: dict[str, Any]) -> float:
        is_over_all = getattr(model.config, "loss_average", None) == "all_pixels"
        return batch["labels"].numel() if is_over_all else batch["num_labelled"]

    def save_model(trained: Any, folder: Path) -> None:
        if isinstance(trained, UnipForLayerwiseProbing):
            trained = trained.linear_model(trained.best_layer or trained.feature_layers[-1])
        save_with_processor(merged_lora(trained), processor, folder, options.only_trained)

    validation = None
    if validation_rows is not None:
        validation = Validation(
            accelerator, processor, validation_rows, id2label, settings, options.output_dir, options.num_workers
        )
    loop = TrainingLoop(
        accelerator,
        model,
        optimizer,
        TrainingSettings(
            num_steps=num_steps,
            accumulation_steps=division.accumulation_steps,
            max_gradient_norm=options.max_gradient_norm,
            ema_decay=options.ema_decay,
            evaluate_every=evaluate_every,
            save_every=options.save_every or evaluate_every,
            log_every=options.log_every,
        ),
        options.output_dir,
        batches=batches,
        compute_loss=loss,
        batch_weight=count_pixels,
        schedule=lambda step: polynomial_schedule(
            step, num_steps, num_warmup_steps, power=options.decay_power, final=final
        ),
        save_model=save_model,
        evaluate=validation,
        best_metric=MAIN_METRIC.key,
        set_training_mode=partial(set_training_mode, freezes_batch_norm=options.freeze_batch_norm),
        speed=prepare_segmentation_speed(options, model, accelerator),
    )
    with started(options, {**run, "num_steps": num_steps}, accelerator):
        if accelerator.is_main_process:
            if class_pixels is not None:
                with write_whole(options.output_dir / CLASS_PIXELS) as staged, open(staged, "wb") as file:
                    np.save(file, class_pixels)
            print(
                *start,
                f"{type(model).__name__}, {model.num_parameters() / 1e6:.2f} M parameters, "
                f"{sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6:.2f} M trained, "
                f"on {accelerator.device.type}",
                division.describe(num_steps, len(rows)),
                sep="\n",
                flush=True,
            )
        end = loop.run(options.resume_from_checkpoint)
    if accelerator.is_main_process and end["best"] is not None:
        print(f"Best mean IoU {end['best']:.4f} at step {end['best_step']}: {options.output_dir / 'best'}")
    elif accelerator.is_main_process:
        print(f"Trained: {options.output_dir / 'last'}")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))

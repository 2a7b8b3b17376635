# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Converts a published checkpoint (UNIP, MAE, DINO, iBOT, DeiT, IV-tuning, UniRGB-IR) or a plain ViT of timm or
transformers to a folder that `from_pretrained` loads, or a folder back to a published file.

    unip convert unip_vit_small_by_mae_large.pth unip-small
    unip convert timm:vit_small_patch16_224.dino unip-dino-small
    unip convert facebook/dino-vits16 unip-dino-small
    unip convert iter_14400.pth unip-small-soda --model semantic-segmentation
    unip convert --to_published unip-small-soda soda.pth
"""

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from unip_hf.files import write_whole
from unip_hf.scripts.options import make_parser


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("convert", __doc__)
    parser.add_argument(
        "source", help="published file; timm:NAME, a folder or a name on the Hub; or with --to_published a folder"
    )
    parser.add_argument("target", type=Path, help="folder to write, or with --to_published a .pth file")
    parser.add_argument("--to_published", action="store_true", help="write a file with the published names")
    parser.add_argument("--overwrite", action="store_true", help="replace a target that exists")
    group = parser.add_argument_group("network", "what the file does not say, or what you want to change")
    group.add_argument(
        "--model",
        default="auto",
        help="kind of model: encoder, pre-training, semantic-segmentation, linear-segmentation\n"
        "(default: what the file holds)",
    )
    group.add_argument("--num_attention_heads", type=int, help="heads of a file, for widths that are not the paper's")
    group.add_argument("--last_layer_num_attention_heads", type=int, help="heads of the last block")
    group.add_argument("--feature_layers", type=int, nargs="+", help="blocks that segmentation reads, from 1")
    group.add_argument("--image_size", type=int, help="resize the position table to this image size in pixels")
    group.add_argument("--num_channels", type=int, choices=[1, 3], help="input channels")
    group.add_argument(
        "--image_mean",
        choices=["checkpoint"],
        help="mean and standard deviation of a timm or transformers model\n(default: those of infrared images)",
    )
    return parser


def model_classes() -> dict[str, Any]:
    """The models by the names that `--model` takes."""
    from unip_hf import UnipForPreTraining, UnipModel
    from unip_hf.modeling.modeling_unip_heads import SEGMENTATION_MODELS

    kinds: dict[str, Any] = {"encoder": UnipModel, "pre-training": UnipForPreTraining}
    for kind in SEGMENTATION_MODELS:  # UnipForLinearSegmentation: linear-segmentation
        words = re.findall("[A-Z][a-z0-9]*", kind.__name__.removeprefix("UnipFor"))
        kinds["-".join(words).lower()] = kind
    return kinds


def convert(options: argparse.Namespace) -> None:
    """Published file, or network of another library, to folder."""
    from unip_hf import UnipImageProcessor
    from unip_hf.hub.pretrained import is_published_file

    classes = model_classes()
    if options.model not in ("auto", *classes):
        raise ValueError(f"--model must be one of auto, {', '.join(classes)}, got {options.model}.")
    names = ("num_attention_heads", "last_layer_num_attention_heads", "feature_layers", "image_size", "num_channels")
    overrides = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    convert_source = convert_file if is_published_file(options.source) else convert_network
    model, settings = convert_source(options, classes.get(options.model), overrides)
    with write_whole(options.target) as staged:
        model.save_pretrained(staged)
        UnipImageProcessor(num_channels=model.config.num_channels, **settings).save_pretrained(staged)


def convert_file(
    options: argparse.Namespace, model_class: Any, overrides: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """A model from a published file, and settings of its image processor."""
    from unip_hf import UnipForPreTraining, UnipForSemanticSegmentation
    from unip_hf.hub import convert_checkpoint, find_segmentation_model, read_checkpoint
    from unip_hf.hub.conversion import find_fusion
    from unip_hf.modeling.modeling_unip_segmentation import UnipSegmentationModel

    if options.image_mean is not None:
        raise ValueError("--image_mean is for models of timm and transformers: published files do not say their mean.")
    if not Path(options.source).exists():
        raise FileNotFoundError(f"There is no {options.source!r}.")
    tensors, beside = read_checkpoint(options.source)
    fusion = find_fusion(tensors)
    if fusion is not None and model_class is not None and not issubclass(model_class, UnipSegmentationModel):
        raise ValueError(
            f"{options.source!r} holds {fusion}, which reads pairs of images: --model must be a segmentation model. "
            "Its head is newly initialised where the file has none."
        )
    # What reads pairs only segments, and gets a new head where the file has none.
    default = UnipForPreTraining if fusion is None else UnipForSemanticSegmentation
    model_class = model_class or find_segmentation_model(tensors) or default
    model = convert_checkpoint({"model": tensors, **beside}, model_class, **overrides)
    if not isinstance(model, UnipSegmentationModel):
        return model, {}
    if model.config.fusion is not None:
        return model, pair_settings(model.config)
    # The published fine-tuning normalises with 96.9255 and 47.8976 of 255, and resizes as OpenCV does.
    return model, {"image_mean": [96.9255 / 255], "image_std": [47.8976 / 255], "antialias": False}


def pair_settings(config: Any) -> dict[str, Any]:
    """Settings of the image processor of a published network for pairs."""
    settings: dict[str, Any] = {"main_modality": config.main_modality, "antialias": False}
    settings["auxiliary_num_channels"] = config.auxiliary_num_channels
    if config.fusion == "unirgb_ir":  # the only published configuration, for MFNet
        recipe = yaml.safe_load((Path(__file__).parent / "recipes" / "unirgb-ir-base-mfnet.yaml").read_text())
        height, width = recipe["resize_to"]
        settings["size"] = {"height": height, "width": width}
        for name in ("image_mean", "image_std", "auxiliary_image_mean", "auxiliary_image_std"):
            settings[name] = recipe[name]
    else:
        logging.getLogger("unip_hf").warning(
            "The file does not say how its images were normalised: preprocessor_config.json gets the defaults of "
            "infrared and visible images. Change image_mean, image_std, auxiliary_image_mean and auxiliary_image_std "
            "there if it was trained with others."
        )
    return settings


def convert_network(
    options: argparse.Namespace, model_class: Any, overrides: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """A model from a plain ViT of another library, and settings of its image processor."""
    from unip_hf import UnipConfig, UnipModel
    from unip_hf.hub.plain_vits import convert_plain_vit
    from unip_hf.hub.pretrained import load_pretrained
    from unip_hf.inference.loading import load_config
    from unip_hf.scripts.image_options import normalisation_of_weights

    for name in ("num_attention_heads", "last_layer_num_attention_heads"):
        if name in overrides:
            raise ValueError(f"--{name} is for published files: {options.source!r} has its own number of heads.")
    is_folder = Path(options.source).is_dir()
    if is_folder and load_config(options.source).model_type == UnipConfig.model_type:
        raise ValueError(f"{options.source!r} is a UNIP model already. --to_published writes a published file of it.")
    network = load_pretrained(options.source)
    model = convert_plain_vit(network.model, model_class or UnipModel, **overrides)
    print(network.describe())
    if options.image_mean is None:
        return model, {}
    return model, normalisation_of_weights(network, model.config.num_channels)


def convert_back(options: argparse.Namespace) -> None:
    """Folder to published file."""
    import torch

    from unip_hf.hub import to_published_state_dict
    from unip_hf.inference.loading import load_config, load_weights
    from unip_hf.modeling.modeling_unip_segmentation import UnipSegmentationModel

    if not Path(options.source, "config.json").is_file():
        raise ValueError(f"{options.source!r} is not a checkpoint folder: it has no config.json.")
    config: Any = load_config(options.source)
    architecture = (config.architectures or ["none"])[0]
    classes = {kind.__name__: kind for kind in model_classes().values()}
    if config.model_type != "unip" or architecture not in classes:
        raise ValueError(f"{options.source!r} holds {architecture} ({config.model_type}), not a UNIP model.")
    model, _ = load_weights(classes[architecture], options.source, config)
    state_dict = to_published_state_dict(model)
    if isinstance(model, UnipSegmentationModel):
        names = tuple(config.id2label[index] for index in range(config.num_labels))
        layers = model.feature_layers
        if len(layers) == 1:
            layers = layers * (model.num_published_features or 1)
        indices = [number - 1 for number in layers]
        content = {"state_dict": state_dict, "meta": {"CLASSES": names, "config": f"out_indices={indices}"}}
    else:
        last_heads = config.last_layer_num_attention_heads or config.num_attention_heads
        content = {"model": state_dict, "args": argparse.Namespace(last_heads=last_heads)}
    with write_whole(options.target) as staged:
        torch.save(content, staged)


def main(arguments: Sequence[str]) -> None:
    options = command_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("unip_hf").setLevel(logging.INFO)
    if options.target.exists() and not options.overwrite:
        raise ValueError(f"{str(options.target)!r} exists: choose another target or add --overwrite.")
    (convert_back if options.to_published else convert)(options)
    print(f"Wrote {options.target}")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))

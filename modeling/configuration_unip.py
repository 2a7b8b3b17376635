# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""UNIP model configuration."""

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig


# name: (hidden_size, num_hidden_layers, num_attention_heads), paper section 4.1
UNIP_SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
NUM_UNIRGB_IR_STAGES = 4
# A configuration beyond these is damaged. It would take minutes or all memory before its weights are looked at.
LARGEST = {
    **dict.fromkeys(("hidden_size", "num_labels", "decoder_channels", "auxiliary_channels"), 2**16),
    **dict.fromkeys(("prompt_channels", "fusion_channels", "relative_position_size"), 2**16),
    "num_hidden_layers": 1000,
    "patch_size": 1024,
    "mlp_ratio": 64,
}
LARGEST_GRID = 2**18
# Left out of a file where they have their defaults.
NEWER_FIELDS = (
    *("backbone_config", "use_distillation_token", "use_final_norm"),
    *("fusion", "main_modality", "auxiliary_num_channels", "freeze_backbone"),
    *("backbone_checkpoint", "backbone_fingerprint", "use_cls_token", "prompt_channels", "fusion_channels"),
    *("window_size", "global_layers", "relative_position_size"),
    "head_implementation",
)


@strict
class UnipConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of every UNIP model ([paper](https://huggingface.co/papers/2502.02257)): the plain ViT encoder, its
    pre-training by attention distillation, and the segmentation networks built on it.

    Block numbers are 1-based wherever they appear, as in the paper.

    Args:
        hidden_size (`int`, *optional*, defaults to 384):
            Width of the encoder. [`UnipConfig.from_size`] sets width, depth and heads together.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Number of transformer blocks.
        num_attention_heads (`int`, *optional*, defaults to 6):
            Attention heads of every block but, where `last_layer_num_attention_heads` is set, the last.
        last_layer_num_attention_heads (`int`, *optional*):
            Attention heads of the last block. Distillation gives the last block as many heads as the teacher has (16
            for MAE-L and iBOT-L, 12 for DINO-B). In fine-tuning, the same number keeps the block as it was distilled;
            `None` splits it into `num_attention_heads` like all others, which is what the published fine-tuning code
            does. The weights have the same shapes either way.
        mlp_ratio (`int` or `float`, *optional*, defaults to 4):
            Width of the MLP divided by `hidden_size`.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the MLP.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6):
            Epsilon of the layer norms.
        qkv_bias (`bool`, *optional*, defaults to `True`):
            Whether queries, keys and values have a bias.
        image_size (`int` or `(height, width)`, *optional*, defaults to 224):
            Size in pixels that the stored position table stands for. Inputs may have any size from one patch up.
        patch_size (`int`, *optional*, defaults to 16):
            Side of a patch in pixels.
        num_channels (`int`, *optional*, defaults to 3):
            Input channels: 3, or 1 for one-channel infrared input.
        use_distillation_token (`bool`, *optional*, defaults to `False`):
            Whether a second token follows CLS, as in distilled DeiT. It is no patch: feature maps leave it out.
        use_final_norm (`bool`, *optional*, defaults to `True`):
            Whether [`UnipModel`] ends with a layer norm. Segmentation never uses it.
        position_embedding_type (`"sincos"` or `"learned"`, *optional*, defaults to `"sincos"`):
            Fixed 2-D sine-cosine table (pre-training) or a table that is trained (fine-tuning).
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Stochastic depth rate.
        drop_path_schedule (`"constant"` or `"linear"`, *optional*, defaults to `"constant"`):
            The same rate in every block (pre-training), or from 0 in the first to `drop_path_rate` in the last block
            (fine-tuning).
        layer_scale_init_value (`float`, *optional*):
            Initial value of LayerScale after attention and MLP (fine-tuning: 1.0). `None` leaves LayerScale out.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation for the CLS token and a learned position table.
        feature_layers (`list[int]`, *optional*):
            Blocks that segmentation reads. `None` means the last block. For [`UnipForSemanticSegmentation`] one block
            feeds all four scales (LL-FPN); four blocks, such as `[4, 6, 8, 12]`, give the classic pyramid. For
            [`UnipForLinearSegmentation`] the listed blocks are concatenated; the other heads take one or four. With
            `backbone_config`, these are its stages (of a plain ViT, its blocks; of timm, its feature maps), and `None`
            means those that it names.
        pool_scales (`list[int]`, *optional*, defaults to `[1, 2, 3, 6]`):
            Bins per side in the pyramid pooling of the head.
        decoder_channels (`int`, *optional*):
            Channels of the head. `None` means `hidden_size`, and with `backbone_config` the width of its last map, at
            most 512; for [`UnipForMlaSegmentation`] and [`UnipForSegformerSegmentation`] it means 256.
        head_implementation (`"fast"` or `"plain"`, *optional*, defaults to `"fast"`):
            How [`UnipForSemanticSegmentation`] computes its pyramid and head: `"plain"` as the paper writes them down,
            `"fast"` with about half the operations. The weights are the same, and the results differ by rounding.
            `"fast"` does not call the modules of pyramid and head one by one: forward hooks on them need `"plain"`.
        classifier_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout in front of the classifiers of the head and the auxiliary head.
        use_auxiliary_head (`bool`, *optional*, defaults to `True`):
            Whether a second, small head on the 1/16 level is trained along.
        auxiliary_channels (`int`, *optional*, defaults to 256):
            Channels of the auxiliary head.
        auxiliary_loss_weight (`float`, *optional*, defaults to 0.4):
            Weight of the auxiliary head's loss.
        semantic_loss_ignore_index (`int`, *optional*, defaults to 255):
            Label id without loss.
        loss_average (`"valid_pixels"` or `"all_pixels"`, *optional*, defaults to `"valid_pixels"`):
            What the summed cross-entropy is divided by: the pixels that have a label, or all pixels, ignored ones
            included, as in the published code.
        fusion (`"iv_tuning"` or `"unirgb_ir"`, *optional*):
            How a second, aligned image of the same scene is read (visible beside infrared): by
            [IV-tuning](https://huggingface.co/papers/2412.16654) or
            [UniRGB-IR](https://huggingface.co/papers/2404.17360). `None` reads one image.
        main_modality (`"infrared"` or `"visible"`, *optional*, defaults to `"infrared"`):
            With `fusion`: which image the encoder sees as `pixel_values`. The other one is `auxiliary_pixel_values`.
        auxiliary_num_channels (`int`, *optional*, defaults to 3):
            With `fusion`: input channels of the other image.
        freeze_backbone (`bool`, *optional*, defaults to `True`):
            With `fusion`: whether only what the method adds is trained, and the head.
        backbone_checkpoint (`str`, *optional*):
            Folder or name on the Hub that the frozen weights came from. With `fusion`, training notes it. Where only
            what was trained is saved, loading reads the other weights there.
        backbone_fingerprint (`str`, *optional*):
            SHA-256 of the weights in `backbone_checkpoint`, set in a saved file that needs them.
        use_cls_token (`bool`, *optional*, defaults to `True`):
            Whether CLS goes through the blocks with the patches. Only `fusion` can do without it, as some published
            networks do.
        prompt_channels (`int`, *optional*, defaults to 8):
            With IV-tuning: inner channels where the first prompt is made (64 in the published detection network).
        fusion_channels (`int`, *optional*, defaults to 64):
            With UniRGB-IR: channels of the two stems of its feature pool, a multiple of 4.
        window_size (`int`, *optional*):
            With UniRGB-IR, for parity with its published ViT (14): patches per side of the windows within which all
            blocks but those of `global_layers` attend. `None` attends to the whole image everywhere. Like
            `relative_position_size`, it needs `use_cls_token=False`.
        global_layers (`list[int]`, *optional*):
            With `window_size`: blocks that attend to the whole image. `None` means the last block of each stage.
        relative_position_size (`int`, *optional*):
            With UniRGB-IR, for parity with its published ViT (768): adds relative positions, which are trained, to the
            attention of every block. Outside windows they are stored for square images of this many pixels.
        backbone_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of a backbone of [`~transformers.AutoBackbone`] that segmentation reads in place of UNIP's
            own encoder. The fields of the encoder above, `hidden_size` to `layer_scale_init_value`, then mean nothing,
            but for `num_channels`, which is the backbone's, and `image_size`, the size that it was trained on.

    Example:

    ```python
    >>> from unip_hf import UnipConfig, UnipForSemanticSegmentation

    >>> config = UnipConfig.from_size("tiny", num_labels=21)
    >>> model = UnipForSemanticSegmentation(config)
    ```"""

    model_type = "unip"
    keys_to_ignore_at_inference = ["auxiliary_logits"]
    sub_configs = {"backbone_config": PreTrainedConfig}

    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    last_layer_num_attention_heads: int | None = None
    mlp_ratio: int | float = 4
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int = 16
    num_channels: int = 3
    use_distillation_token: bool = False
    use_final_norm: bool = True
    position_embedding_type: Literal["sincos", "learned"] = "sincos"
    drop_path_rate: float | int = 0.0
    drop_path_schedule: Literal["constant", "linear"] = "constant"
    layer_scale_init_value: float | int | None = None
    initializer_range: float = 0.02
    feature_layers: list[int] | tuple[int, ...] | None = None
    pool_scales: list[int] | tuple[int, ...] = (1, 2, 3, 6)
    decoder_channels: int | None = None
    head_implementation: Literal["fast", "plain"] = "fast"
    classifier_dropout_prob: float | int = 0.1
    use_auxiliary_head: bool = True
    auxiliary_channels: int = 256
    auxiliary_loss_weight: float | int = 0.4
    semantic_loss_ignore_index: int = 255
    loss_average: Literal["valid_pixels", "all_pixels"] = "valid_pixels"
    fusion: Literal["iv_tuning", "unirgb_ir"] | None = None
    main_modality: Literal["infrared", "visible"] = "infrared"
    auxiliary_num_channels: int = 3
    freeze_backbone: bool = True
    backbone_checkpoint: str | None = None
    backbone_fingerprint: str | None = None
    use_cls_token: bool = True
    prompt_channels: int = 8
    fusion_channels: int = 64
    window_size: int | None = None
    global_layers: list[int] | tuple[int, ...] | None = None
    relative_position_size: int | None = None
    backbone_config: dict | PreTrainedConfig | None = None
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_hidden_layers > LARGEST["num_hidden_layers"] or (kwargs.get("num_labels") or 0) > 2**16:
            raise ValueError("num_hidden_layers must be at most 1000, and num_labels at most 65536.")
        if self.backbone_config is not None:
            self.backbone_config = make_backbone_config(self.backbone_config, self.feature_layers)
            self.num_channels = getattr(self.backbone_config, "num_channels", self.num_channels)
        self.stage_names = ["stem"] + [f"stage{number}" for number in range(1, self.num_hidden_layers + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)
        # Several classes serve AutoModelForSemanticSegmentation, which chooses by this list and fails on None.
        self.architectures = self.architectures or []
        if self.id2label is not None:
            self.label2id = {str(name): int(index) for index, name in self.id2label.items()}

    @classmethod
    def from_size(cls, size: str, **kwargs: Any) -> "UnipConfig":
        """
        The configuration of one of the paper's sizes.

        Args:
            size (`str`): `"tiny"`, `"small"`, `"base"` or `"large"`.
            kwargs: Any other field of the configuration; wins over what the size sets.

        Raises:
            ValueError: if the size is not one of the four.
        """
        if size not in UNIP_SIZES:
            raise ValueError(f"There is no UNIP size {size!r}: choose one of {', '.join(UNIP_SIZES)}.")
        sized = zip(("hidden_size", "num_hidden_layers", "num_attention_heads"), UNIP_SIZES[size])
        return cls(**{**dict(sized), **kwargs})

    @property
    def num_special_tokens(self) -> int:
        """How many tokens precede the patches: CLS, and the distillation token if there is one."""
        return self.use_cls_token + self.use_distillation_token

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the stored position table."""
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return height // self.patch_size, width // self.patch_size

    def validate_architecture(self) -> None:
        """Part of the validation by `@strict`. Raises a `ValueError` for numbers that do not make a network."""
        for name in (
            *("hidden_size", "num_hidden_layers", "patch_size"),
            *("num_channels", "auxiliary_num_channels", "mlp_ratio"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name, largest in LARGEST.items():
            if (getattr(self, name) or 0) > largest:
                raise ValueError(f"{name} must be at most {largest}, got {getattr(self, name)}.")
        if not 0 < self.layer_norm_eps < 1:  # also if it is NaN
            raise ValueError(f"layer_norm_eps must be above 0 and below 1, got {self.layer_norm_eps}.")
        if not all(1 <= scale <= 1024 for scale in self.pool_scales):
            raise ValueError(f"pool_scales must be 1 to 1024, got {self.pool_scales}.")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be at least 0 and below 1, got {self.drop_path_rate}.")
        for name in ("num_attention_heads", "last_layer_num_attention_heads"):
            heads = getattr(self, name)
            if heads is not None and (heads < 1 or self.hidden_size % heads):
                raise ValueError(
                    f"{name}={heads} does not divide hidden_size={self.hidden_size}: "
                    "choose a number of heads that divides the width."
                )
        if self.position_embedding_type == "sincos" and self.hidden_size % 4:
            raise ValueError(
                f"hidden_size must be a multiple of 4 for a sine-cosine position table, got {self.hidden_size}. "
                'Or set position_embedding_type="learned".'
            )
        if self.position_embedding_type == "sincos" and self.use_distillation_token:
            raise ValueError(
                'A distillation token has a learned position: set position_embedding_type="learned", or '
                "use_distillation_token=False."
            )
        if math.prod(self.grid_size) > LARGEST_GRID:
            raise ValueError(
                f"image_size={self.image_size} has more than {LARGEST_GRID} patches of {self.patch_size} pixels: "
                "choose a smaller one. Images that the model reads may be larger."
            )
        if min(self.grid_size) < 1:
            raise ValueError(f"image_size={self.image_size} is smaller than one patch of {self.patch_size} pixels.")
        if not self.use_cls_token and (self.fusion is None or self.use_distillation_token):
            raise ValueError("use_cls_token=False needs fusion, and a network without distillation token.")
        if self.prompt_channels < 4:
            raise ValueError(f"prompt_channels must be at least 4, got {self.prompt_channels}.")
        if self.fusion is not None and self.backbone_config is not None:
            raise ValueError(f"fusion={self.fusion!r} adapts UNIP's own encoder: leave backbone_config out.")
        if self.backbone_config is None:
            check_layers(self.feature_layers or (), "blocks", self.num_hidden_layers)
        self._check_unirgb_ir()

    def _check_unirgb_ir(self) -> None:
        options = ("window_size", "global_layers", "relative_position_size")
        given = [name for name in options if getattr(self, name) is not None]
        if self.fusion != "unirgb_ir":
            if given:
                raise ValueError(f'{given[0]} is an option of UniRGB-IR: set fusion="unirgb_ir", or leave it out.')
            return
        if self.num_hidden_layers % NUM_UNIRGB_IR_STAGES:
            raise ValueError(
                f"UniRGB-IR has {NUM_UNIRGB_IR_STAGES} stages of equal depth: num_hidden_layers must be a multiple of "
                f"{NUM_UNIRGB_IR_STAGES}, got {self.num_hidden_layers}."
            )
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                "UniRGB-IR divides half the width among the heads: hidden_size must be a multiple of twice "
                f"num_attention_heads, got {self.hidden_size} and {self.num_attention_heads}."
            )
        if self.fusion_channels < 4 or self.fusion_channels % 4:
            raise ValueError(f"fusion_channels must be a multiple of 4, got {self.fusion_channels}.")
        if given and self.use_cls_token:
            raise ValueError(f"{given[0]} needs patches alone: set use_cls_token=False.")
        if self.window_size is not None and self.window_size < 1:
            raise ValueError(f"window_size must be at least 1, got {self.window_size}.")
        if self.relative_position_size is not None and self.relative_position_size < self.patch_size:
            raise ValueError(
                f"relative_position_size must be at least one patch of {self.patch_size} pixels, got "
                f"{self.relative_position_size}."
            )
        if self.global_layers is not None and self.window_size is None:
            raise ValueError("global_layers needs window_size: without windows all blocks attend to the whole image.")
        check_layers(self.global_layers or (), "blocks", self.num_hidden_layers, "global_layers")

    @property
    def stage_depth(self) -> int:
        """Blocks in each stage of UniRGB-IR."""
        return self.num_hidden_layers // NUM_UNIRGB_IR_STAGES

    def window_of(self, layer: int) -> int | None:
        """Patches per side of the windows of a block, numbered from 1; `None` if it attends to the whole image."""
        depth = self.stage_depth
        layers = self.global_layers or [(stage + 1) * depth for stage in range(NUM_UNIRGB_IR_STAGES)]
        return None if layer in layers else self.window_size

    def to_dict(self) -> dict[str, Any]:
        """As a dictionary. Newer fields are left out where they are not used, so that older files stay as they are."""
        values = super().to_dict()
        unused = [name for name in NEWER_FIELDS if name in values and values[name] == getattr(UnipConfig, name)]
        return {name: value for name, value in values.items() if name not in unused}


def check_layers(layers: Sequence[int], what: str, count: int, field: str = "feature_layers") -> None:
    """Raises a `ValueError` if `layers`, the value of `field`, names blocks (or stages) outside 1 to `count`."""
    outside = [number for number in layers if not 1 <= number <= count]
    if outside:
        raise ValueError(
            f"{field}={layers} names {what} that do not exist: {outside}. "
            f"{what.capitalize()} are numbered from 1 to {count}."
        )


def make_backbone_config(
    backbone_config: dict[str, Any] | PreTrainedConfig, feature_layers: Sequence[int] | None = None
) -> PreTrainedConfig:
    """
    The configuration of a backbone, as a copy, which names the maps of `feature_layers`, if given, as its outputs.

    Raises:
        ValueError: if `transformers` has no such model type, or the backbone no such stage.
    """
    from transformers import AutoConfig  # whose import may be what imports this file

    if isinstance(backbone_config, dict):
        if "model_type" not in backbone_config:
            raise ValueError("backbone_config has no model_type, which says what backbone it is.")
        config: Any = AutoConfig.for_model(**backbone_config)
    else:
        config = copy.deepcopy(backbone_config)
    if config.model_type == "unip":
        raise ValueError("backbone_config is for other backbones: leave it out for UNIP's own encoder.")
    if feature_layers is not None:
        numbers = sorted(set(feature_layers))
        if config.model_type == "timm_backbone":  # which alone knows how many maps it has
            if numbers[:1] and numbers[0] < 1:
                raise ValueError(f"feature_layers={feature_layers}: feature maps are numbered from 1.")
            config.out_indices = [number - 1 for number in numbers]
        else:
            stages = [name for name in getattr(config, "stage_names", None) or () if name != "stem"]
            check_layers(feature_layers, "stages", len(stages))
            config.out_features = [stages[number - 1] for number in numbers]
    return config


__all__ = ["UNIP_SIZES", "UnipConfig", "make_backbone_config"]

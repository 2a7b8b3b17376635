# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What all UNIP models for semantic segmentation share: loss, checks, logits that cover exactly the image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_unip import UnipConfig
from .modeling_unip import UnipModel, UnipPreTrainedModel
from .modeling_unip_backbone import UnipBackboneEncoder
from .modeling_unip_fusion import UnipFusionModel, check_pair
from .modeling_unip_iv_tuning import UnipIVTuningModel
from .modeling_unip_layers import UnipConvModule, check_pixel_values
from .modeling_unip_resampling import crop_to_image, resize
from .modeling_unip_unirgb_ir import UnipRGBIRModel


logger = logging.get_logger(__name__)

FUSION_ENCODERS: dict[str, type[UnipFusionModel]] = {"iv_tuning": UnipIVTuningModel, "unirgb_ir": UnipRGBIRModel}


@dataclass
class UnipSemanticSegmenterOutput(SemanticSegmenterOutput):
    """
    Output of the segmentation models.

    Args:
        loss (`torch.Tensor` of shape `()`): Cross-entropy, if labels were given.
        logits (`torch.Tensor` of shape `(batch_size, num_labels, logits_height, logits_width)`): Scores before softmax
            at a quarter of the input size (linear probing: a sixteenth), rounded up; of patches or strides of other
            sizes, at the resolution of the finest map. They cover exactly the image: resized to any size, they stay
            aligned with it.
        hidden_states (`tuple[torch.Tensor]`): Embeddings and block outputs, if asked for.
        attentions (`tuple[torch.Tensor]`): Attention of each block, if asked for.
        auxiliary_logits (`torch.Tensor` of shape `(batch_size, num_labels, rows, columns)`): Scores of the auxiliary
            head at a sixteenth of the input size, in training or if labels were given; of several auxiliary heads a
            tuple of such tensors.
    """

    auxiliary_logits: torch.Tensor | tuple[torch.Tensor, ...] | None = None


def make_classifier(channels: int, config: UnipConfig) -> nn.Conv2d:
    """1x1 convolution from `channels` to one score for each class."""
    return nn.Conv2d(channels, config.num_labels or 0, kernel_size=1)


class UnipSegmentationModel(UnipPreTrainedModel):
    """
    What all segmentation models share: an encoder up to the last block that is read, the loss, and its checks.

    A head is a subclass in a file of its own and one line in `SEGMENTATION_MODELS`. It defines `_classify` and
    `describe_head`, and says in class attributes what training, conversion and model cards need to know of it:

    - `task` (`str`): Name by which `unip finetune --task` selects it.
    - `freezes_encoder` (`bool`): Whether the head is trained alone. The encoder then keeps its evaluation mode.
    - `published_names` (`list[tuple[str, str]]`): Names of its tensors in published checkpoints, without the prefix
      `backbone.`, and here; `{i}` stands for a number.
    - `published_classifier` (`str`): The published name of its classifier.
    - `num_published_features` (`int`, *optional*): How many block outputs the published network hands to its head.
      `None` means as many as the classifier is wide.
    """

    # The final norm belongs to the encoder but not to segmentation, which reads raw block outputs.
    _keys_to_ignore_on_load_unexpected = [r"layernorm\.(weight|bias)$"]

    task: str
    freezes_encoder = False
    published_names: list[tuple[str, str]] = []
    published_classifier = "decode_head.conv_seg"
    num_published_features: int | None = None

    def __init__(self, config: UnipConfig):
        super().__init__(config)
        if config.semantic_loss_ignore_index in range(config.num_labels or 0):
            logger.warning(
                f"semantic_loss_ignore_index={config.semantic_loss_ignore_index} is also one of the "
                f"{config.num_labels} classes, which will not be learned."
            )
        self.unip: UnipModel | UnipBackboneEncoder
        if config.backbone_config is None:
            self.feature_layers = list(config.feature_layers or [config.num_hidden_layers])
            encoder = UnipModel if config.fusion is None else FUSION_ENCODERS[config.fusion]
            self.unip = encoder(config, num_layers=max(self.feature_layers), add_final_norm=False)
            # Of the maps that the head reads: channels, and pixels for each cell.
            self.feature_channels = [config.hidden_size] * len(self.feature_layers)
            self.feature_strides = [config.patch_size] * len(self.feature_layers)
        else:
            self.unip = UnipBackboneEncoder(config)
            self.feature_layers = list(config.feature_layers or self.unip.layers)
            self._maps_read = [self.unip.layers.index(layer) for layer in self.feature_layers]
            self.feature_channels = [self.unip.channels[index] for index in self._maps_read]
            self.feature_strides = [self.unip.strides[index] for index in self._maps_read]
            self.supports_gradient_checkpointing = self.unip.backbone.supports_gradient_checkpointing
            self._no_split_modules = list(self.unip.backbone._no_split_modules or [])

    @property
    def patch_size(self) -> int:
        """Images are padded to multiples of this many pixels."""
        return self.config.patch_size if isinstance(self.unip, UnipModel) else self.unip.patch_size

    @classmethod
    def default_feature_layers(cls, num_hidden_layers: int) -> list[int] | None:
        """The blocks that the published experiments read, from 1; `None` means the last one."""
        return None

    @classmethod
    def read_published(cls, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Fields of the configuration that the tensors of a published checkpoint tell of this head."""
        return {}

    def describe_head(self) -> str:
        """A phrase for the model card."""
        raise NotImplementedError

    def _describe_blocks(self) -> str:
        blocks = list(dict.fromkeys(self.feature_layers))
        is_plain = isinstance(self.unip, UnipModel) or self.unip.is_plain
        of_backbone = "" if isinstance(self.unip, UnipModel) else f" of {self.unip.name}"
        what = f"{'block' if is_plain else 'stage'}{'s' if len(blocks) > 1 else ''}"
        return f"{what} {', '.join(map(str, blocks))}{of_backbone}"

    def _four(self, of_maps: list[Any]) -> list[Any]:
        """
        What belongs to four maps: one block feeds all four.

        Raises:
            ValueError: if there are neither one nor four.
        """
        if len(of_maps) not in (1, 4):
            raise ValueError(
                f"feature_layers={self.feature_layers} has {len(of_maps)} blocks: the head takes one block for all "
                "four scales, or four."
            )
        return of_maps * (4 // len(of_maps))

    def _classify(self, feature_maps: list[torch.Tensor], with_auxiliary: bool) -> tuple[torch.Tensor, ...]:
        """
        Maps of `feature_layers`, `(batch_size, feature_channels, padded_height / stride, padded_width / stride)`, to
        logits, and to those of each auxiliary head if the model has any and they are wanted.
        """
        raise NotImplementedError

    def _freeze(self) -> None:
        if isinstance(self.unip, UnipBackboneEncoder):
            self.unip.freeze_unused()
        else:
            super()._freeze()
        if isinstance(self.unip, UnipFusionModel) and self.config.freeze_backbone:
            self.unip.freeze_backbone()
        if self.freezes_encoder:
            self.unip.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "UnipSegmentationModel":
        super().train(mode)
        if self.freezes_encoder:
            self.unip.eval()
        return self

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d) and module.bias is not None:  # a classifier
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        auxiliary_pixel_values: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> UnipSemanticSegmenterOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Scaled images of any
                size from one patch up. With `config.fusion`, those of `config.main_modality`.
            labels (`torch.Tensor` of shape `(batch_size, height, width)`, *optional*): Class ids, and
                `config.semantic_loss_ignore_index` where there is none.
            output_attentions (`bool`, *optional*): Return attention after softmax; needs the eager attention.
            auxiliary_pixel_values (`torch.Tensor` of shape `(batch_size, auxiliary_num_channels, height, width)`,
                *optional*): With `config.fusion`, and only then: the other image of each pair, aligned with the first.

        Raises:
            ValueError: if shapes do not fit the model, or an id is neither a class nor the one to ignore. Ids are
                checked where the labels are on the CPU.
        """
        if self.config.fusion is not None:
            check_pixel_values(pixel_values, self.config.num_channels, self.config.patch_size)
            kwargs["auxiliary_pixel_values"] = check_pair(self.config, pixel_values, auxiliary_pixel_values)
        elif auxiliary_pixel_values is not None:
            raise ValueError("This model reads one image: auxiliary_pixel_values needs a model with config.fusion.")
        segment = self._segment if isinstance(self.unip, UnipModel) else self._segment_with_backbone
        return segment(pixel_values, labels=labels, output_attentions=output_attentions, **kwargs)

    @capture_outputs(tie_last_hidden_states=False)
    def _segment(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None, output_attentions: bool | None, **kwargs: Any
    ) -> UnipSemanticSegmenterOutput:
        self._check(pixel_values, labels, output_attentions)
        feature_maps = self.unip.feature_maps(pixel_values, self.feature_layers, **kwargs)  # type: ignore[operator]
        return self._score(feature_maps, pixel_values, labels)

    @can_return_tuple
    def _segment_with_backbone(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None, output_attentions: bool | None, **kwargs: Any
    ) -> UnipSemanticSegmenterOutput:
        """The same where hidden states and attention are recorded by the backbone itself."""
        self._check(pixel_values, labels, output_attentions)
        outputs = self.unip(pixel_values, output_attentions=output_attentions, **kwargs)
        scored = self._score([outputs.feature_maps[index] for index in self._maps_read], pixel_values, labels)
        scored.hidden_states, scored.attentions = outputs.get("hidden_states"), outputs.get("attentions")
        return scored

    def _check(self, pixel_values: torch.Tensor, labels: torch.Tensor | None, output_attentions: bool | None) -> None:
        self._check_output_attentions(output_attentions)
        if pixel_values is not None and labels is not None:
            self._check_labels(labels, pixel_values)

    def _score(
        self, feature_maps: list[torch.Tensor], pixel_values: torch.Tensor, labels: torch.Tensor | None
    ) -> UnipSemanticSegmenterOutput:
        """Logits of maps that cover the padded images, cut to the images, and the loss."""
        all_logits = self._classify(feature_maps, self.training or labels is not None)
        size, padded_size = pixel_values.shape[-2:], self.unip.padded_size(pixel_values)
        logits, *auxiliary = [crop_to_image(one, padded_size, size) for one in all_logits]
        loss = None
        if labels is not None:
            loss = self._cross_entropy(logits, labels)
            for one in auxiliary:
                loss = loss + self.config.auxiliary_loss_weight * self._cross_entropy(one, labels)
        return UnipSemanticSegmenterOutput(
            loss=loss,
            logits=logits,
            auxiliary_logits=tuple(auxiliary) if len(auxiliary) > 1 else next(iter(auxiliary), None),
        )

    def _check_labels(self, labels: torch.Tensor, pixel_values: torch.Tensor) -> None:
        expected = (pixel_values.shape[0], *pixel_values.shape[-2:])
        if tuple(labels.shape) != expected or labels.is_floating_point():
            raise ValueError(
                f"labels is {labels.dtype} of shape {tuple(labels.shape)}, but these pixel_values need integer ids of "
                f"shape {expected}: (batch_size, height, width), one for each pixel."
            )
        num_labels, ignore_index = self.config.num_labels or 0, self.config.semantic_loss_ignore_index
        if num_labels < 2:
            raise ValueError("A loss needs at least two classes, background included: set num_labels.")
        # Reading the ids would break a compiler's graph, and make the host wait for a device.
        if torch.compiler.is_compiling() or labels.device.type != "cpu":
            return
        labels = labels.long()
        outside = ((labels < 0) | (labels >= num_labels)) & (labels != ignore_index)
        if outside.any():
            raise ValueError(
                f"labels holds the ids {labels[outside].unique().tolist()}, but this model has the classes 0 to "
                f"{num_labels - 1} and {ignore_index} for pixels to ignore: remap the masks or change num_labels."
            )

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of logits, resized to the labels; 0 where every pixel is ignored."""
        ignore_index = self.config.semantic_loss_ignore_index
        logits = resize(logits, labels.shape[-2:]).float()
        total = nn.functional.cross_entropy(logits, labels.long(), ignore_index=ignore_index, reduction="sum")
        if self.config.loss_average == "all_pixels":
            return total / labels.numel()
        return total / (labels != ignore_index).sum().clamp(min=1)


UnipSegmentationModel.register_for_auto_class("AutoModelForSemanticSegmentation")

__all__ = ["UnipConvModule", "UnipSegmentationModel", "UnipSemanticSegmenterOutput"]

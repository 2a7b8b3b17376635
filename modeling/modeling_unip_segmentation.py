# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""UNIP for semantic segmentation: last-layer feature pyramid (LL-FPN) with a UPerNet head, and linear probing."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils import logging
from transformers.utils.output_capturing import capture_outputs

from .configuration_unip import UnipConfig
from .modeling_unip import UnipModel, UnipPreTrainedModel


logger = logging.get_logger(__name__)


@dataclass
class UnipSemanticSegmenterOutput(SemanticSegmenterOutput):
    """
    Output of the segmentation models.

    Args:
        loss (`torch.Tensor` of shape `()`): Cross-entropy, if labels were given.
        logits (`torch.Tensor` of shape `(batch_size, num_labels, logits_height, logits_width)`): Scores before softmax
            at a quarter of the input size (linear probing: a sixteenth), rounded up. They cover exactly the image:
            resized to any size, they stay aligned with it.
        hidden_states (`tuple[torch.Tensor]`): Embeddings and block outputs, if asked for.
        attentions (`tuple[torch.Tensor]`): Attention of each block, if asked for.
        auxiliary_logits (`torch.Tensor` of shape `(batch_size, num_labels, rows, columns)`): Scores of the auxiliary
            head at a sixteenth of the input size, in training or if labels were given.
    """

    auxiliary_logits: torch.Tensor | None = None


def resize(maps: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
    """Bilinear resize of `(batch_size, channels, height, width)`, corners not aligned."""
    return nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def crop_to_image(logits: torch.Tensor, padded_size: tuple[int, int], image_size: tuple[int, int]) -> torch.Tensor:
    """
    Cuts logits of a padded image back, so that they cover the image and nothing else.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, num_labels, rows, columns)`): Scores that cover `padded_size`.
        padded_size, image_size (`tuple[int, int]`): Height and width in pixels with and without padding.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_labels, ceil(height / stride), ceil(width / stride))`. Where the
        stride does not divide the image, cells are resampled (bilinear) a little closer together, so that their edges
        and the image's coincide.
    """
    for axis, (padded, size) in enumerate(zip(padded_size, image_size), start=2):
        stride = padded // logits.shape[axis]
        cells = -(-size // stride)
        if size % stride:
            # Interpolation weights, written out since interpolate() copies where the number of cells stays the same.
            source = (torch.arange(cells, device=logits.device) + 0.5) * (size / (cells * stride)) - 0.5
            weights = 1 - (source.clamp(min=0)[:, None] - torch.arange(logits.shape[axis], device=logits.device)).abs()
            weights = weights.clamp(min=0).to(logits.dtype)  # (cells, padded cells)
            logits = torch.tensordot(logits, weights, dims=([axis], [1])).movedim(-1, axis)
        elif padded != size:
            logits = logits.narrow(axis, 0, cells)
    return logits


def adaptive_average_pool(maps: torch.Tensor, bins: int) -> torch.Tensor:
    """
    Adaptive average pooling of `(batch_size, channels, height, width)` to `bins x bins`, as two small matrix products,
    because exporters cannot express `adaptive_avg_pool2d` with dynamic sizes.

    Bin i averages positions `floor(i n / bins)` up to but without `ceil((i + 1) n / bins)`.
    """

    def shares(size: int) -> torch.Tensor:
        position = torch.arange(size, device=maps.device)
        index = torch.arange(bins, device=maps.device).unsqueeze(1)
        inside = (position >= index * size // bins) & (position < ((index + 1) * size + bins - 1) // bins)
        # divided before anything is summed up, which half precision might not hold
        return (inside / inside.sum(1, keepdim=True)).to(maps.dtype)  # (bins, size)

    pooled = torch.matmul(shares(maps.shape[2]), maps)  # (B, C, bins, width)
    return torch.matmul(pooled, shares(maps.shape[3]).T)  # (B, C, bins, bins)


def max_pool(maps: torch.Tensor) -> torch.Tensor:
    """
    2x2 max pooling of `(batch_size, channels, height, width)`; an odd side is rounded up, so that nothing is lost and
    one cell stays one. Written out because `max_pool2d` ties exported graphs to even or to odd sides.
    """
    padded = nn.functional.pad(maps, (0, 0, 0, 1), value=float("-inf"))
    maps = torch.maximum(maps[:, :, ::2], padded[:, :, 1::2])  # (B, C, height / 2, width)
    padded = nn.functional.pad(maps, (0, 1), value=float("-inf"))
    return torch.maximum(maps[..., ::2], padded[..., 1::2])  # (B, C, height / 2, width / 2)


def make_classifier(channels: int, config: UnipConfig) -> nn.Conv2d:
    """1x1 convolution from `channels` to one score for each class."""
    return nn.Conv2d(channels, config.num_labels or 0, kernel_size=1)


class UnipConvModule(nn.Module):
    """
    Convolution (same padding, no bias), batch norm, ReLU: `(batch_size, in_channels, height, width)` to
    `(batch_size, out_channels, height, width)`.

    In training, batch norm needs more than one value for each channel. Where there is one (the 1x1 pooled branch at
    batch size 1), the running statistics stand in, so that a model trains at any batch size.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.batch_norm = nn.BatchNorm2d(out_channels)

    def _is_synchronized(self) -> bool:
        return (
            isinstance(self.batch_norm, nn.SyncBatchNorm)
            and torch.distributed.is_initialized()
            and torch.distributed.get_world_size() > 1
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = self.convolution(maps)
        if self.training and maps.shape[0] * maps.shape[2] * maps.shape[3] == 1 and not self._is_synchronized():
            norm = self.batch_norm
            maps = nn.functional.batch_norm(
                maps, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
            )
        else:
            maps = self.batch_norm(maps)
        return nn.functional.relu(maps)


class UnipLastLayerFeaturePyramid(nn.Module):
    """
    LL-FPN (paper section 4.3): four scales from maps at 1/16 of the image. All four come from the last block, or, as
    the classic pyramid, each from a block of its own; the operations and their weights are the same.
    """

    def __init__(self, config: UnipConfig):
        super().__init__()
        width = config.hidden_size
        self.to_quarter = nn.Sequential(
            nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
        )
        self.to_eighth = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)

    def forward(self, feature_maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """One or four maps `(batch_size, hidden_size, rows, columns)` at 1/16 to four at 1/4, 1/8, 1/16, 1/32."""
        quarter, eighth, sixteenth, thirty_second = feature_maps * 4 if len(feature_maps) == 1 else feature_maps
        return [
            self.to_quarter(quarter),  # 1/4
            self.to_eighth(eighth),  # 1/8
            sixteenth,  # 1/16
            max_pool(thirty_second),  # 1/32
        ]


class UnipUPerHead(nn.Module):
    """[UPerNet](https://huggingface.co/papers/1807.10221) head: pyramid pooling at 1/32, feature pyramid up to 1/4."""

    def __init__(self, config: UnipConfig):
        super().__init__()
        width = config.hidden_size
        channels = width if config.decoder_channels is None else config.decoder_channels
        self.pool_scales = tuple(config.pool_scales)
        self.pooled_convolutions = nn.ModuleList([UnipConvModule(width, channels, 1) for _ in self.pool_scales])
        self.bottleneck = UnipConvModule(width + len(self.pool_scales) * channels, channels, 3)
        self.lateral_convolutions = nn.ModuleList([UnipConvModule(width, channels, 1) for _ in range(3)])
        self.output_convolutions = nn.ModuleList([UnipConvModule(channels, channels, 3) for _ in range(3)])
        self.fusion = UnipConvModule(4 * channels, channels, 3)
        self.dropout = nn.Dropout2d(config.classifier_dropout_prob)
        self.classifier = make_classifier(channels, config)

    def forward(self, pyramid: list[torch.Tensor]) -> torch.Tensor:
        """Four maps `(batch_size, hidden_size, ...)`, 1/4 to 1/32, to logits `(batch_size, num_labels, ...)`, 1/4."""
        *finer, coarsest = pyramid
        pooled = [coarsest]
        for bins, convolution in zip(self.pool_scales, self.pooled_convolutions):
            pooled.append(resize(convolution(adaptive_average_pool(coarsest, bins)), coarsest.shape[-2:]))
        top = self.bottleneck(torch.cat(pooled, dim=1))  # 1/32

        levels = [top]
        for maps, convolution in zip(reversed(finer), reversed(self.lateral_convolutions)):
            levels.insert(0, convolution(maps) + resize(levels[0], maps.shape[-2:]))  # 1/16, 1/8, 1/4
        levels[:3] = [convolution(maps) for maps, convolution in zip(levels, self.output_convolutions)]
        fused = self.fusion(
            torch.cat([levels[0]] + [resize(maps, levels[0].shape[-2:]) for maps in levels[1:]], dim=1)
        )
        return self.classifier(self.dropout(fused))  # 1/4


class UnipAuxiliaryHead(nn.Module):
    """One convolution and a classifier on the 1/16 level; only trained along, not used for predictions."""

    def __init__(self, config: UnipConfig):
        super().__init__()
        self.convolution = UnipConvModule(config.hidden_size, config.auxiliary_channels, 3)
        self.dropout = nn.Dropout2d(config.classifier_dropout_prob)
        self.classifier = make_classifier(config.auxiliary_channels, config)

    def forward(self, sixteenth: torch.Tensor) -> torch.Tensor:
        """`(batch_size, hidden_size, rows, columns)` to logits `(batch_size, num_labels, rows, columns)`."""
        return self.classifier(self.dropout(self.convolution(sixteenth)))


class UnipSegmentationModel(UnipPreTrainedModel):
    """What both segmentation models share: an encoder up to the last block that is read, the loss, and its checks."""

    # The final norm belongs to the encoder but not to segmentation, which reads raw block outputs.
    _keys_to_ignore_on_load_unexpected = [r"layernorm\.(weight|bias)$"]

    # Each model defines how maps at 1/16 become logits, and those of an auxiliary head if it has one and it is wanted.
    _classify: Callable[[list[torch.Tensor], bool], tuple[torch.Tensor, torch.Tensor | None]]

    def __init__(self, config: UnipConfig):
        super().__init__(config)
        if config.semantic_loss_ignore_index in range(config.num_labels or 0):
            logger.warning(
                f"semantic_loss_ignore_index={config.semantic_loss_ignore_index} is also one of the "
                f"{config.num_labels} classes, which will not be learned."
            )
        self.feature_layers = list(config.feature_layers or [config.num_hidden_layers])
        self.unip = UnipModel(config, num_layers=max(self.feature_layers), add_final_norm=False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.ConvTranspose2d) and module.bias is not None:
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:  # a classifier
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> UnipSemanticSegmenterOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Scaled images of any
                size from one patch up.
            labels (`torch.Tensor` of shape `(batch_size, height, width)`, *optional*): Class ids, 255 to ignore.
            output_attentions (`bool`, *optional*): Return attention after softmax; needs the eager attention.

        Raises:
            ValueError: if shapes do not fit the model, or an id is neither a class nor the one to ignore.
        """
        self._check_inputs(pixel_values, labels, output_attentions)
        feature_maps = self.unip.feature_maps(pixel_values, self.feature_layers, **kwargs)
        logits, auxiliary_logits = self._classify(feature_maps, self.training or labels is not None)
        height, width = pixel_values.shape[-2:]
        padded_size = self.unip.embeddings.padded_size(pixel_values)
        logits = crop_to_image(logits, padded_size, (height, width))
        if auxiliary_logits is not None:
            auxiliary_logits = crop_to_image(auxiliary_logits, padded_size, (height, width))
        loss = None
        if labels is not None:
            loss = self._cross_entropy(logits, labels)
            if auxiliary_logits is not None:
                loss = loss + self.config.auxiliary_loss_weight * self._cross_entropy(auxiliary_logits, labels)
        return UnipSemanticSegmenterOutput(loss=loss, logits=logits, auxiliary_logits=auxiliary_logits)

    def _check_inputs(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None, output_attentions: bool | None
    ) -> None:
        self._check_output_attentions(output_attentions)
        if pixel_values is None or labels is None:
            return
        expected = (pixel_values.shape[0], *pixel_values.shape[-2:])
        if tuple(labels.shape) != expected or labels.is_floating_point():
            raise ValueError(
                f"labels is {labels.dtype} of shape {tuple(labels.shape)}, but these pixel_values need integer ids of "
                f"shape {expected}: (batch_size, height, width), one for each pixel."
            )
        # Behind a compiler the check would break the graph; on a device an id too high kills the whole process.
        if not torch.compiler.is_compiling():
            num_labels, ignore_index = self.config.num_labels or 0, self.config.semantic_loss_ignore_index
            if num_labels < 2:
                raise ValueError("A loss needs at least two classes: set num_labels, background included.")
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


class UnipForSemanticSegmentation(UnipSegmentationModel):
    """
    The paper's segmentation network: encoder, last-layer feature pyramid, UPerNet head, and an auxiliary head that is
    trained along. `config.feature_layers` with four blocks gives the classic pyramid instead.
    """

    def __init__(self, config: UnipConfig):
        super().__init__(config)
        if len(self.feature_layers) not in (1, 4):
            raise ValueError(
                f"feature_layers={self.feature_layers} has {len(self.feature_layers)} blocks: the pyramid takes one "
                "block for all four scales, or four."
            )
        if config.patch_size % 4:
            raise ValueError(
                f"patch_size={config.patch_size} is not a multiple of 4: the pyramid's finest maps, at four times the "
                "resolution of the patches, would not fall on whole pixels."
            )
        self.pyramid = UnipLastLayerFeaturePyramid(config)
        self.decode_head = UnipUPerHead(config)
        self.auxiliary_head = UnipAuxiliaryHead(config) if config.use_auxiliary_head else None
        self.post_init()

    def _classify(  # type: ignore[override]
        self, feature_maps: list[torch.Tensor], with_auxiliary: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        pyramid = self.pyramid(feature_maps)
        logits = self.decode_head(pyramid)
        if self.auxiliary_head is None or not with_auxiliary:
            return logits, None
        return logits, self.auxiliary_head(pyramid[2])


class UnipForLinearSegmentation(UnipSegmentationModel):
    """
    Linear probing (paper section 3.1): one 1x1 classifier on the raw outputs of one or several blocks of a frozen
    encoder. The encoder keeps its evaluation mode and gets no gradient.
    """

    def __init__(self, config: UnipConfig):
        super().__init__(config)
        self.classifier = make_classifier(len(self.feature_layers) * config.hidden_size, config)
        self.post_init()

    def _freeze(self) -> None:
        self.unip.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "UnipForLinearSegmentation":
        super().train(mode)
        self.unip.eval()
        return self

    def _classify(  # type: ignore[override]
        self, feature_maps: list[torch.Tensor], with_auxiliary: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.classifier(torch.cat(feature_maps, dim=1)), None


UnipForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
UnipForLinearSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")

__all__ = [
    "UnipAuxiliaryHead",
    "UnipForLinearSegmentation",
    "UnipForSemanticSegmentation",
    "UnipLastLayerFeaturePyramid",
    "UnipSemanticSegmenterOutput",
    "UnipUPerHead",
]

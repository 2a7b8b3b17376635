# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""UNIP encoder: a plain ViT, as a model and as a backbone."""

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BackboneOutput, BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging
from transformers.utils.output_capturing import capture_outputs

from .configuration_unip import UnipConfig
from .modeling_unip_layers import (
    UnipAttention,
    UnipEmbeddings,
    UnipLayer,
    UnipLayerScale,
    UnipPatchEmbeddings,
    resize_position_embeddings,
    sine_cosine_position_embeddings,
)
from .trained_weights_unip import add_backbone, without_backbone


logger = logging.get_logger(__name__)

# Arguments of `from_pretrained` that say where files of the Hub are.
DOWNLOAD = ("cache_dir", "force_download", "proxies", "local_files_only", "token")


class UnipPreTrainedModel(PreTrainedModel):
    """Initialisation (Xavier-uniform, as in MAE), freezing, saving, and what the Hugging Face libraries read."""

    config_class = UnipConfig
    config: UnipConfig
    base_model_prefix = "unip"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    _input_embed_layer = "patch_embeddings"
    supports_gradient_checkpointing = True
    _no_split_modules = ["UnipEmbeddings", "UnipLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": UnipLayer, "attentions": UnipAttention}
    accepts_loss_kwargs = False  # the loss is a mean, so Trainer has to divide by the accumulation steps

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Only the module's own parameters: transformers calls this for the modules that lack some in a checkpoint.
        if isinstance(module, UnipPatchEmbeddings):
            weight = module.weight  # initialised like a linear layer over the pixels of a patch
            bound = math.sqrt(6.0 / (weight[0].numel() + weight.shape[0]))
            init.uniform_(weight, -bound, bound)
            init.zeros_(module.bias)  # type: ignore[arg-type]
        elif isinstance(module, UnipEmbeddings):
            if module.cls_token is not None:
                init.normal_(module.cls_token, std=self.config.initializer_range)
            if self.config.position_embedding_type == "sincos":
                table = sine_cosine_position_embeddings(self.config.hidden_size, self.config.grid_size)
                init.copy_(module.position_embeddings, table[:, -module.position_embeddings.shape[1] :])
            else:
                init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)
            if module.distillation_token is not None:
                init.normal_(module.distillation_token, std=self.config.initializer_range)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, UnipLayerScale):
            init.constant_(module.scale, float(self.config.layer_scale_init_value or 0.0))
        elif isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            super()._init_weights(module)

    def post_init(self) -> None:
        super().post_init()
        self._freeze()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """
        As in `transformers`. A folder that holds only what was trained needs its backbone; `backbone_checkpoint`, a
        field of the configuration, says another place.

        Raises:
            ValueError: if the backbone is missing, or is another one.
        """
        source, config = pretrained_model_name_or_path, kwargs.get("config")
        download = {name: kwargs[name] for name in DOWNLOAD if name in kwargs}
        if source is None:
            fields = {}
        elif isinstance(config, PreTrainedConfig):
            fields = vars(config)
        else:
            placed = {name: kwargs[name] for name in ("revision", "subfolder") if name in kwargs}
            fields, _ = UnipConfig.get_config_dict(config or source, **download, **placed)
        digest = fields.get("backbone_fingerprint")
        loaded: Any
        model: Any
        report: Any
        if digest is None:
            loaded = super().from_pretrained(source, *args, **kwargs)
            model = loaded[0] if isinstance(loaded, tuple) else loaded
        else:
            is_asked = kwargs.pop("output_loading_info", False)
            verbosity = logging.get_verbosity()
            logging.set_verbosity_error()  # it would report as missing what is filled in below
            try:
                loaded = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
            finally:
                logging.set_verbosity(verbosity)
            model, report = loaded
            checkpoint = str(model.config.backbone_checkpoint)
            missing = add_backbone(model, report["missing_keys"], str(source), checkpoint, digest, **download)
            if missing:
                logger.warning(f"Not in {str(source)!r}, newly initialised: {', '.join(sorted(missing))}.")
            report["missing_keys"] = missing
            model.config.backbone_fingerprint = None  # it is whole now
            loaded = (model, report) if is_asked else model
        model._freeze()  # loading has made every parameter trainable
        return loaded

    def _freeze(self) -> None:
        """Freezes what this model does not train."""
        is_learned = self.config.position_embedding_type == "learned"
        embeddings: Any = self.base_model.embeddings
        embeddings.position_embeddings.requires_grad_(is_learned)

    def _check_output_attentions(self, output_attentions: bool | None) -> None:
        """Raises a `ValueError` if attention is asked for but not kept: the tuple would come back empty."""
        implementation = self.config._attn_implementation
        if output_attentions and implementation != "eager":
            raise ValueError(
                f"output_attentions=True needs the eager attention, but this model uses {implementation!r}, which "
                'does not keep attention maps: call model.set_attn_implementation("eager") first.'
            )

    def resize_position_embeddings(self, image_size: int | tuple[int, int]) -> None:  # type: ignore[override]
        """
        Resizes the stored position table (bicubic) to another image size. Fine-tuning at 512 px does so once, before
        training, so that the trained table has one row for each token. With `config.backbone_config` only the
        configuration changes: such backbones interpolate their positions themselves.

        Args:
            image_size (`int` or `(height, width)`): The new size in pixels.

        Raises:
            ValueError: if it is smaller than one patch.
        """
        if self.config.backbone_config is not None:  # such backbones interpolate their positions themselves
            self.config.image_size = image_size
            return
        embeddings: Any = self.base_model.embeddings
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        grid_size = (height // self.config.patch_size, width // self.config.patch_size)
        if min(grid_size) < 1:
            raise ValueError(f"image_size={image_size} is smaller than one patch of {self.config.patch_size} pixels.")
        old_table = embeddings.position_embeddings
        new_table = resize_position_embeddings(old_table.detach(), embeddings.grid_size, grid_size)
        embeddings.position_embeddings = nn.Parameter(new_table, requires_grad=old_table.requires_grad)
        embeddings.grid_size = grid_size
        self.config.image_size = image_size

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, only_trained: bool = False, **kwargs: Any
    ) -> None:
        """
        Saves weights, configuration, and the code that loads them without this library (`trust_remote_code=True`).
        The image processor is saved by its own `save_pretrained`.

        Args:
            save_directory: The folder.
            only_trained (`bool`, *optional*, defaults to `False`): Leave out the frozen weights that are still as in
                the checkpoint that the model was made from, `config.backbone_checkpoint`. Loading reads them there.
            args, kwargs: As in `transformers`.

        Raises:
            ValueError: with `only_trained`, if that checkpoint cannot be read or nothing is left out.
        """
        # These imports also make `transformers` copy the files into the folder.
        from .modeling_unip_heads import SEGMENTATION_MODELS
        from .modeling_unip_pretraining import UnipForPreTraining

        segmentation = next((kind for kind in SEGMENTATION_MODELS if isinstance(self, kind)), SEGMENTATION_MODELS[0])
        # File and class, as in "modeling_unip.UnipModel": the package differs where this is code out of a checkpoint.
        models: dict[str, type] = {
            "AutoModel": UnipModel,
            "AutoBackbone": UnipBackbone,
            "AutoModelForPreTraining": UnipForPreTraining,
            "AutoModelForSemanticSegmentation": segmentation,
        }
        if self.config.backbone_config is not None or self.config.fusion is not None:  # no encoder of UNIP alone
            models = {"AutoModelForSemanticSegmentation": segmentation}
        files = {auto: f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}" for auto, kind in models.items()}
        self.config.auto_map = {"AutoConfig": "configuration_unip.UnipConfig", **files}
        if only_trained:
            config = self.config
            config.backbone_checkpoint = config.backbone_checkpoint or config.name_or_path or None
            whole = kwargs.get("state_dict") or self.state_dict()
            kwargs["state_dict"], config.backbone_fingerprint = without_backbone(
                self, whole, config.backbone_checkpoint
            )
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.config.backbone_fingerprint = None


class UnipModel(UnipPreTrainedModel):
    """
    The bare encoder.

    Args:
        config ([`UnipConfig`]): The configuration.
        num_layers (`int`, *optional*): How many of the configured blocks to build; all by default.
        add_final_norm (`bool`, *optional*, defaults to `True`): Whether to build the final layer norm.
    """

    layer_class: type[UnipLayer] = UnipLayer

    def __init__(self, config: UnipConfig, num_layers: int | None = None, add_final_norm: bool = True):
        super().__init__(config)
        if config.backbone_config is not None:
            raise ValueError(
                "This configuration has a backbone_config in place of UNIP's encoder: only the segmentation models "
                "can be built from it."
            )
        self.embeddings = UnipEmbeddings(config)
        num_layers = config.num_hidden_layers if num_layers is None else num_layers
        self.layers = nn.ModuleList([self.layer_class(config, number) for number in range(1, num_layers + 1)])
        has_norm = add_final_norm and config.use_final_norm
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if has_norm else None
        self.post_init()

    def padded_size(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """Height and width of images, rounded up to multiples of the patch size, which is what the maps cover."""
        return self.embeddings.padded_size(pixel_values)

    def feature_maps(self, pixel_values: torch.Tensor, layers: Sequence[int], **kwargs: Any) -> list[torch.Tensor]:
        """
        Outputs of some blocks as maps, without the final norm, CLS and the distillation token.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Scaled images.
            layers (`Sequence[int]`): Block numbers from 1; 0 stands for the embeddings. Later blocks are not computed.

        Returns:
            A list in the order of `layers`, each of shape `(batch_size, hidden_size, rows, columns)`.
        """
        outputs = self.block_outputs(pixel_values, max(layers), **kwargs)
        rows = self.padded_size(pixel_values)[0] // self.embeddings.patch_size
        first = self.embeddings.num_special_tokens
        maps = {n: outputs[n][:, first:].transpose(1, 2).unflatten(2, (rows, -1)).contiguous() for n in set(layers)}
        return [maps[number] for number in layers]

    def block_outputs(self, pixel_values: torch.Tensor, num_layers: int, **kwargs: Any) -> list[torch.Tensor]:
        """The embeddings and the outputs of the first blocks, each `(batch_size, num_tokens, hidden_size)`."""
        outputs = [self.embeddings(pixel_values)]  # (B, 1+N, D)
        for layer in self.layers[:num_layers]:
            outputs.append(layer(outputs[-1], **kwargs))
        return outputs

    def query_key(self, pixel_values: torch.Tensor, layer: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Queries and keys of one block, not scaled, CLS included, a distillation token left out. Nothing after them is
        computed.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Scaled images.
            layer (`int`, *optional*): Block number from 1; the last block by default.

        Returns:
            Two tensors of shape `(batch_size, num_heads, 1 + rows * columns, head_dim)`.

        Raises:
            ValueError: if there is no such block.
        """
        layer = len(self.layers) if layer is None else layer
        if not 1 <= layer <= len(self.layers):
            raise ValueError(f"There is no block {layer}: this model has blocks 1 to {len(self.layers)}.")
        hidden_states = self.embeddings(pixel_values)  # (B, 1+N, D)
        for block in self.layers[: layer - 1]:
            hidden_states = block(hidden_states)
        _, query, key = self.layers[layer - 1](hidden_states, only_query_key=True)
        return self.without_distillation_token(query), self.without_distillation_token(key)

    def without_distillation_token(self, tokens: torch.Tensor) -> torch.Tensor:
        """Queries or keys `(batch_size, num_heads, num_tokens, head_dim)` of CLS and the patches alone."""
        if self.embeddings.num_special_tokens == 1:
            return tokens
        return torch.cat([tokens[:, :, :1], tokens[:, :, self.embeddings.num_special_tokens :]], dim=2)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values: torch.Tensor, output_attentions: bool | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Scaled images of any
                size from one patch up.
            output_attentions (`bool`, *optional*): Return attention after softmax, `(batch_size, heads, tokens,
                tokens)` for each block; needs the eager attention.

        Returns:
            `last_hidden_state` of shape `(batch_size, num_special_tokens + rows * columns, hidden_size)` after the
            final norm and `pooler_output`, its CLS token, of shape `(batch_size, hidden_size)`. `hidden_states`, if
            asked for, holds the embeddings and the output of every block before the final norm.
        """
        self._check_output_attentions(output_attentions)
        hidden_states = self.embeddings(pixel_values)  # (B, 1+N, D)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        if self.layernorm is not None:
            hidden_states = self.layernorm(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states[:, 0])


class UnipBackbone(BackboneMixin, UnipModel):
    """
    The encoder as a backbone: one map at 1/16 for each of `out_features`, raw block outputs without the final norm, as
    the paper's segmentation networks use them. Works in `AutoBackbone` and under `UperNetForSemanticSegmentation`.
    """

    _keys_to_ignore_on_load_unexpected = [r"layernorm\.(weight|bias)$"]

    def __init__(self, config: UnipConfig):
        super().__init__(config, add_final_norm=False)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(  # type: ignore[override]
        self, pixel_values: torch.Tensor, output_attentions: bool | None = None, **kwargs: Any
    ) -> BackboneOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Scaled images of any
                size from one patch up.
            output_attentions (`bool`, *optional*): Return attention after softmax; needs the eager attention.

        Returns:
            `feature_maps`, a tuple of `(batch_size, hidden_size, rows, columns)` in the order of `out_features`.
        """
        self._check_output_attentions(output_attentions)
        layers = [self.stage_names.index(name) for name in self.out_features]
        maps = tuple(self.feature_maps(pixel_values, layers, **kwargs))
        return BackboneOutput(feature_maps=maps)  # type: ignore[arg-type]


UnipModel.register_for_auto_class("AutoModel")
UnipBackbone.register_for_auto_class("AutoBackbone")

__all__ = ["UnipBackbone", "UnipModel", "UnipPreTrainedModel"]

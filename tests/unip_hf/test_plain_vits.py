"""Plain ViTs of timm and transformers compute the same as models of this library; others are told apart."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import transformers
from torch import nn

from unip_hf import UnipForSemanticSegmentation, UnipModel
from unip_hf.distillation.teachers import Teacher
from unip_hf.hub.conversion import convert_checkpoint, to_published_state_dict
from unip_hf.hub.plain_vits import convert_plain_vit, find_plain_vit, load_plain_vit
from unip_hf.hub.pretrained import NotPlainViTError

from .plain_networks import save_timm, with_large_weights


SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 72}
SQUARE = {**SIZE, "image_size": 32, "patch_size": 16}
TIMM_SIZE = {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 32}
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 16}


def check_equal(encoder: nn.Module, image: torch.Tensor, expected: torch.Tensor, folder: Path) -> None:
    """Also after it was saved and loaded."""
    encoder.save_pretrained(folder)
    for model in (encoder, UnipModel.from_pretrained(folder).eval()):
        with torch.no_grad():
            found = model(image).last_hidden_state
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


TIMM: dict[str, tuple[str, dict]] = {
    "augreg": ("vit_tiny_patch16_224", {}),
    "DINO, patches of 8": ("vit_small_patch8_224", {}),
    "MAE, wide": ("vit_base_patch16_224", {"img_size": (32, 64)}),
    "one channel": ("vit_tiny_patch16_224", {"in_chans": 1}),
    "DeiT": ("deit_small_patch16_224", {"mlp_ratio": 2.25}),
    "distilled DeiT": ("deit_small_distilled_patch16_224", {"img_size": (48, 32)}),
    "DeiT III": ("deit3_small_patch16_224", {"init_values": 0.5}),
    "DeiT III, wide": ("deit3_small_patch16_224", {"img_size": (16, 80)}),
    "norm behind the pooling": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "no bias of queries": ("vit_tiny_patch16_224", {"qkv_bias": False}),
    "another activation": ("vit_tiny_patch16_224", {"act_layer": "gelu_tanh"}),
    "DINOv2": ("vit_small_patch14_dinov2", {"img_size": 28}),
}


@pytest.mark.parametrize("kind", TIMM)
def test_timm(kind: str, tmp_path: Path) -> None:
    name, arguments = TIMM[kind]
    arguments = {**TIMM_SIZE, **arguments}
    model = save_timm(tmp_path / "timm", name, arguments)
    size = (arguments["img_size"],) * 2 if isinstance(arguments["img_size"], int) else arguments["img_size"]
    image = torch.randn(2, arguments.get("in_chans", 3), *size)
    with torch.no_grad():
        expected = model.forward_features(image)
    for number, named in enumerate((f"timm:local-dir:{tmp_path / 'timm'}", str(tmp_path / "timm"))):
        encoder = find_plain_vit(named).model
        check_equal(encoder, image, expected, tmp_path / str(number))
    published = to_published_state_dict(encoder)
    if kind in ("augreg", "distilled DeiT", "DeiT III"):  # a published file says less than a folder
        again = convert_checkpoint(published, UnipModel, num_attention_heads=4, image_size=size)
        check_equal(again, image, expected, tmp_path / "published")


TRANSFORMERS: dict[str, Callable[[], nn.Module]] = {
    "ViT, DINO": lambda: transformers.ViTModel(transformers.ViTConfig(**SQUARE)),
    "wide": lambda: transformers.ViTModel(transformers.ViTConfig(**{**SQUARE, "image_size": [32, 48]})),
    "not whole patches": lambda: transformers.ViTModel(transformers.ViTConfig(**{**SQUARE, "image_size": 40})),
    "classifier": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SQUARE)),
    "masked images": lambda: transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**SQUARE)),
    "no bias, another activation": lambda: transformers.ViTModel(
        transformers.ViTConfig(**SQUARE, qkv_bias=False, hidden_act="quick_gelu", num_channels=1)
    ),
    "MAE": lambda: transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(**SQUARE, **DECODER, decoder_num_attention_heads=2)
    ),
    "MSN": lambda: transformers.ViTMSNModel(transformers.ViTMSNConfig(**SQUARE)),
    "DeiT": lambda: transformers.DeiTModel(transformers.DeiTConfig(**SQUARE)),
    "DeiT with two classifiers": lambda: transformers.DeiTForImageClassificationWithTeacher(
        transformers.DeiTConfig(**SQUARE)
    ),
}


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers(kind: str, tmp_path: Path) -> None:
    with_large_weights(TRANSFORMERS[kind]()).save_pretrained(tmp_path / "theirs")
    model = transformers.AutoModel.from_pretrained(tmp_path / "theirs").eval()
    config = model.config
    size = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    image, options = torch.randn(2, config.num_channels, *size), {}
    if kind == "MAE":
        config.mask_ratio = 0.0
        options["noise"] = torch.arange(4.0).expand(2, -1)
    with torch.no_grad():
        expected = model(image, **options).last_hidden_state
    encoder = find_plain_vit(str(tmp_path / "theirs")).model
    height, width = (number * config.patch_size for number in encoder.config.grid_size)
    check_equal(encoder, image[..., :height, :width], expected, tmp_path / "ours")


def test_the_distillation_token_is_no_patch(tmp_path: Path) -> None:
    model = with_large_weights(transformers.DeiTModel(transformers.DeiTConfig(**SQUARE)))
    encoder = convert_plain_vit(model)
    image = torch.randn(2, 3, 32, 32)
    states = encoder(image, output_hidden_states=True).hidden_states
    (feature_map,) = encoder.feature_maps(image, [2])
    torch.testing.assert_close(feature_map.flatten(2).transpose(1, 2), states[2][:, 2:])
    query, _ = encoder.query_key(image)
    assert query.shape == (2, 4, 5, 8)  # CLS and four patches
    torch.testing.assert_close(Teacher(encoder).query_key(image, 2)[0], query)
    assert encoder(torch.randn(1, 3, 40, 70)).last_hidden_state.shape == (1, 2 + 3 * 5, 32)
    encoder.resize_position_embeddings(64)
    assert encoder.embeddings.position_embeddings.shape == (1, 2 + 16, 32)
    segmenter = convert_plain_vit(model, UnipForSemanticSegmentation, num_labels=3, image_size=(48, 32))
    assert segmenter.config.image_size == (48, 32) and segmenter(image).logits.shape == (2, 3, 8, 8)


def test_one_channel_computes_the_same_for_grey_images() -> None:
    model = with_large_weights(timm.create_model("vit_tiny_patch16_224", **TIMM_SIZE))
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = model.forward_features(image.expand(-1, 3, -1, -1))
        found = convert_plain_vit(model, num_channels=1)(image).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "registers": (lambda: timm.create_model("vit_small_patch14_reg4_dinov2", **{**TIMM_SIZE, "img_size": 28}),
                  "has reg_token"),
    "norms of queries and keys": (lambda: timm.create_model("vit_tiny_patch16_224", **TIMM_SIZE, qk_norm=True),
                                  "has blocks.0.attn.q_norm"),
    "norm in front": (lambda: timm.create_model("vit_tiny_patch16_224", **TIMM_SIZE, pre_norm=True),
                      "has norm_pre.weight"),
    "no CLS": (lambda: timm.create_model("vit_tiny_patch16_224", **TIMM_SIZE, class_token=False, global_pool="avg"),
               "has no cls_token"),
    "no positions": (lambda: timm.create_model("vit_tiny_patch16_224", **TIMM_SIZE, pos_embed="none"), "pos_embed"),
    "norms behind": (lambda: timm.create_model(
        "vit_tiny_patch16_224", **TIMM_SIZE, block_fn=timm.models.vision_transformer.ResPostBlock),
        "computes something else"),
    "no bias of the projection": (lambda: timm.create_model("vit_tiny_patch16_224", **TIMM_SIZE, proj_bias=False),
                                  "projection.bias: not in the file"),
    "rotary": (lambda: timm.create_model("vit_small_patch16_dinov3", **TIMM_SIZE), "Eva of timm"),
    "SwiGLU": (lambda: timm.create_model("vit_giant_patch14_dinov2", **{**TIMM_SIZE, "img_size": 28}),
               "activation of VisionTransformer, SiLU"),
    "relative": (lambda: transformers.BeitModel(transformers.BeitConfig(**SQUARE)), "BeitModel of transformers"),
    "DINOv2": (lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SQUARE)), "Dinov2Model of transformers"),
    "patches that are not square": (lambda: timm.create_model(
        "vit_tiny_patch16_224", **{**TIMM_SIZE, "patch_size": (8, 16)}), "8x16 pixels are not square"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_what_computes_something_else_is_told_apart(kind: str) -> None:
    make, reason = OTHERS[kind]
    with pytest.raises(NotPlainViTError, match=reason):
        convert_plain_vit(with_large_weights(make()))


def test_names(tmp_path: Path, make_config: Callable, caplog: pytest.LogCaptureFixture) -> None:
    assert find_plain_vit("small") is None
    UnipModel(make_config()).save_pretrained(tmp_path / "unip")
    assert find_plain_vit(str(tmp_path / "unip")) is None
    save_timm(tmp_path / "registers", "vit_small_patch14_reg4_dinov2", {**TIMM_SIZE, "img_size": 28})
    assert find_plain_vit(f"timm:local-dir:{tmp_path / 'registers'}") is None
    assert "has reg_token" in caplog.text
    for name, message in (
        ("timm:vit_small_patch16_224.dion", "Similar names: .*vit_small_patch16_224.dino"),
        ("timm:local-dir:nowhere", "Config file not found"),
    ):
        with pytest.raises(ValueError, match=message):
            find_plain_vit(name)
    with pytest.raises(OSError, match="no checkpoint folder 'nobody/nothing'"):
        find_plain_vit("nobody/nothing")
    assert find_plain_vit("timm:xcit_nano_12_p16_224") is None
    with pytest.raises(NotPlainViTError, match="not a plain ViT for any image size"):
        load_plain_vit("timm:xcit_nano_12_p16_224")


def test_what_the_weights_say(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    transformers.ViTModel(transformers.ViTConfig(**SQUARE)).save_pretrained(theirs)
    found = load_plain_vit(str(theirs))
    number = f"{found.model.num_parameters() / 1e6:.2f} M parameters"
    assert found.describe() == (
        f"{theirs}: {number}, licence of the weights unknown, mean and standard deviation unknown"
    )
    transformers.ViTImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.1, 0.2, 0.3]).save_pretrained(theirs)
    (theirs / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\nA model.\n")
    said = "licence of the weights cc-by-nc-4.0, mean 0.4 0.5 0.6, standard deviation 0.1 0.2 0.3"
    assert load_plain_vit(str(theirs)).describe() == f"{theirs}: {number}, {said}"
    (theirs / "README.md").write_text("---\nlicense: other\nlicense_name: deepseek\n---\n")
    assert load_plain_vit(str(theirs)).license == "deepseek"

    save_timm(tmp_path / "timm", "deit3_small_patch16_224", TIMM_SIZE)
    found = load_plain_vit(f"timm:local-dir:{tmp_path / 'timm'}")
    assert found.license == "apache-2.0" and found.image_mean == (0.485, 0.456, 0.406)

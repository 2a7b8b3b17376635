"""Teachers of every library give the queries and keys that their attention is made of, and compute nothing behind."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from unip_hf import UnipModel
from unip_hf.distillation.teachers import Teacher, load_teacher
from unip_hf.hub import to_published_state_dict
from unip_hf.hub.networks import IMAGENET_MEAN

from ..conftest import PATIENCE
from .plain_networks import PATCH_14, PATCH_16, SIZE, TIMM_SIZE, save_timm, with_large_weights


TEXT = {**SIZE, "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 16}

# Model of transformers to save, and how many of its tokens lie between CLS and the patches.
TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ViT, DINO": (lambda: transformers.ViTModel(transformers.ViTConfig(**PATCH_16)), 0),
    "classifier": (lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**PATCH_16)), 0),
    "MAE": (lambda: transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(**PATCH_16, **DECODER, decoder_num_attention_heads=2)), 0),
    "DINOv2": (lambda: transformers.Dinov2Model(transformers.Dinov2Config(**PATCH_14)), 0),
    "DINOv2 with registers": (lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**PATCH_14, num_register_tokens=3)), 3),
    "DINOv3": (lambda: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**PATCH_16, num_register_tokens=4)), 4),
    "DeiT": (lambda: transformers.DeiTModel(transformers.DeiTConfig(**PATCH_16)), 1),
    "CLIP": (lambda: transformers.CLIPModel(transformers.CLIPConfig(vision_config=PATCH_16, text_config=TEXT)), 0),
    "CLIP vision": (lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**PATCH_16)), 0),
}  # fmt: skip
TIMM = {
    "vit_tiny_patch16_224": (TIMM_SIZE, 0),
    "vit_small_patch14_reg4_dinov2": ({**TIMM_SIZE, "img_size": 28}, 4),
    "deit_tiny_distilled_patch16_224": (TIMM_SIZE, 1),
    "vit_small_patch16_dinov3": (TIMM_SIZE, 4),
    "eva02_tiny_patch14_224": ({**TIMM_SIZE, "img_size": 28}, 0),
}
HEIGHT, WIDTH, GRID = 32, 48, (2, 3)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, HEIGHT, WIDTH)


def attention(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(dim=-1)


def resized(images: torch.Tensor, patch_size: int) -> torch.Tensor:
    new_size = [patch_size * number for number in GRID]
    return nn.functional.interpolate(images, new_size, mode="bicubic", antialias=True) if patch_size != 16 else images


def without_other_tokens(full: torch.Tensor, number: int) -> torch.Tensor:
    """Attention of CLS and patches alone, renormalised."""
    assert full.shape[-1] == 1 + number + 6 and full.std() > 0.02
    keep = [0, *range(1 + number, full.shape[-1])]
    kept = full[:, :, keep][..., keep]
    return kept / kept.sum(dim=-1, keepdim=True)


def check_attention(teacher: Teacher, images: torch.Tensor, expected: list[torch.Tensor]) -> None:
    """The teacher's attention is that of the library, in every block and in one; a block does not see those behind."""
    assert teacher.num_layers == len(expected) == 3 and teacher.student_patch_size == 16
    every_block = teacher.query_keys(images)
    for (query, key), truth in zip(every_block, expected, strict=True):
        assert query.shape == key.shape == (2, teacher.num_attention_heads, 7, query.shape[-1])
        assert not query.requires_grad and not query.is_inference()
        torch.testing.assert_close(attention(query, key), truth, atol=1e-5, rtol=0)
    teacher.keep_layer(2)
    for one, several in zip(teacher.query_key(images), every_block[1], strict=True):
        torch.testing.assert_close(one, several, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_attention_of_transformers(kind: str, images: torch.Tensor, tmp_path: Path) -> None:
    make, number = TRANSFORMERS[kind]
    with_large_weights(make()).save_pretrained(tmp_path)
    teacher = load_teacher(str(tmp_path))
    model = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="eager", dtype=torch.float32)
    model = getattr(model, "vision_model", model)
    options: dict = {"output_attentions": True}
    if "DINOv" not in kind:
        options["interpolate_pos_encoding"] = True
    if kind == "MAE":
        model.config.mask_ratio = 0.0
        options["noise"] = torch.arange(6.0).expand(2, -1)
    with torch.no_grad():
        full = model(resized(images, teacher.patch_size), **options).attentions
    check_attention(teacher, images, [without_other_tokens(block, number) for block in full])


@pytest.mark.parametrize("name", TIMM)
def test_attention_of_timm(name: str, images: torch.Tensor, tmp_path: Path) -> None:
    arguments, number = TIMM[name]
    model = save_timm(tmp_path, name, {**arguments, "dynamic_img_size": True})
    full: list[torch.Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda *call: full.append(call[2]))
    teacher = load_teacher(f"timm:local-dir:{tmp_path}")
    with torch.no_grad():
        model(resized(images, teacher.patch_size))
    expected = [without_other_tokens(block, number) for block in full]
    check_attention(teacher, images, expected)
    check_attention(Teacher(model), images, expected)  # its attention was written out until now
    assert load_teacher(str(tmp_path), layer=1).layer == 1  # what the Hub has of timm, without its prefix


@pytest.mark.parametrize("format", ["mae", "dino", "ibot", "unip"])
def test_attention_of_published_files(
    format: str, images: torch.Tensor, make_config: Callable, tmp_path: Path
) -> None:
    heads = {"num_attention_heads": 4, "last_layer_num_attention_heads": 8 if format == "unip" else None}
    positions = "sincos" if format in ("mae", "unip") else "learned"
    config = make_config(**heads, layer_scale_init_value=None, position_embedding_type=positions, image_size=32)
    model = UnipModel._from_config(config, attn_implementation="eager").eval()
    for block in model.layers:
        with_large_weights(block)
    tensors = to_published_state_dict(model)
    decoder = {"mask_token": torch.zeros(1, 1, 16), "decoder_pred.bias": torch.zeros(768)}
    content = {
        "mae": {"model": tensors | decoder, "args": argparse.Namespace(model="mae_vit_large_patch16")},
        "dino": tensors,
        "ibot": {"state_dict": tensors},
        "unip": {"model": tensors, "args": argparse.Namespace(last_heads=8)},
    }
    torch.save(content[format], tmp_path / "published.pth")
    teacher = load_teacher(str(tmp_path / "published.pth"), num_attention_heads=4)
    assert teacher.image_mean == (IMAGENET_MEAN if format != "unip" else (0.3801, 0.3801, 0.3801))
    assert teacher.num_attention_heads == (4 if format != "unip" else 8)
    with torch.no_grad():
        full = list(model(images, output_attentions=True).attentions)
    if format != "unip":
        check_attention(teacher, images, full)
    query, key = load_teacher(str(tmp_path / "published.pth"), 3, num_attention_heads=4).query_key(images)
    torch.testing.assert_close(attention(query, key), full[2], atol=1e-5, rtol=0)
    teacher.keep_layer(2)
    assert teacher.num_attention_heads == 4  # of this block, whatever the last one has


def test_timm_says_how_it_normalises(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", **TIMM_SIZE)
    model.pretrained_cfg.update(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    timm.models.save_for_hf(model, tmp_path / "timm", model_args=TIMM_SIZE)
    teacher = load_teacher(f"timm:local-dir:{tmp_path / 'timm'}")
    assert (teacher.image_mean, teacher.image_std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_published_file_of_one_channel_takes_three(
    images: torch.Tensor, make_config: Callable, tmp_path: Path
) -> None:
    config = make_config(num_attention_heads=4, last_layer_num_attention_heads=None, layer_scale_init_value=None)
    tensors = to_published_state_dict(UnipModel(config))
    grey = {**tensors, "patch_embed.proj.weight": tensors["patch_embed.proj.weight"].sum(dim=1, keepdim=True)}
    save_file(tensors, tmp_path / "three.safetensors")
    save_file(grey, tmp_path / "one.safetensors")
    images = images[:, :1].expand(-1, 3, -1, -1)
    one, three = (
        load_teacher(str(tmp_path / f"{name}.safetensors"), 2, num_attention_heads=4) for name in ("one", "three")
    )
    torch.testing.assert_close(one.query_key(images), three.query_key(images))


def test_a_scale_of_its_own_becomes_part_of_the_query(vit: str, images: torch.Tensor) -> None:
    model = transformers.ViTModel.from_pretrained(vit, attn_implementation="eager").eval()
    for layer in model.layers:
        layer.attention.scaling = 0.1
    with torch.no_grad():
        expected = model(images, interpolate_pos_encoding=True, output_attentions=True).attentions
    check_attention(Teacher(model), images, list(expected))


def test_nothing_behind_the_block_is_computed_or_kept(vit: str, images: torch.Tensor, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("this lies behind the queries and keys")

    teacher = load_teacher(vit)
    expected = teacher.query_key(images, layer=2)
    for module in (teacher.blocks[1].attention.o_proj, teacher.blocks[1].mlp, teacher.blocks[2]):
        module.register_forward_pre_hook(refuse)
    assert all(torch.equal(*pair) for pair in zip(teacher.query_key(images, layer=2), expected, strict=True))
    with pytest.raises(AssertionError, match="this lies behind"):
        teacher.query_key(images, layer=3)
    assert torch.equal(teacher.query_key(images, layer=2)[0], expected[0])  # no trace of the failure is left

    size = sum(parameter.numel() for parameter in teacher.parameters())
    block = sum(parameter.numel() for parameter in teacher.blocks[2].parameters())
    teacher.keep_layer(2)
    assert size - sum(parameter.numel() for parameter in teacher.parameters()) == block
    assert teacher.num_layers == 3 and teacher.layer == 2 and torch.equal(teacher.query_key(images)[0], expected[0])
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.train().modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("source", ["transformers", "timm"])
def test_half_precision_is_near(
    source: str, dtype: torch.dtype, vit: str, images: torch.Tensor, tmp_path: Path
) -> None:
    name = vit
    if source == "timm":
        save_timm(tmp_path, "vit_tiny_patch16_224", TIMM_SIZE)
        name = f"timm:local-dir:{tmp_path}"
    exact = attention(*load_teacher(name, 2).query_key(images))
    teacher = load_teacher(name, 2, dtype=dtype)
    query, key = teacher.query_key(images)
    assert query.dtype == dtype and {parameter.dtype for parameter in teacher.parameters()} == {dtype}
    torch.testing.assert_close(attention(query.float(), key.float()), exact, atol=0.05, rtol=0)
    with torch.autocast("cpu", dtype=torch.float16 if dtype == torch.bfloat16 else torch.bfloat16):
        for same, one in zip(teacher.query_key(images), (query, key), strict=True):
            assert torch.equal(same, one)  # it has its own precision
    with torch.autocast("cpu", dtype=dtype):
        query, key = load_teacher(name, 2).query_key(images)
    assert query.dtype == dtype
    torch.testing.assert_close(attention(query.float(), key.float()), exact, atol=0.05, rtol=0)


def test_compiled_blocks_give_the_same_from_one_graph(images: torch.Tensor, vit: str, tmp_path: Path) -> None:
    save_timm(tmp_path, "vit_tiny_patch16_224", TIMM_SIZE)
    for name in (vit, f"timm:local-dir:{tmp_path}"):
        teacher, graphs = load_teacher(name, 3), []

        def count(graph: torch.fx.GraphModule, inputs: list, graphs: list = graphs) -> Callable:
            graphs.append(graph)
            return graph.forward

        expected = teacher.query_key(images)
        teacher.compile(backend=count, fullgraph=True)
        for _ in range(2):
            for compiled, eager in zip(teacher.query_key(images), expected, strict=True):
                torch.testing.assert_close(compiled, eager)
        assert len(graphs) == 1  # of two blocks
        with pytest.raises(ValueError, match=r"compiled or sharded for block 3: ask for block 1 before that"):
            teacher.query_keys(images)


SHARDED = """
import sys
import torch
from torch.distributed.tensor import DTensor
from unip_hf.distillation.teachers import load_teacher

folder, store, rank = sys.argv[1:]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", world_size=2, rank=int(rank))
images = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(int(rank)))
teacher = load_teacher(folder, 3)
expected = teacher.query_key(images)
size = sum(parameter.numel() for parameter in teacher.blocks[0].parameters())
teacher.shard("cpu")
teacher.compile(backend="eager")
for _ in range(2):
    for sharded, whole in zip(teacher.query_key(images), expected, strict=True):
        torch.testing.assert_close(sharded, whole)
        assert not isinstance(sharded, DTensor)
    for block in teacher.blocks[:2]:
        assert 2 * sum(parameter.to_local().numel() for parameter in block.parameters()) == size
assert not any(isinstance(parameter, DTensor) for parameter in teacher.blocks[2].parameters())
torch.distributed.barrier()  # a process that leaves while another still talks to it may abort it
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_the_blocks(vit: str, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", SHARDED, vit, str(tmp_path / "store")]
    processes = [subprocess.Popen([*arguments, rank], stderr=subprocess.PIPE, text=True) for rank in "01"]
    for process in processes:
        errors = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 0, errors


def test_normalisation_is_the_teachers_own(vit: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_teacher(vit).image_mean == IMAGENET_MEAN and "does not say how it normalises images" in caplog.text
    transformers.ViTImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.1, 0.2, 0.3]).save_pretrained(vit)
    caplog.clear()
    teacher = load_teacher(vit)
    assert (teacher.image_mean, teacher.image_std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3)) and not caplog.text
    save_timm(tmp_path, "vit_tiny_patch16_224", TIMM_SIZE)
    assert load_teacher(f"timm:local-dir:{tmp_path}").image_mean == (0.5, 0.5, 0.5)


def test_timm_by_name_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: torch.Tensor) -> None:
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    snapshot = tmp_path / f"models--timm--{name}" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0")
    model = timm.create_model("vit_tiny_patch16_224")
    save_file(model.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    teacher = load_teacher(f"timm:{name}", 2)
    assert teacher.num_layers == 12 and teacher.num_attention_heads == 3 and len(teacher.blocks) == 2
    assert torch.equal(teacher.blocks[1].attn.qkv.weight, model.blocks[1].attn.qkv.weight)
    assert teacher.query_key(images)[0].shape == (2, 3, 7, 64)

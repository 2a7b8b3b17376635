"""The same numbers as the published code, through the same conversion that users call."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unip_hf import UnipConfig, UnipForPreTraining, UnipForSemanticSegmentation, UnipImageProcessor, UnipModel
from unip_hf.distillation import attention_distillation_loss, chunked_attention_distillation_loss
from unip_hf.hub import convert_checkpoint, to_published_state_dict
from unip_hf.modeling.modeling_unip_layers import resize_position_embeddings, sine_cosine_position_embeddings


def part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def attention_logits(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5


def test_distillation_gives_the_published_attention_loss_and_gradients(golden: Path) -> None:
    tensors = load_file(golden / "nmi_had.safetensors")
    teacher = convert_checkpoint(part(tensors, "teacher."), UnipModel, num_attention_heads=4)
    student = convert_checkpoint(
        part(tensors, "student."), UnipForPreTraining, num_attention_heads=3, last_layer_num_attention_heads=4
    ).train()
    assert student.config.position_embedding_type == "sincos"

    with torch.no_grad():
        teacher_query, teacher_key = teacher.query_key(tensors["pixel_values"], layer=3)
    outputs = student(tensors["pixel_values"], teacher_query=teacher_query, teacher_key=teacher_key)
    torch.testing.assert_close(
        attention_logits(teacher_query, teacher_key), tensors["teacher_logits"], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        attention_logits(outputs.query, outputs.key), tensors["student_logits"], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(outputs.loss.reshape(1), tensors["loss"], atol=1e-5, rtol=0)
    plain = attention_distillation_loss(outputs.query, outputs.key, teacher_query, teacher_key)
    torch.testing.assert_close(plain.reshape(1), tensors["loss"], atol=1e-5, rtol=0)

    outputs.loss.backward()
    expected = part(tensors, "grad.")
    for (
        parameter
    ) in student.parameters():  # the published names are those of the weights: export the gradients as such
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    gradients = to_published_state_dict(student)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients.pop(name), gradient, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    untrained = ("blocks.2.attn.proj", "blocks.2.norm2", "blocks.2.mlp", "norm.", "pos_embed")
    assert all(name.startswith(untrained) for name in gradients), sorted(gradients)
    assert not any(gradient.any() for gradient in gradients.values())


# Several images at once with a rest; some heads of an image at once with a rest; one map at once; one chunk.
@pytest.mark.parametrize("shape", [(5, 3, 197), (3, 10, 250), (2, 3, 600), (2, 2, 17)])
def test_distillation_loss_in_chunks_is_the_plain_one(shape: tuple[int, ...]) -> None:
    batch_size, heads, tokens = shape  # queries and keys are views of what one layer gives, as in networks
    tensors = [torch.randn(batch_size, tokens, heads, width).transpose(1, 2) for width in (12, 12, 16, 16)]
    for tensor in tensors[:2]:
        tensor.requires_grad_()
    losses, gradients = [], []
    for compute in (chunked_attention_distillation_loss, attention_distillation_loss):
        loss = 3 * compute(*tensors)
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, tensors[:2]))
    torch.testing.assert_close(*losses, atol=1e-5, rtol=0)
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * theirs.abs().max().item(), rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(3 * chunked_attention_distillation_loss(*tensors), losses[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compute_loss", [attention_distillation_loss, chunked_attention_distillation_loss])
def test_distillation_loss_in_half_precision_loses_no_more_than_its_inputs(
    golden: Path, dtype: torch.dtype, compute_loss: Callable
) -> None:
    """The golden queries and keys rounded to half precision, in a run that scales its loss, as fp16 needs it."""
    tensors = load_file(golden / "nmi_had.safetensors")
    teacher = convert_checkpoint(part(tensors, "teacher."), UnipModel, num_attention_heads=4)
    student = convert_checkpoint(
        part(tensors, "student."), UnipForPreTraining, num_attention_heads=3, last_layer_num_attention_heads=4
    )
    with torch.no_grad():
        exact = [*student.unip.query_key(tensors["pixel_values"]), *teacher.query_key(tensors["pixel_values"], 3)]
    exact[0].requires_grad_(), exact[1].requires_grad_()
    loss = compute_loss(*exact)
    torch.testing.assert_close(loss.reshape(1), tensors["loss"], atol=1e-5, rtol=0)
    expected = torch.autograd.grad(loss, exact[:2])

    rounded = [tensor.detach().to(dtype).requires_grad_(number < 2) for number, tensor in enumerate(exact)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = compute_loss(*rounded)
    precision = torch.finfo(dtype).eps
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.reshape(1), tensors["loss"], atol=2 * precision, rtol=0)
    scale = 2.0**12
    for ours, theirs in zip(torch.autograd.grad(loss * scale, rounded[:2]), expected):
        assert ours.dtype == dtype
        torch.testing.assert_close(
            ours.float() / scale, theirs, atol=8 * precision * theirs.abs().max().item(), rtol=0
        )


@pytest.mark.parametrize("compute_loss", [attention_distillation_loss, chunked_attention_distillation_loss])
def test_distillation_loss_is_zero_for_the_same_attention_and_refuses_other_heads(compute_loss: Callable) -> None:
    query, key = torch.randn(2, 2, 4, 17, 8)
    assert compute_loss(query, key, query, key) == 0
    with pytest.raises(ValueError, match="last_layer_num_attention_heads=2"):
        compute_loss(query, key, query[:, :2], key[:, :2])


@pytest.fixture(params=["fast", "plain"])
def segmentation(
    golden: Path, request: pytest.FixtureRequest
) -> tuple[UnipForSemanticSegmentation, dict[str, torch.Tensor]]:
    tensors = load_file(golden / "segmentation.safetensors")
    state_dict = {"state_dict": part(tensors, "model."), "meta": {"CLASSES": tuple("abcde")}}
    fields = {"num_attention_heads": 3, "head_implementation": request.param}
    model = convert_checkpoint(state_dict, UnipForSemanticSegmentation, **fields)
    assert model.config.id2label[4] == "e"
    return model, tensors


def test_segmentation_gives_the_published_pyramid_logits_and_losses(segmentation: tuple) -> None:
    model, tensors = segmentation
    with torch.no_grad():
        pyramid = model.pyramid(model.unip.feature_maps(tensors["pixel_values"], [3]))
        outputs = model(tensors["pixel_values"], labels=tensors["labels"])
        model.config.loss_average = "all_pixels"
        published_loss = model(tensors["pixel_values"], labels=tensors["labels"]).loss
    for level, maps in enumerate(pyramid):
        torch.testing.assert_close(maps, tensors[f"pyramid.{level}"], atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs.logits, tensors["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs.auxiliary_logits, tensors["auxiliary_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs.loss, tensors["loss_mean_over_valid_pixels"][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(published_loss, tensors["loss_mean_over_all_pixels"][0], atol=1e-5, rtol=0)


def test_segmentation_weights_go_back_to_the_published_names_unchanged(segmentation: tuple) -> None:
    model, tensors = segmentation
    expected = part(tensors, "model.")
    published = to_published_state_dict(model)
    assert published.keys() == expected.keys()
    for name, tensor in expected.items():
        if not name.startswith("backbone.norm."):  # not used by the published network, written as identity
            assert torch.equal(published[name], tensor.float()), name


def test_position_tables_are_the_published_ones(golden: Path) -> None:
    tensors = load_file(golden / "position_embeddings.safetensors")
    resized = resize_position_embeddings(tensors["position_embeddings.14x14"], (14, 14), (32, 32))
    torch.testing.assert_close(resized, tensors["position_embeddings.32x32"], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        sine_cosine_position_embeddings(48, (4, 4))[0], tensors["sincos.4x4"], atol=1e-6, rtol=0
    )


def test_evaluation_resize_gives_the_published_sizes(golden: Path) -> None:
    processor = UnipImageProcessor()
    for case in json.loads((golden / "resize_keep_ratio.json").read_text())["cases"]:
        (width, height), (new_width, new_height) = case["input"], case["output"]
        assert processor.output_size(height, width) == (new_height, new_width)


@pytest.mark.parametrize(("size", "encoder", "segmentation"), [
    ("tiny", 5_524_416, 10.83), ("small", 21_665_664, 41.63), ("base", 85_798_656, 163.17),
    ("large", 303_301_632, 439.78),
])  # fmt: skip
def test_networks_have_as_many_parameters_as_the_paper_s(size: str, encoder: int, segmentation: float) -> None:
    with torch.device("meta"):
        student = UnipForPreTraining(UnipConfig.from_size(size, last_layer_num_attention_heads=16))
        config = UnipConfig.from_size(size, image_size=512, num_labels=21, layer_scale_init_value=1.0)
        network = UnipForSemanticSegmentation(config)
    assert student.num_parameters() == encoder
    assert round(network.num_parameters() / 1e6, 2) == segmentation

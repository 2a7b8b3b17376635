"""One contract that every model class keeps, on a tiny network."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionInterface

from unip_hf import (
    UnipBackbone,
    UnipForLinearSegmentation,
    UnipForMlaSegmentation,
    UnipForPreTraining,
    UnipForSegformerSegmentation,
    UnipForSemanticSegmentation,
    UnipModel,
)
from unip_hf.modeling.modeling_unip_heads import SEGMENTATION_MODELS

from ..conftest import leave_start, tiny_config


# A bias on the keys alone moves no softmax, and batch norm takes a bias in front of it away.
NO_GRADIENT = ("qkv.bias", "operation.projection1.bias")
# Segmentation model: pixels of the image for each row of logits.
STRIDES = {
    UnipForSemanticSegmentation: 4,
    UnipForLinearSegmentation: 16,
    UnipForMlaSegmentation: 4,
    UnipForSegformerSegmentation: 4,
}
CLASSES = [UnipModel, UnipBackbone, UnipForPreTraining, *STRIDES]
# Methods that read pairs of images, and what else of the configuration they need.
FUSIONS: dict[str, dict] = {"iv_tuning": {}, "unirgb_ir": {"num_hidden_layers": 4, "fusion_channels": 8}}
ROWS = [pytest.param(kind, tiny_config, id=kind.__name__) for kind in CLASSES]
ROWS += [
    pytest.param(UnipForSemanticSegmentation, partial(tiny_config, fusion=name, **fields), id=name)
    for name, fields in FUSIONS.items()
]
every_class = pytest.mark.parametrize(("model_class", "make_config"), ROWS)
# Where tracing a graph takes many seconds: the smallest network with a head, and in the slow tier the others.
every_class_slowly = pytest.mark.parametrize(
    ("model_class", "make_config"),
    [
        row
        if row.values[0] is UnipForLinearSegmentation
        else pytest.param(*row.values, id=row.id, marks=pytest.mark.slow)
        for row in ROWS
    ],
)


def images(batch_size: int = 2, channels: int = 3, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn(batch_size, channels, height, width)


def images_for(model: nn.Module, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """The images, and a partner for each if the model reads pairs."""
    if model.config.fusion is None:
        return {"pixel_values": pixel_values}
    batch_size, _, height, width = pixel_values.shape
    others = images(batch_size, model.config.auxiliary_num_channels, height, width)
    return {"pixel_values": pixel_values, "auxiliary_pixel_values": others}


def inputs_for(model: nn.Module, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inputs that make the model compute a loss."""
    batch_size, _, height, width = pixel_values.shape
    inputs = images_for(model, pixel_values)
    if isinstance(model, UnipForPreTraining):
        tokens = 1 + -(-height // 16) * -(-width // 16)
        inputs["teacher_query"], inputs["teacher_key"] = torch.randn(2, batch_size, 4, tokens, 16)
    elif type(model) in STRIDES:
        inputs["labels"] = torch.randint(0, 5, (batch_size, height, width))
        inputs["labels"][:, :5] = 255
    return inputs


def tensors_of(outputs: Any) -> dict[str, torch.Tensor]:
    """The outputs of any of the classes as tensors by name."""
    named = {}
    for name, value in outputs.items():
        for index, tensor in enumerate(value if isinstance(value, tuple) else [value]):
            named[f"{name}.{index}"] = tensor
    return named


def loss_of(outputs: Any) -> torch.Tensor:
    if outputs.get("loss") is not None:
        return outputs["loss"]
    return sum(tensor.float().square().mean() for tensor in tensors_of(outputs).values())


def assert_same(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    actual, expected = tensors_of(actual), tensors_of(expected)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            actual[name], tensor, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_the_contract_covers_every_head() -> None:
    assert tuple(STRIDES) == SEGMENTATION_MODELS
    assert len({model_class.task for model_class in SEGMENTATION_MODELS}) == len(SEGMENTATION_MODELS)


def every_batch() -> Iterator[Any]:
    """Size, batch size, channels and dtype. In the fast tier each pair of their values occurs, in the slow one all."""
    for row, size in enumerate([(64, 64), (61, 83), (16, 16)]):
        for column, dtype in enumerate([torch.float32, torch.bfloat16, torch.float16]):
            fast = (1, 3)[(row + column) % 2], (1, 3)[(row + column) // 2 % 2]
            for batch_size, channels in product((1, 3), repeat=2):
                marks = () if (batch_size, channels) == fast else pytest.mark.slow
                yield pytest.param(size, batch_size, channels, dtype, marks=marks)


@every_class
@pytest.mark.parametrize(("size", "batch_size", "channels", "dtype"), list(every_batch()))
def test_trains_on_any_size_and_every_trainable_parameter_gets_a_gradient(
    model_class: type, size: tuple[int, int], batch_size: int, channels: int, dtype: torch.dtype, make_config: Callable
) -> None:
    model = leave_start(model_class(make_config(num_channels=channels))).to(dtype).train()
    outputs = model(**inputs_for(model, images(batch_size, channels, *size)))
    loss = loss_of(outputs)
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name} is frozen but has a gradient"
        elif not name.endswith(NO_GRADIENT):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), f"no gradient for {name}"
            one_value = batch_size == 1 and size == (16, 16)  # a dead ReLU or a single token may stop everything
            one_value |= dtype == torch.float16 and "prompt_adapter" in name  # too small without a loss scale
            assert parameter.grad.any() or one_value, f"the gradient for {name} is zero"
    if "logits" in outputs:
        stride = STRIDES[model_class]
        assert outputs.logits.shape == (batch_size, 5, -(-size[0] // stride), -(-size[1] // stride))


@every_class
def test_loads_what_it_saved(model_class: type, make_config: Callable, tmp_path: Path) -> None:
    model = model_class(make_config()).eval()
    model.save_pretrained(tmp_path)
    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert not loaded.training
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    inputs = inputs_for(model, images(height=61, width=83))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    # Where loaded weights lie in memory, 1x1 convolutions may add in another order.
    assert_same(loaded(**inputs), model(**inputs), tolerance=0 if model.config.fusion is None else 1e-6)


@every_class
def test_sdpa_and_eager_agree(model_class: type, make_config: Callable) -> None:
    model = model_class(make_config()).eval()
    inputs = inputs_for(model, images())
    assert model.config._attn_implementation == "sdpa"
    expected = model(**inputs)
    model.set_attn_implementation("eager")
    assert_same(model(**inputs), expected)


@every_class
def test_any_attention_function_of_transformers_serves(model_class: type, make_config: Callable) -> None:
    """Flash attention needs a GPU; a function of the same interface, which keeps no maps, shows that it is called."""
    shapes = []

    def attend(
        module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: None, **kwargs: Any
    ):
        assert mask is None and not module.is_causal
        shapes.append(tuple(query.shape))
        context = nn.functional.scaled_dot_product_attention(query, key, value, scale=kwargs["scaling"])
        return context.transpose(1, 2), None

    AttentionInterface.register("counted_attention", attend)
    model = model_class(make_config()).eval()
    inputs = inputs_for(model, images())
    expected = model(**inputs)
    model.set_attn_implementation("counted_attention")
    assert_same(model(**inputs), expected)
    blocks = [*[(2, 2, 17, 16)] * (model.config.num_hidden_layers - 1), (2, 4, 17, 8)]
    assert shapes == (blocks[:-1] if model_class is UnipForPreTraining else blocks)


@every_class
def test_gradient_checkpointing_changes_nothing(model_class: type, make_config: Callable) -> None:
    model = model_class(make_config(classifier_dropout_prob=0.0)).train()
    inputs = inputs_for(model, images())
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            if hasattr(model, "activation_checkpointing_enable"):  # its name in newer versions of transformers
                model.activation_checkpointing_enable()
            else:
                model.gradient_checkpointing_enable()
            encoder = getattr(model, "unip", model)
            assert all(layer.gradient_checkpointing for layer in encoder.layers)
        model.zero_grad()
        torch.manual_seed(1)  # the dropout of adapters
        loss_of(model(**inputs)).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
@every_class
def test_compiles_to_one_graph_at_any_size(model_class: type, make_config: Callable) -> None:
    torch.compiler.reset()
    model = model_class(make_config(classifier_dropout_prob=0.0)).eval()
    compiled = torch.compile(
        model, fullgraph=True, backend="aot_eager"
    )  # all but generating code, which takes minutes
    for size in [(64, 64), (61, 83), (48, 32)]:  # the second size makes torch compile for all sizes
        inputs = inputs_for(model, images(2, 3, *size))
        outputs, expected = compiled(**inputs), model(**inputs)
        assert_same(outputs, expected)
        loss_of(outputs).backward()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_code_computes_the_same(make_config: Callable) -> None:
    torch.compiler.reset()
    model = UnipForSemanticSegmentation(make_config()).eval()
    inputs = inputs_for(model, images())
    with torch.no_grad():
        assert_same(torch.compile(model, fullgraph=True)(**inputs), model(**inputs), tolerance=1e-4)


@every_class_slowly
def test_exports_with_dynamic_batch_height_and_width(model_class: type, make_config: Callable) -> None:
    model = model_class(make_config()).eval()
    batch, rows, columns = (torch.export.Dim(name, max=64) for name in ("batch", "rows", "columns"))
    example = images_for(model, images(2, 3, 64, 96))
    shapes = {name: {0: batch, 2: 16 * rows, 3: 16 * columns} for name in example}
    program = torch.export.export(model, (), kwargs=example, dynamic_shapes=shapes)
    # The graph holds for sides of one or two patches too, but torch's own guards exclude sizes that become 1 inside.
    for check_guards, sizes in [(True, [(64, 64), (48, 80), (112, 48)]), (False, [(16, 16), (32, 32), (48, 16)])]:
        graph = program.module(check_guards=check_guards)
        for batch_size, size in zip([2, 1, 3], sizes):
            inputs = images_for(model, images(batch_size, 3, *size))
            assert_same(graph(**inputs), model(**inputs), tolerance=1e-4)


@every_class
def test_returns_hidden_states_and_attention_when_asked(model_class: type, make_config: Callable) -> None:
    model = model_class(make_config()).eval()
    inputs = images_for(model, images())
    with pytest.raises(ValueError, match=r'set_attn_implementation\("eager"\)'):
        model(**inputs, output_attentions=True)
    model.set_attn_implementation("eager")
    outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
    heads = [*[2] * (model.config.num_hidden_layers - 1), 4]
    heads = heads[:-1] if model_class is UnipForPreTraining else heads  # pre-training stops inside the last block
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(2, 17, 32)] * (len(heads) + 1)
    assert [tuple(maps.shape) for maps in outputs.attentions] == [(2, number, 17, 17) for number in heads]
    torch.testing.assert_close(outputs.attentions[0].sum(-1), torch.ones(2, 2, 17))
    assert isinstance(model(**inputs, return_dict=False), tuple)


@every_class
@pytest.mark.parametrize(("pixel_values", "message"), [
    (None, "pixel_values is missing"),
    (torch.zeros(3, 64, 64), r"takes \(batch_size, 3, height, width\)"),
    (torch.zeros(1, 1, 64, 64), r"process images with num_channels=3"),
    (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "UnipImageProcessor"),
    (torch.zeros(1, 3, 15, 64), "15x64 pixels are smaller than one patch"),
])  # fmt: skip
def test_wrong_input_says_what_to_do(
    model_class: type, pixel_values: torch.Tensor | None, message: str, make_config: Callable
) -> None:
    with pytest.raises(ValueError, match=message):
        model_class(make_config())(pixel_values)


@pytest.mark.parametrize(("fields", "message"), [
    ({"num_attention_heads": 5}, "num_attention_heads=5 does not divide hidden_size=32"),
    ({"last_layer_num_attention_heads": 12}, "last_layer_num_attention_heads=12 does not divide"),
    ({"feature_layers": [2, 4]}, r"blocks that do not exist: \[4\]"),
    ({"image_size": 8}, "smaller than one patch"),
    ({"patch_size": 0}, "patch_size must be at least 1, got 0"),
    ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1, got 0"),
    ({"drop_path_rate": 1.0}, "drop_path_rate must be at least 0 and below 1, got 1.0"),
    ({"position_embedding_type": "rotary"}, "position_embedding_type"),
    ({"hidden_size": 30, "position_embedding_type": "sincos", "num_attention_heads": 2,
      "last_layer_num_attention_heads": None}, "multiple of 4"),
])  # fmt: skip
def test_a_configuration_that_makes_no_network_is_refused(fields: dict, message: str, make_config: Callable) -> None:
    with pytest.raises(Exception, match=message):
        make_config(**fields)

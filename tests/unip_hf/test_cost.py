"""Parameters and multiply-adds by part: the paper's table, hand-computed networks, networks of other libraries."""

from collections.abc import Callable

import pytest
import torch
import transformers
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from unip_hf import UnipConfig, UnipForLinearSegmentation, UnipForSemanticSegmentation, UnipModel
from unip_hf.analysis import count_cost, total_cost
from unip_hf.analysis.cost import AUXILIARY_HEAD, ENCODER, HEAD, PYRAMID, PartCost, count_training_operations
from unip_hf.hub.speed import measure_speed
from unip_hf.modeling.modeling_unip_heads import SEGMENTATION_MODELS
from unip_hf.training import enable_gradient_checkpointing

from ..conftest import tiny_backbone_config, tiny_backbones


def rounded(parameters: int) -> float:
    return round(parameters / 1e6, 2)


@pytest.mark.parametrize(
    ("size", "parts", "total", "without", "with_attention"),
    [
        ("tiny", (5.69, 0.44, 4.25, 0.45), 10.83, 36.7, 41.5),
        ("small", (21.99, 1.77, 16.97, 0.89), 41.63, 146.2, 155.9),
        ("base", (86.45, 7.08, 67.86, 1.78), 163.17, 584.0, 603.3),
        ("large", (304.20, 12.59, 120.63, 2.37), 439.78, 1192.6, 1244.2),
    ],
)
def test_the_paper_s_networks_cost_what_its_configurations_say(
    size: str, parts: tuple, total: float, without: float, with_attention: float
) -> None:
    layers = [8, 12, 16, 24] if size == "large" else None  # the classic pyramid
    with torch.device("meta"):
        config = UnipConfig.from_size(
            size, num_labels=21, image_size=512, position_embedding_type="learned", layer_scale_init_value=1.0,
            feature_layers=layers,
        )  # fmt: skip
        costs = count_cost(UnipForSemanticSegmentation(config), 512, 512)
    assert list(costs) == [ENCODER, PYRAMID, HEAD, AUXILIARY_HEAD]
    assert tuple(rounded(cost.parameters) for cost in costs.values()) == parts
    found = total_cost(costs)
    assert rounded(found.parameters) == total
    assert round(found.multiply_adds / 1e9, 1) == without
    assert round((found.multiply_adds + found.attention_products) / 1e9, 1) == with_attention
    # In each block, queries by keys and attention by values, over CLS and 32 x 32 patches.
    products = 2 * config.num_hidden_layers * 1025**2 * config.hidden_size
    assert costs[ENCODER].attention_products == products
    assert costs[PYRAMID].attention_products == costs[AUXILIARY_HEAD].attention_products == 0
    assert costs[AUXILIARY_HEAD].multiply_adds == 32 * 32 * 256 * (9 * config.hidden_size + 21)


def test_a_probe_by_hand(make_config: Callable) -> None:
    model = UnipForLinearSegmentation(make_config(num_hidden_layers=2, feature_layers=[2], image_size=64))
    patches, tokens = 6, 7  # 32 x 48 pixels
    block = tokens * 32 * (3 * 32 + 32 + 2 * 4 * 32)
    encoder = PartCost(model.unip.num_parameters(), patches * 32 * 3 * 16 * 16 + 2 * block, 2 * 2 * tokens**2 * 32)
    head = PartCost(5 * 32 + 5, patches * 5 * 32)
    model.train()
    modes = [module.training for module in model.modules()]
    assert count_cost(model, 32, 48) == {ENCODER: encoder, HEAD: head}
    padded = count_cost(model, 30, 33)  # to the same size; then the logits are resampled to the image
    assert padded[ENCODER] == encoder and padded[HEAD].multiply_adds == patches * 5 * 32 + 2 * 3 * 5 * (2 + 3)
    assert [module.training for module in model.modules()] == modes  # and the weights are still there
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert count_cost(model.unip, 32, 48)[ENCODER] == encoder
    assert total_cost({ENCODER: encoder, HEAD: head}).multiply_adds == encoder.multiply_adds + head.multiply_adds


def count_for_real(model: nn.Module, **inputs: torch.Tensor) -> int:
    """What torch counts where it computes, in the form that is counted."""
    model.config.head_implementation = "plain"
    # Older versions of torch do not count the fused attention of CPUs.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.eval()(**inputs)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("backbone", tiny_backbones())
def test_other_backbones_cost_what_torch_counts_when_it_computes(backbone: str) -> None:
    model = UnipForSemanticSegmentation(tiny_backbone_config(backbone))
    height, width = 2 * model.patch_size, 3 * model.patch_size
    costs = count_cost(model, height, width)
    found = total_cost(costs)
    assert found.multiply_adds + found.attention_products == count_for_real(
        model, pixel_values=torch.zeros(1, 3, height, width)
    )
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (costs[ENCODER].attention_products > 0) == (backbone not in ("convnextv2", "timm"))
    assert (PYRAMID in costs) == (model.pyramid is not None)


@pytest.mark.parametrize("fusion", ["iv_tuning", "unirgb_ir"])
def test_networks_that_read_pairs(fusion: str, make_config: Callable) -> None:
    model = UnipForSemanticSegmentation(make_config(fusion=fusion, num_hidden_layers=4))
    found = total_cost(count_cost(model, 64, 64))
    assert model.config.head_implementation == "fast"
    image = torch.zeros(1, 3, 64, 64)
    real = count_for_real(model, pixel_values=image, auxiliary_pixel_values=image)
    assert found.multiply_adds + found.attention_products == real
    alone = count_cost(UnipForSemanticSegmentation(make_config(num_hidden_layers=4)), 64, 64)
    assert found.multiply_adds > total_cost(alone).multiply_adds


@pytest.mark.parametrize("model_class", SEGMENTATION_MODELS)
def test_every_head_has_a_cost(model_class: type, make_config: Callable) -> None:
    layers = model_class.default_feature_layers(12)
    model = model_class(make_config(num_hidden_layers=12, feature_layers=layers))
    costs = count_cost(model, 64, 64)
    assert all(cost.parameters and cost.multiply_adds for cost in costs.values())
    assert sum(cost.parameters for cost in costs.values()) == model.num_parameters()


class Mixing(nn.Module):
    """Weights from the left, as in an MLP over tokens, and products of tokens by tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.weight @ images.flatten(2)  # (1, 4, N)
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens) @ tokens.transpose(1, 2)


def test_what_multiplies_by_weights_is_told_from_what_multiplies_tokens() -> None:
    assert count_cost(Mixing(), 2, 5) == {ENCODER: PartCost(12, 4 * 3 * 10, 3 * 4 * 4 * 10)}


SEGFORMER = {"hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16}
BEIT = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 16, "image_size": 64}


def test_segmentation_models_of_transformers() -> None:
    segformer = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**SEGFORMER))
    costs = count_cost(segformer, 64, 96)
    assert list(costs) == [ENCODER, HEAD] and costs[HEAD].attention_products == 0
    # Of one stage, with one head: keys and values from a smaller map. A linear layer is none of these products.
    tokens, reduced, products = 16 * 24, 2 * 3, 0
    for width, ratio in zip(SEGFORMER["hidden_sizes"], (8, 4, 2, 1)):  # type: ignore[call-overload]
        assert tokens // ratio**2 == reduced
        products += 2 * 2 * tokens * reduced * width  # two blocks
        tokens //= 4
    assert costs[ENCODER].attention_products == products

    beit = transformers.BeitForSemanticSegmentation(transformers.BeitConfig(**BEIT, out_indices=[1, 2, 3, 4]))
    assert list(count_cost(beit, 64, 64)) == [ENCODER, PYRAMID, HEAD, AUXILIARY_HEAD]


def test_a_size_that_does_not_go_is_refused(make_config: Callable) -> None:
    model = UnipForSemanticSegmentation(make_config())
    with pytest.raises(
        ValueError, match=r"UnipForSemanticSegmentation cannot read an image of 8x64 pixels: .*smaller"
    ):
        count_cost(model, 8, 64)
    with pytest.raises(ValueError, match="0x64 pixels: both sides must be at least 1"):
        count_cost(model, 0, 64)
    vit = transformers.ViTModel(transformers.ViTConfig(**{**BEIT, "patch_size": 16}))
    with pytest.raises(ValueError, match=r"ViTModel cannot read an image of 64x96 pixels: .*doesn't match"):
        count_cost(vit, 64, 96)
    assert count_cost(vit, 64, 96, interpolate_pos_encoding=True)[ENCODER].attention_products == 2 * 4 * 25**2 * 16


def test_speed_of_images_that_are_not_square(make_config: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    sizes = []
    model = UnipModel(make_config()).eval()
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    (speed,) = measure_speed(model, (32, 48), repeats=2)
    assert sizes == [(1, 3, 32, 48)] * 3
    assert speed.size == speed.height_and_width == (32, 48) and speed.seconds > 0


def test_operations_of_training_are_those_that_are_computed_without_recomputation(make_config: Callable) -> None:
    config = make_config(num_labels=3, drop_path_rate=0.5, image_size=32)
    model = UnipForSemanticSegmentation(config).train()
    model.unip.layers[0].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def compute_loss(network: nn.Module) -> torch.Tensor:
        return network(torch.zeros(2, 3, 32, 32), labels=torch.zeros(2, 32, 32, dtype=torch.long)).loss

    random_state = torch.get_rng_state()
    counted = count_training_operations(model, compute_loss)
    assert torch.equal(torch.get_rng_state(), random_state) and model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        compute_loss(model).backward()
    assert counted == counter.get_total_flops()
    enable_gradient_checkpointing(model)
    model.compile(backend="eager")
    assert count_training_operations(model, compute_loss) == counted
    assert count_training_operations(model, lambda network: network.unip(torch.zeros(1, 3, 32, 32)).item()) is None
    forward = count_training_operations(model.eval().requires_grad_(False), compute_loss)
    assert forward is not None and counted is not None and 2 * forward < counted < 3 * forward

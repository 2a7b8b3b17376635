"""What an analysis measures of a network: blocks, attention against objects, CKA, and features under corruptions."""

import math
import weakref
from itertools import permutations

import numpy as np
import pytest
import timm
import torch
import transformers
from torch import nn

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor, UnipModel
from unip_hf.analysis import (
    Block,
    BlockReader,
    Corruption,
    Images,
    NetworkMeasures,
    attention_distance,
    attention_entropy,
    attention_pattern,
    attention_to_objects,
    centred_kernel_alignment,
    gram_matrix,
    normalized_mutual_information,
    objects_of_patches,
)
from unip_hf.analysis.inputs import VISIBLE, AnalysisData, grid_of, whole_tiles
from unip_hf.analysis.maps import choose_images, map_pictures
from unip_hf.analysis.measures import compare_networks
from unip_hf.data.reading import Sample

from ..conftest import tiny_backbone_config, tiny_config
from .plain_networks import with_large_weights


PATCH_16 = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip


def test_entropy_of_known_attention() -> None:
    both_neighbours = torch.zeros(1, 1, 16, 16)
    for query in range(16):
        both_neighbours[..., query, [(query + 1) % 16, (query + 2) % 16]] = 0.5
    attention = torch.cat([torch.full((1, 1, 16, 16), 1 / 16), torch.eye(16)[None, None], both_neighbours], dim=1)
    expected = torch.tensor([[1.0, 0.0, math.log(2) / math.log(16)]])
    torch.testing.assert_close(attention_entropy(attention, has_cls_token=False), expected, atol=1e-5, rtol=0)


def test_names_of_patterns() -> None:
    names = [attention_pattern(nmi) for nmi in (0.0, 0.059, 0.06, 0.09, 0.12, 0.121, 0.9)]
    assert names == ["global", "global", "hybrid", "hybrid", "hybrid", "local", "local"]
    assert attention_pattern(0.2, hybrid=(0.1, 0.3)) == "hybrid"


def test_objects_are_connected_regions_of_a_class() -> None:
    ids = np.zeros((8, 12), dtype=np.uint8)  # patches of 2 x 3 pixels
    ids[:2, :6] = 1  # two patches
    ids[2:4, 6:9] = 1  # touches the first at a corner, so it is the same object
    ids[4:6, :3] = 2  # another class: another object
    ids[6:, 9:] = 1  # the same class, not connected
    ids[6:, :3] = 255
    ids[4, 6] = 3  # one of six pixels: less than a quarter
    expected = [[1, 1, 0, 0], [0, 0, 1, 0], [3, 0, 0, 0], [-1, 0, 0, 2]]
    np.testing.assert_array_equal(objects_of_patches(ids, (4, 4)), expected)
    np.testing.assert_array_equal(objects_of_patches(ids, (4, 4), background=(0, 1))[2], [1, 0, 0, 0])
    assert objects_of_patches(ids, (4, 4), least_cover=0.1)[2, 2] == 4
    assert objects_of_patches(ids, (3, 5)).shape == (3, 5)  # patches that are no whole pixels
    with pytest.raises(ValueError, match="8x12 pixels is too small for a grid of 9x4 patches"):
        objects_of_patches(ids, (9, 4))


def test_attention_to_objects_in_a_case_computed_by_hand() -> None:
    objects = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [-1, 0, 0, 2]])  # 11 patches count
    one_patch = torch.zeros(12, 12)
    one_patch[:, 1], one_patch[:, 8] = 0.75, 0.25  # an object, and the patch that is left out
    attention = torch.stack([one_patch, torch.full((12, 12), 1 / 12)])
    padded = nn.functional.pad(attention * 0.5, (1, 0, 1, 0))
    padded[:, 1:, 0], padded[:, 0, 0] = 0.5, 1
    areas = torch.tensor([1 / 11, 2 / 33, 4 / 33, 8 / 11])
    for given, has_cls_token in ((attention, False), (padded, True)):
        shares, even = attention_to_objects(given, objects, near=0, has_cls_token=has_cls_token)
        torch.testing.assert_close(even, areas)
        torch.testing.assert_close(shares[1], areas)
        # the first object's patches look at each other or themselves, the second object at the first
        torch.testing.assert_close(shares[0], torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]), atol=1e-5, rtol=0)
    shares, even = attention_to_objects(attention, objects, near=1, has_cls_token=False)
    torch.testing.assert_close(even, torch.tensor([14 / 33, 0, 4 / 33, 15 / 33]))
    torch.testing.assert_close(shares[0], torch.tensor([2 / 3, 0, 1 / 3, 0]), atol=1e-5, rtol=0)
    assert attention_to_objects(attention, np.zeros((3, 4), dtype=int), has_cls_token=False) is None
    with pytest.raises(ValueError, match="12 patches in the attention, but 6 in the grid"):
        attention_to_objects(attention, np.ones((2, 3), dtype=int), has_cls_token=False)


def test_cka_of_known_representations() -> None:
    torch.manual_seed(0)
    features = [torch.randn(8, 5) @ torch.randn(5, 30) + 3 for _ in range(60)]
    rotation, _ = torch.linalg.qr(torch.randn(30, 30))
    grams = [
        torch.stack([gram_matrix(x), gram_matrix(2 * x @ rotation), gram_matrix(torch.randn(8, 4, 10))])
        for x in features
    ]
    cka = centred_kernel_alignment(grams)
    torch.testing.assert_close(cka[:2, :2], torch.ones(2, 2).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(cka, cka.T)
    assert cka[2, 2] == pytest.approx(1) and cka[0, 2].abs() < 0.05  # independent noise
    biased = [gram_matrix(x - x.mean(dim=0)) for x in (features[0], torch.randn(8, 400))]
    assert (biased[0] * biased[1]).sum() / (biased[0].norm() * biased[1].norm()) > 0.3  # the estimator without care
    with pytest.raises(ValueError, match="at least 4 images, got 3"):
        gram_matrix(torch.randn(3, 5))


def test_the_estimator_of_cka_is_unbiased() -> None:
    """Against its definition, an average over all different images (Song et al. 2012, equation 4)."""
    torch.manual_seed(0)
    x, y = (gram_matrix(torch.randn(6, 3)) for _ in range(2))
    terms = [x[i, j] * (y[i, j] + y[q, r] - 2 * y[i, q]) for i, j, q, r in permutations(range(6), 4)]
    expected = torch.stack(terms).mean()

    def of(a: torch.Tensor, b: torch.Tensor) -> float:
        return torch.stack(
            [a[i, j] * (b[i, j] + b[q, r] - 2 * b[i, q]) for i, j, q, r in permutations(range(6), 4)]
        ).mean()

    cka = centred_kernel_alignment([torch.stack([x, y])])
    assert cka[0, 1].item() == pytest.approx((expected / (of(x, x) * of(y, y)).sqrt()).item(), rel=1e-6)


NETWORKS = {
    "unip": (lambda: UnipModel(tiny_config()), True),
    "one channel": (lambda: UnipForSemanticSegmentation(tiny_config(num_channels=1)), True),
    "without CLS": (lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**PATCH_16)), False),
    "registers": (lambda: UnipForSemanticSegmentation(tiny_backbone_config("dinov2-registers")), True),
    "dinov3": (lambda: UnipForSemanticSegmentation(tiny_backbone_config("dinov3")), True),
    "timm, registers, no CLS": (
        lambda: timm.create_model(
            "vit_wee_patch16_reg1_gap_256", embed_dim=64, depth=2, num_heads=2, img_size=64, dynamic_img_size=True
        ),
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_blocks_of_every_kind_of_network(kind: str) -> None:
    make, has_cls_token = NETWORKS[kind]
    reader = BlockReader(with_large_weights(make()), kind)
    assert reader.has_cls_token == has_cls_token
    size = reader.patch_size
    images = torch.randn(2, reader.num_channels, 3 * size, 5 * size)  # not square
    blocks: list[Block] = []
    reader.visit(images, blocks.append)
    first = int(has_cls_token)
    assert [block.number for block in blocks] == list(range(1, reader.num_layers + 1))
    for block, num_heads in zip(blocks, reader.num_heads):
        assert block.query.shape[:3] == block.key.shape[:3] == (2, num_heads, first + 15)
        assert block.tokens.shape[:2] == (2, first + 15) and not block.tokens.requires_grad
    if hasattr(reader.model, "config"):
        options = reader.forward_options(2, 15)
        states = reader.model(images, output_hidden_states=True, **options).hidden_states
        for block, state in zip(blocks, states[1:]):
            torch.testing.assert_close(block.tokens[:, first:], state[:, -15:], atol=1e-5, rtol=1e-5)
    one: list[Block] = []
    reader.visit(images, one.append, layers=[2], with_tokens=False)
    torch.testing.assert_close(one[0].query, blocks[1].query)
    assert one[0].tokens is None and len(one) == 1


def test_nothing_of_a_block_is_kept_while_the_next_is_computed() -> None:
    reader = BlockReader(UnipModel(tiny_config(num_hidden_layers=4)))
    seen: list[weakref.ref] = []

    def look(block: Block) -> None:
        if len(seen) >= 6:
            assert all(reference() is None for reference in seen[-6:-3])
        seen.extend(map(weakref.ref, (block.query, block.key, block.tokens)))

    reader.visit(torch.randn(2, 3, 32, 32), look)
    assert len(seen) == 12


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: UnipForSemanticSegmentation(tiny_backbone_config("convnextv2")), "not one list of equal blocks"),
        (lambda: UnipForSemanticSegmentation(tiny_backbone_config("swin")), "not one list of equal blocks"),
        (lambda: transformers.BeitModel(transformers.BeitConfig(**PATCH_16, use_relative_position_bias=True)),
         "adds a mask or relative positions"),
        (lambda: timm.create_model("test_convnext"), "not one list of equal blocks"),
    ],
)  # fmt: skip
def test_networks_without_attention_over_all_patches_are_refused(make, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        BlockReader(make())


def test_measures_are_those_of_the_attention_maps() -> None:
    model = with_large_weights(UnipModel(tiny_config(attn_implementation="eager")))
    images = torch.randn(9, 3, 48, 80)  # grids of 3 x 5
    with torch.no_grad():
        expected = model(images, output_attentions=True, output_hidden_states=True)
    objects = [np.arange(15).reshape(3, 5) % 3 if number < 4 else np.zeros((3, 5), dtype=int) for number in range(9)]
    measures = NetworkMeasures(BlockReader(model))
    for part in (range(5), range(5, 9)):
        queries = {2: [(0, 0), (2, 4)]} if 2 in part else {}
        measures.add(Images(list(part), images[list(part)], {}, [objects[number] for number in part], queries))
    report = measures.report()
    for block, attention in zip(report["blocks"], expected.attentions):
        nmi = normalized_mutual_information(attention)  # (9, heads)
        assert block["nmi_of_heads"] == pytest.approx(nmi.mean(dim=0).tolist(), abs=1e-5)
        assert block["nmi"] == pytest.approx(nmi.mean().item(), abs=1e-5)
        assert block["nmi_deviation"] == pytest.approx(nmi.mean(dim=1).std().item(), abs=1e-5)
        assert block["pattern"] == attention_pattern(block["nmi"])
        distance = attention_distance(attention, 16, grid_size=(3, 5))
        assert block["distance_of_heads"] == pytest.approx(distance.mean(dim=0).tolist(), rel=1e-4)
        assert block["entropy"] == pytest.approx(attention_entropy(attention).mean().item(), abs=1e-5)
    found = [attention_to_objects(expected.attentions[1][number], objects[number]) for number in range(4)]
    shares = torch.stack([share for share, _ in found]).mean(dim=(0, 1))
    assert list(report["objects"][1].values())[1:] == pytest.approx(shares.tolist(), abs=1e-5)
    assert sum(report["object_areas"].values()) == pytest.approx(1) and report["texture"] is None
    patches = expected.attentions[2][2][:, 1:, 1:]
    patches = patches / patches.sum(dim=-1, keepdim=True)
    maps = measures.blocks[2].maps[2]
    assert maps.shape == (4, 2, 3, 5)
    torch.testing.assert_close(maps[:, 1].flatten(1), patches[:, 14], atol=1e-5, rtol=0)
    grams = [torch.stack([gram_matrix(state[part, 1:]) for state in expected.hidden_states[1:]])
             for part in (slice(0, 5), slice(5, 9))]  # fmt: skip
    cka = compare_networks({"a": measures, "b": measures})
    assert cka["names"][3:] == ["b, block 1", "b, block 2", "b, block 3"] and cka["models"] == [0, 0, 0, 1, 1, 1]
    values = torch.tensor(cka["values"], dtype=torch.float64)
    torch.testing.assert_close(values[:3, :3], centred_kernel_alignment(grams), atol=1e-4, rtol=0)
    torch.testing.assert_close(values[:3, 3:], values[:3, :3])
    assert measures.nearest_block(0.0) == 1 + int(np.argmin([block["nmi"] for block in report["blocks"]]))


def test_shuffled_patches_are_compared_with_themselves() -> None:
    """A network without positions gives shuffled patches the same features."""
    model = with_large_weights(UnipModel(tiny_config(num_channels=1)))
    samples = [
        Sample(f"{number}.png", np.random.default_rng(number).integers(0, 255, (64, 96, 1), np.uint8), None, None)
        for number in range(6)
    ]
    shuffle, blur = Corruption("patch_shuffle", 2), Corruption("low_pass", 3)
    data = AnalysisData(samples, (64, 96), [shuffle, blur], batch_size=4)
    similarity = {}
    for has_positions in (True, False):
        if not has_positions:
            nn.init.zeros_(model.embeddings.position_embeddings)
        measures = NetworkMeasures(BlockReader(model), data.corruptions)
        for images in data.batches(UnipImageProcessor(num_channels=1), 16):
            measures.add(images)
        similarity[has_positions] = measures.report()["texture"]["features"]
    assert similarity[False][shuffle.name] == pytest.approx([1, 1, 1], abs=1e-5)
    assert max(similarity[True][shuffle.name] + similarity[False][blur.name]) < 0.9995


def test_what_networks_see() -> None:
    rng = np.random.default_rng(0)
    ids = np.zeros((60, 90), dtype=np.uint8)
    ids[:30, :45] = 1
    visible = rng.integers(0, 255, (60, 90, 3), np.uint8)
    samples = [Sample(f"{n}.png", rng.integers(0, 4000, (60, 90, 1), np.uint16), ids, visible) for n in range(5)]
    data = AnalysisData(samples, (64, 96), [Corruption("low_pass", 2)], [0], {3: [(0.5, 0.99)]}, batch_size=16)
    processor = UnipImageProcessor(num_channels=3)
    (images,) = data.batches(processor, 14)
    assert images.pixel_values.shape == (5, 3, 70, 98)  # 5 x 7 patches of 14 pixels
    assert list(images.changed) == ["low_pass_2", VISIBLE] and images.queries == {3: [(2, 6)]}
    assert all(changed.shape == images.pixel_values.shape for changed in images.changed.values())
    assert images.objects[0].shape == (5, 7) and images.objects[0][0, 0] == 1 and images.objects[0][4, 6] == 0
    size = {"height": 70, "width": 98}
    options = {"return_tensors": "pt", "input_data_format": "channels_last", "do_resize": True, "size": size}
    expected = processor(samples[2].image, **options)
    torch.testing.assert_close(images.pixel_values[2:3], expected["pixel_values"])
    expected = processor(visible, **options)
    torch.testing.assert_close(images.changed[VISIBLE][1:2], expected["pixel_values"])
    for count, batch_size, expected in ((5, 16, [5]), (6, 4, [6]), (9, 4, [5, 4]), (10, 4, [5, 5]), (3, 2, [3])):
        of_size = AnalysisData([samples[0]] * count, (32, 32), batch_size=batch_size)
        assert [len(images.numbers) for images in of_size.batches(processor, 16)] == expected  # four at least, for CKA
    assert grid_of((224, 288), 16) == (14, 18) and grid_of((10, 100), 16) == (2, 6)
    assert [whole_tiles(grid) for grid in ((16, 20), (14, 18), (14, 14), (13, 14), (12, 12))] == [4, 2, 7, None, 4]


def test_maps_show_the_places_that_were_asked_for() -> None:
    ids = np.zeros((64, 96), dtype=np.uint8)
    ids[32:, 64:] = 1
    image = np.full((64, 96, 1), 90, dtype=np.uint8)
    image[32:, 64:] = 200
    samples = [Sample(f"{n}.png", image, ids if n else np.zeros_like(ids), None) for n in range(5)]
    images = choose_images(samples, 2, (64, 96))
    assert [one.number for one in images] == [1, 2] and images[0].picture.shape == (64, 96, 3)  # those with objects
    (y, x), _ = images[0].places
    assert ids[int(64 * y), int(96 * x)] == 1
    assert choose_images(samples, 1, (64, 96), pixels=[(95, 0)])[0].places == [(0.5 / 64, 95.5 / 96)]
    assert len(choose_images(samples, 1, (64, 96), grid=2)[0].places) == 4
    with pytest.raises(
        ValueError, match=r"pixel 96 0 \(x, y\) lies outside of 1.png, which has 96 columns and 64 rows"
    ):
        choose_images(samples, 1, (64, 96), pixels=[(96, 0)])

    data = AnalysisData(samples, (64, 96), places={one.number: one.places for one in images})
    networks = {}
    for name, layers in (("a", 3), ("b", 2)):
        measures = NetworkMeasures(BlockReader(with_large_weights(UnipModel(tiny_config(num_hidden_layers=layers)))))
        for batch in data.batches(UnipImageProcessor(), 16):
            measures.add(batch)
        networks[name] = measures
    together = list(map_pictures(images, networks))
    assert len(together) == 4 and len({one.title for one in together}) == 4  # one for each image and place
    assert [axes.get_title() for axes in together[0].figure.axes] == ["a", "b", "", "", "", ""]
    outlined = together[0].figure.axes[0].patches[0].get_xy()  # of the patch that looks
    assert outlined == (16 * int(6 * x) - 0.5, 16 * int(4 * y) - 0.5)
    alone = list(map_pictures(images[:1], {"a": networks["a"]}, [1, 3]))
    assert [axes.get_ylabel() for axes in alone[0].figure.axes] == ["block 1", "", "block 3", ""]
    heads = list(map_pictures(images[:1], networks, [2], each_head=True))
    assert [len(one.figure.axes) // 2 for one in heads] == [2, 4]  # heads of each network
    with pytest.raises(ValueError, match="b has no block 3: choose from 1 to 2"):
        list(map_pictures(images, networks, [3]))

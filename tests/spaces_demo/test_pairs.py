"""The demo with a model of pairs: two uploads, and one camera alone beside both."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.data import draw_scene_pair
from unip_hf.inference import InferenceSettings, segment_image
from unip_hf.modeling.image_reading_unip import read_image
from unip_hf.spaces_demo.about_tab import describe_model
from unip_hf.spaces_demo.attention import measure_attention
from unip_hf.spaces_demo.compare_tab import AS_CONFIGURED, BOTH, MAIN_ALONE
from unip_hf.spaces_demo.comparison import segment
from unip_hf.spaces_demo.interface import build_interface
from unip_hf.spaces_demo.models import Models
from unip_hf.spaces_demo.uploads import describe_upload, example_pairs, pair_sources


def save_model(folder: Path, make_config: Callable, **fields: object) -> str:
    torch.manual_seed(0)
    model = UnipForSemanticSegmentation(make_config(decoder_channels=16, **fields)).eval()
    model.decode_head.classifier.weight.data.normal_(std=2.0)
    model.save_pretrained(folder)
    UnipImageProcessor(do_resize=False, main_modality=model.config.main_modality).save_pretrained(folder)
    return str(folder)


def expected_ids(models: Models, name: str, **images: object) -> np.ndarray:
    model, processor = models.get(name)
    settings = InferenceSettings.for_model(model)
    return segment_image(model, processor, settings=settings, **images).argmax(dim=0).numpy()


@pytest.mark.parametrize("main_modality", ["infrared", "visible"])
def test_a_page_for_pairs(main_modality: str, make_config: Callable, tmp_path: Path) -> None:
    name = save_model(tmp_path / "pairs", make_config, fusion="iv_tuning", main_modality=main_modality)
    single = save_model(tmp_path / "single", make_config)
    models = Models([name, single])
    assert models.reads_pairs(name) and not models.reads_pairs(single) and models.any_reads_pairs
    blocks = build_interface(models)
    components = {block.elem_id: block for block in blocks.blocks.values() if block.elem_id}
    assert components["segmentation"].value is not None, "the page opens with an example"
    functions = {function.name: function.fn for function in blocks.fns.values()}
    fills = [function.fn for function in blocks.fns.values() if function.outputs == [components["uploads"]]]
    assert [fill(["a.png"]) for fill in fills] == [["a.png"]], "a folder waits in the field for its visible images"

    counts, visible, _ = draw_scene_pair(3, 120, 160)
    paths = tmp_path / "frame.png", tmp_path / "frame-of-the-other-camera.png"
    for path, array in zip(paths, (counts, visible)):
        Image.fromarray(array).save(path)
    request = SimpleNamespace(session_hash="visitor")
    files = [[str(path)] for path in paths]
    main, auxiliary = (counts, visible) if main_modality == "infrared" else (visible, counts)
    ids = expected_ids(models, name, image=main, auxiliary_image=auxiliary)
    *_, mask, _, latest, _ = functions["segment_pair"](name, files[0], 50, files[1], request)
    np.testing.assert_array_equal(np.asarray(Image.open(mask["value"])), ids)
    assert len(np.unique(ids)) > 1 and latest == (files[0], files[1])
    *_, mask, _, _, _ = functions["segment_again"](single, latest, 50, request)
    np.testing.assert_array_equal(np.asarray(Image.open(mask["value"])), expected_ids(models, single, image=counts))
    *_, folder = functions["segment_example"](name, 1, 50, request)
    assert (Path(folder) / "masks" / "scene-2.png").is_file()
    # With one of the two images, nothing is computed yet.
    _, _, hint, *_, latest, _ = functions["segment_pair"](name, files[0], 50, None, request)
    assert hint == "This model reads pairs: now upload the visible image of the same scene."
    assert functions["segment_again"](single, latest, 50, request)[0] is not None, "another model needs no more"
    assert "the infrared image" in functions["segment_pair"](name, [], 50, files[1], request)[2]
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "elsewhere" / "small.png")
    with pytest.raises(gr.Error, match=r"^'frame\.png with small\.png cannot be used: Image and auxiliary"):
        functions["segment_pair"](name, files[0], 50, [str(tmp_path / "elsewhere" / "small.png")], request)

    compare, side = functions["compare"], (name, AS_CONFIGURED, 0, 100)
    alone, both = compare(str(paths[0]), str(paths[1]), *side, MAIN_ALONE, *side, BOTH)[:2]
    model, processor = models.get(name)
    assert np.array_equal(np.asarray(both), np.asarray(segment(model, processor, counts, visible).picture))
    assert np.array_equal(np.asarray(alone), np.asarray(segment(model, processor, counts, visible, True).picture))
    missing = expected_ids(models, name, image=main, is_auxiliary_missing=True)
    np.testing.assert_array_equal(segment(model, processor, counts, visible, True).ids, missing)
    assert (missing != ids).any()
    with pytest.raises(gr.Error, match="send the visible image of the same scene, too"):
        compare(str(paths[0]), None, *side, BOTH, *side, BOTH)
    facts = describe_model(name, model, processor)
    assert facts.index("Infrared images: ") < facts.index("Visible images: ")
    with pytest.raises(ValueError, match="reads pairs of images"):
        measure_attention(model, processor, counts)


def test_uploads_belong_together_by_their_names(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "a_visible.jpg", "b.jpg", "c.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    pages = [Image.new("L", (8, 8)) for _ in range(2)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])

    def sources(*names: str) -> list:
        return [describe_upload(tmp_path / name) for name in names]

    pairs = pair_sources(sources("a.png", "b.png"), sources("b.jpg", "a_visible.jpg"))
    assert [Path(pair.visible.path).name for pair in pairs] == ["a_visible.jpg", "b.jpg"]
    assert pair_sources(sources("a.png"), sources("b.jpg"))[0].visible.name == "b"
    with pytest.raises(gr.Error, match="'c' has no visible image"):
        pair_sources(sources("a.png", "c.png"), sources("a_visible.jpg", "b.jpg"))
    with pytest.raises(gr.Error, match="'pages' and 'b' are no pair"):
        pair_sources(sources("pages.tif"), sources("b.jpg"))
    for infrared, visible in example_pairs():
        assert read_image(infrared).dtype == np.uint16 and read_image(visible).shape == (256, 320, 3)

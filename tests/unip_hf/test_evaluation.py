"""Metric, inference over whole images, evaluation of data sets, pictures and reports."""

import copy
import re
from collections.abc import Callable
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor, SegformerModel

from unip_hf import UnipForPreTraining, UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.evaluation import MeanIoU, confusion_matrix_figure, evaluate_dataset, segment_dataset
from unip_hf.evaluation.reports import Heading, Picture, Table, Text, write_report
from unip_hf.hub import convert_checkpoint
from unip_hf.inference import (
    InferenceSettings,
    load_processor,
    load_segmentation_model,
    segment_image,
    sliding_window_logits,
)
from unip_hf.pictures import grey_picture, overlay_picture, segmentation_palette, side_by_side


PUBLISHED = ("mean_iou", "mean_accuracy", "overall_accuracy", "per_category_iou", "per_category_accuracy")


def test_metric_gives_the_published_numbers(golden: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    expected = np.load(golden / "mean_iou.npz")
    predictions, references = expected["predictions"], expected["references"]
    metric = MeanIoU(num_labels=7)
    assert metric.name == "mean_iou"
    metric.add(prediction=torch.from_numpy(predictions[0]).long(), reference=references[0])
    metric.add_batch(
        predictions=[predictions[1].tolist(), predictions[2, :20]], references=[references[1], references[2, :20]]
    )
    metric.add_batch(predictions=predictions[2:3, 20:], references=torch.from_numpy(references[2:3, 20:]))
    arrays = [value for value in vars(metric).values() if isinstance(value, (np.ndarray, list, torch.Tensor))]
    assert len(arrays) == 1 and arrays[0].shape == (7, 7) and arrays[0].dtype == np.int64
    scores = metric.compute(predictions=predictions[3:], references=references[3:])
    for name in PUBLISHED:
        np.testing.assert_array_equal(scores[name], expected[name], err_msg=name)
    iou = expected["per_category_iou"]
    np.testing.assert_allclose(scores["per_category_dice"], 2 * iou / (1 + iou), rtol=1e-12)
    assert scores["mean_dice"] == pytest.approx(np.nanmean(2 * iou / (1 + iou)), rel=1e-12)
    assert not metric.confusion_matrix.any() and not (tmp_path / "cache").exists()
    with pytest.raises(ValueError, match="nothing to compute"):
        metric.compute()


@pytest.mark.parametrize(("dtype", "classes", "ignore_index"), [
    (np.uint8, 256, 255), (np.bool_, 2, 255), (np.int8, 5, -100), (np.uint16, 300, 65535), (">i4", 1000, -1),
    (np.uint64, 3, 1),
])  # fmt: skip
def test_metric_counts_integers_of_any_kind(dtype: str, classes: int, ignore_index: int) -> None:
    random = np.random.default_rng(0)
    prediction, reference = (random.integers(0, classes, (20, 31)).astype(dtype) for _ in range(2))
    if dtype is not np.bool_:
        reference[:3] = np.array(ignore_index).astype(dtype)
    expected = np.zeros((classes, classes), np.int64)
    for true, predicted in zip(reference.ravel().tolist(), prediction.ravel().tolist()):
        if true != ignore_index:
            expected[int(true), int(predicted)] += 1
    metric = MeanIoU(classes, ignore_index)
    metric.add(prediction=prediction.T, reference=reference.T)
    np.testing.assert_array_equal(metric.confusion_matrix, expected)


def test_metric_refuses_what_it_cannot_count(caplog: pytest.LogCaptureFixture) -> None:
    metric = MeanIoU(num_labels=3)
    right = np.zeros((2, 2), np.int64)
    for prediction, reference, message in [
        (right + 3, right, r"prediction holds the ids \[3\]"),
        (right - 1, right + 255, r"prediction holds the ids \[-1\]"),
        (right, right + 3, r"reference holds the ids \[3\], but the classes are 0 to 2, and 255 is ignored"),
        (right, right + 2**32, r"ids \[4294967296\]"),
        (right, right[:1], r"\(2, 2\) and \(1, 2\)"),
        (right + 0.5, right, "integers, got float64"),
        (torch.zeros(2, 2), right, "argmax"),
    ]:
        with pytest.raises(ValueError, match=message):
            metric.add_batch(predictions=[right, prediction], references=[right, reference])
    with pytest.raises(ValueError, match="2 predictions but 1"):
        metric.add_batch(predictions=[right, right], references=[right])
    assert not metric.confusion_matrix.any()  # nothing of a wrong batch was counted
    metric.add(prediction=right, reference=right + 255)  # all ignored is something, and no error
    assert np.isnan(metric.compute()["mean_iou"])
    MeanIoU(num_labels=21, ignore_index=17)
    MeanIoU(num_labels=21, ignore_index=17)
    assert caplog.text.count("ignore_index=17 is also one of the 21 classes") == 1


@pytest.fixture
def published(golden: Path) -> tuple[UnipForSemanticSegmentation, dict[str, torch.Tensor]]:
    tensors = load_file(golden / "segmentation.safetensors")
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    content = {"state_dict": weights, "meta": {"CLASSES": tuple("abcde")}}
    return convert_checkpoint(content, UnipForSemanticSegmentation, num_attention_heads=3), tensors


@pytest.mark.parametrize("size", ["64x64", "64x96", "80x112", "150x97"])
def test_sliding_window_gives_the_published_logits(published: tuple, size: str) -> None:
    model, tensors = published
    model.train()
    pixel_values, expected = tensors[f"slide.{size}.pixel_values"], tensors[f"slide.{size}.logits"]
    for batch_size in (1, 3):
        logits = sliding_window_logits(model, pixel_values, window_size=64, stride=43, batch_size=batch_size)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    twice = sliding_window_logits(model, pixel_values.repeat(2, 1, 1, 1), 64, 43, batch_size=5, output_device="cpu")
    torch.testing.assert_close(twice, expected.repeat(2, 1, 1, 1), atol=1e-4, rtol=0)
    assert all(module.training for module in model.modules()) and not logits.requires_grad


def tiny_segformer(num_labels: int = 3) -> SegformerForSemanticSegmentation:
    config = SegformerConfig(
        hidden_sizes=[4, 8, 8, 8], num_attention_heads=[1, 1, 1, 1], depths=[1] * 4, decoder_hidden_size=8,
        id2label={index: f"class {index}" for index in range(num_labels)},
    )  # fmt: skip
    return SegformerForSemanticSegmentation(config)


def test_windows_take_short_sides_whole_and_settings_are_checked() -> None:
    model, sizes = tiny_segformer(), []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    assert sliding_window_logits(model, torch.rand(1, 3, 40, 150), 64, 43, batch_size=2).shape == (1, 3, 40, 150)
    assert sizes == [(2, 3, 40, 64), (1, 3, 40, 64)]
    for window, stride in ((0, 0), (64, 0), (64, 65)):
        with pytest.raises(ValueError, match="stride"):
            sliding_window_logits(model, torch.rand(1, 3, 40, 50), window, stride)
        with pytest.raises(ValueError, match="stride"):
            InferenceSettings(window_size=window, stride=stride)
    for wrong in ({"scales": ()}, {"scales": (0.0,)}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=r"positive|at least 1"):
            InferenceSettings(**wrong)


def test_default_settings_follow_the_model(make_config: Callable) -> None:
    assert InferenceSettings.for_model(tiny_segformer()) == InferenceSettings(512, 341)
    model = UnipForSemanticSegmentation(make_config(image_size=[64, 96]))
    assert InferenceSettings.for_model(model) == InferenceSettings(96, 64)
    assert InferenceSettings.for_model(model, window_size=48, flip=True) == InferenceSettings(48, 32, flip=True)
    assert InferenceSettings.for_model(model, window_size=None) == InferenceSettings(None)


def test_segment_image_is_resize_logits_resize_and_averages_passes() -> None:
    model = tiny_segformer().train()
    model.decode_head.eval()  # frozen, and to stay so
    processor = UnipImageProcessor(size={"shortest_edge": 64, "longest_edge": 256})
    image = np.random.default_rng(0).integers(7000, 7300, (50, 71), dtype=np.uint16)
    frozen = copy.deepcopy(model).eval()

    def whole(pixel_values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = frozen(pixel_values).logits
        for size in (pixel_values.shape[-2:], image.shape):
            logits = torch.nn.functional.interpolate(logits, size=tuple(size), mode="bilinear")
        return logits[0]

    once = processor(image, return_tensors="pt").pixel_values
    scores = segment_image(model, processor, image, InferenceSettings(window_size=None))
    torch.testing.assert_close(scores, whole(once), atol=1e-5, rtol=1e-5)
    windows = segment_image(model, processor, image[..., None], InferenceSettings(window_size=64, stride=20))
    assert windows.shape == scores.shape == (3, 50, 71) and not torch.equal(windows, scores)

    half = processor(image, size={"height": 32, "width": 46}, return_tensors="pt").pixel_values  # of 64x91
    expected = sum(
        probabilities
        for pixel_values in (once, half)
        for probabilities in (whole(pixel_values).softmax(0), whole(pixel_values.flip(-1)).softmax(0).flip(-1))
    )
    settings = InferenceSettings(window_size=None, flip=True, scales=(1.0, 0.5))
    torch.testing.assert_close(segment_image(model, processor, image, settings), expected / 4, atol=1e-5, rtol=1e-5)
    assert model.training and not any(module.training for module in model.decode_head.modules())
    assert torch.is_grad_enabled()


def test_checkpoints_of_any_segmentation_model_load_and_others_are_refused(
    make_config: Callable, tmp_path: Path
) -> None:
    tiny_segformer().save_pretrained(tmp_path / "segformer")
    SegformerImageProcessor(image_mean=[0.5, 0.4, 0.3]).save_pretrained(tmp_path / "segformer")
    model, processor = load_segmentation_model(tmp_path / "segformer", device="cpu")
    assert type(model) is SegformerForSemanticSegmentation and not model.training
    assert type(processor) is UnipImageProcessor and processor.num_channels == 3
    assert processor.image_mean == [0.5, 0.4, 0.3] and processor.image_std == [0.229, 0.224, 0.225]
    assert processor.size == {"shortest_edge": 512, "longest_edge": 2048}

    UnipForSemanticSegmentation(make_config(num_channels=1)).save_pretrained(tmp_path / "unip")
    with pytest.raises(OSError, match=r"unip' has no preprocessor_config\.json.*Save the model's image processor"):
        load_processor(tmp_path / "unip")
    own = UnipImageProcessor(num_channels=1, size=96)
    own.save_pretrained(tmp_path / "unip")
    assert load_segmentation_model(tmp_path / "unip")[1].to_dict() == own.to_dict()

    UnipForPreTraining(make_config()).save_pretrained(tmp_path / "student")
    SegformerModel(tiny_segformer().config).save_pretrained(tmp_path / "encoder")
    (tmp_path / "empty").mkdir()
    for name, kind, message in [
        ("student", ValueError, "UnipForPreTraining, which is not a trained segmentation model"),
        ("encoder", ValueError, "SegformerModel, which is not a trained segmentation model"),
        ("empty", ValueError, "no config.json"),
        ("nowhere", OSError, "no checkpoint folder .*nowhere"),
    ]:
        with pytest.raises(kind, match=message):
            load_segmentation_model(tmp_path / name)


def write_images(folder: Path, sizes: list[tuple[int, int]], classes: int = 3) -> datasets.Dataset:
    """16-bit images and masks of different sizes as files, and the data set of their paths."""
    random = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    columns: dict[str, list[str]] = {"image": [], "annotation": []}
    for number, size in enumerate(sizes):
        ids = random.integers(0, classes, size).astype(np.uint8)
        ids[0, :5] = 255
        arrays = {"image": random.integers(7000, 7300, size, dtype=np.uint16), "annotation": ids}
        for column, array in arrays.items():
            columns[column].append(str(folder / f"{column}-{number}.png"))
            Image.fromarray(array).save(columns[column][-1])
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    return datasets.Dataset.from_dict(columns, features=features)


def test_evaluation_of_a_data_set_of_any_sizes(tmp_path: Path) -> None:
    dataset = write_images(tmp_path / "images", [(40, 50), (64, 64), (33, 91), (50, 40), (70, 48)])
    model, id2label = tiny_segformer(), {0: "a", 1: "b", 2: "c"}
    processor = UnipImageProcessor(size={"shortest_edge": 64})
    settings = InferenceSettings(window_size=48, stride=32)
    metric, ious = MeanIoU(3), []
    for row in range(5):
        image, ids = (np.asarray(dataset[row][column]) for column in ("image", "annotation"))
        assert image.dtype == np.uint16
        predicted = segment_image(model, processor, image, settings).argmax(0)
        metric.add(prediction=predicted, reference=ids)
        alone = MeanIoU(3)
        ious.append(alone.compute(predictions=[predicted], references=[ids])["mean_iou"])

    random_state = torch.get_rng_state()
    result = evaluate_dataset(model, processor, dataset, id2label, settings, num_workers=1, num_examples=2)
    assert torch.equal(torch.get_rng_state(), random_state)
    np.testing.assert_array_equal(result.confusion_matrix, metric.confusion_matrix)
    np.testing.assert_equal(result.metrics, metric.compute())
    assert result.num_images == 5 and result.confusion_matrix.dtype == np.int64
    order = np.argsort(ious)
    for examples, numbers in ((result.worst, order[:2]), (result.best, order[::-1][:2])):
        assert [example.mean_iou for example in examples] == [ious[number] for number in numbers]
        assert [example.name for example in examples] == [
            dataset.data["image"][int(n)]["path"].as_py() for n in numbers
        ]
        assert examples[0].ids.shape == examples[0].predicted_ids.shape == examples[0].image.shape[:2]
    three = evaluate_dataset(model, processor, dataset.select(range(3)), id2label, settings, num_examples=4)
    assert (len(three.best), len(three.worst)) == (2, 1)  # none twice

    with pytest.raises(ValueError, match="no rows"):
        evaluate_dataset(model, processor, dataset.select([]), id2label, settings)
    with pytest.raises(ValueError, match=r"image-0.png holds the ids \[2\]"):
        evaluate_dataset(model, processor, dataset, {0: "a", 1: "b"}, settings)
    with pytest.raises(ValueError, match=r"image-0.png has no mask"):
        evaluate_dataset(model, processor, dataset.remove_columns("annotation"), id2label, settings)
    (tmp_path / "images" / "image-1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^'?\S*image-1.png'? is not an image"):
        list(segment_dataset(model, processor, dataset, settings, num_workers=1))


def test_palette_is_fixed_distinct_and_never_grey() -> None:
    palette = segmentation_palette(256)
    assert palette.shape == (256, 3) and palette.dtype == np.uint8 and len(np.unique(palette, axis=0)) == 256
    np.testing.assert_array_equal(palette[:7], segmentation_palette(7))
    assert (np.ptp(palette.astype(int), axis=1) > 30).all()
    assert segmentation_palette(5000).shape == (5000, 3)


def test_overlays_show_depth_classes_and_legend() -> None:
    counts = np.linspace(7000, 7300, 40 * 60).reshape(40, 60).astype(np.uint16)
    grey = grey_picture(counts)
    assert grey.dtype == np.uint8 and grey.shape == (40, 60, 3) and (grey.min(), grey.max()) == (0, 255)
    fixed = UnipImageProcessor(intensity_scaling="fixed_range", intensity_range=(7000, 7600))
    assert abs(int(grey_picture(counts, fixed).max()) - 128) <= 1
    eight = np.arange(60, dtype=np.uint8).reshape(6, 10)
    np.testing.assert_array_equal(grey_picture(eight)[..., 1], eight)

    ids, id2label = np.zeros((40, 60), np.uint8), {0: "road", 1: "a very long name of a class", 2: "never"}
    ids[10:], ids[20:] = 1, 255
    overlay = overlay_picture(counts, ids, id2label, opacity=1.0)
    palette = segmentation_palette(3)
    np.testing.assert_array_equal(np.asarray(overlay)[:10], np.broadcast_to(palette[0], (10, 60, 3)))
    np.testing.assert_array_equal(np.asarray(overlay)[10:20], np.broadcast_to(palette[1], (10, 60, 3)))
    np.testing.assert_array_equal(np.asarray(overlay)[20:], grey[20:])
    legend = overlay_picture(counts, ids, id2label, with_legend=True)
    assert legend.width > 150 and legend.height > 60  # as wide as the longest name, below the picture
    below = {tuple(colour) for colour in np.asarray(legend)[40:].reshape(-1, 3).tolist()}
    assert {tuple(palette[0].tolist()), tuple(palette[1].tolist())} <= below
    assert tuple(palette[2].tolist()) not in below
    row = side_by_side([("image", counts), ("a title wider than its picture", legend)])
    assert row.mode == "RGB" and row.width > 60 + legend.width and row.height > legend.height
    with pytest.raises(ValueError, match=r"\[1\] are in the segmentation but not in id2label"):
        overlay_picture(counts, ids, {0: "road"})
    with pytest.raises(ValueError, match="differ in size"):
        overlay_picture(counts, ids[:5], id2label)


def test_report_is_one_page_that_needs_nothing_else(tmp_path: Path) -> None:
    figure = confusion_matrix_figure(np.array([[5, 1], [0, 0]]), {0: "road", 1: "car"})
    assert isinstance(figure, Figure)
    table = Table(["name <i>", "value", "count"], [["a & b", 0.5, 12345], ["c", float("nan"), 7], ["d", 1e-7, None]])
    blocks = [Heading("Head <1>"), Text("Text <b>"), table]
    blocks += [Picture(figure, "A plot"), Picture(Image.new("RGB", (8, 6)), alt='Say "black"')]
    write_report(tmp_path / "folder" / "report.html", "Title <script>", blocks)
    page = (tmp_path / "folder" / "report.html").read_text()
    assert "<script" not in page and "<i>" not in page and "<b>" not in page and "Title &lt;script&gt;" in page
    assert re.findall(r'<t[hd]( class="number")?>([^<]*)</t[hd]>', page) == [
        ("", "name &lt;i&gt;"), (' class="number"', "value"), (' class="number"', "count"),
        ("", "a &amp; b"), (' class="number"', "0.5000"), (' class="number"', "12,345"),
        ("", "c"), (' class="number"', "\N{EN DASH}"), (' class="number"', "7"),
        ("", "d"), (' class="number"', "1e-07"), (' class="number"', "\N{EN DASH}"),
    ]  # fmt: skip
    sources = re.findall(r'(?:src|href)="([^"]{22})', page)
    assert len(sources) == 2 and all(source.startswith("data:image/") for source in sources) and "http" not in page
    assert 'alt="A plot"' in page and "Say &#34;black&#34;" in page and "prefers-color-scheme: dark" in page
    with pytest.raises(ValueError, match="as many cells"):
        write_report(tmp_path / "report.html", "", [Table(["one"], [[1, 2]])])
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]

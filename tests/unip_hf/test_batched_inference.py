"""Windows of several images in one batch, large images by rows, threads ahead, precision and compilation."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate
from torch.overrides import TorchFunctionMode
from transformers.modeling_outputs import SemanticSegmenterOutput

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.evaluation.mean_iou import count_confusions, count_confusions_on_device
from unip_hf.inference import ahead, canvas
from unip_hf.inference.copying import copied_late
from unip_hf.inference.exported import ExportedModel
from unip_hf.inference.precision import CompiledModel, autocast, choose_dtype
from unip_hf.inference.settings import InferenceSettings
from unip_hf.inference.windows import PreparedImage, SegmentedImage, prepare_image, segment_images


SIZES = [(40, 64), (64, 100), (64, 100), (33, 47), (110, 90)]
PROCESSORS = {
    "as they are": UnipImageProcessor(do_resize=False),
    "resized": UnipImageProcessor(size={"shortest_edge": 64, "longest_edge": 150}, num_channels=1),
}
ALL_SETTINGS = [
    InferenceSettings(48, 32, batch_size=3),
    InferenceSettings(None),
    InferenceSettings(48, 32, flip=True, scales=(1.0, 0.7), batch_size=5),
]


def draw(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(6700, 7900, size).astype(np.uint16)


def make_model(make_config: Callable, num_channels: int = 3) -> UnipForSemanticSegmentation:
    torch.manual_seed(0)
    model = UnipForSemanticSegmentation(make_config(decoder_channels=16, num_channels=num_channels)).eval()
    with torch.no_grad():
        model.decode_head.classifier.weight.mul_(30)  # so that classes differ
    return model


def plain_scores(
    model: nn.Module, processor: UnipImageProcessor, image: np.ndarray, settings: InferenceSettings
) -> torch.Tensor:
    """The published evaluation, one window at a time with everything at full size."""
    passes = list(itertools.product(settings.scales, (False, True) if settings.flip else (False,)))
    average = []
    for scale, is_flipped in passes:
        height, width = (max(1, int(side * scale + 0.5)) for side in processor.output_size(*image.shape))
        resizing = {"size": {"height": height, "width": width}, "do_resize": True} if scale != 1 else {}
        pixels = processor(image, return_tensors="pt", **resizing).pixel_values
        pixels = pixels.flip(-1) if is_flipped else pixels
        height, width = pixels.shape[-2:]
        side = settings.window_size or max(height, width)
        stride = settings.stride if settings.window_size else side
        total, counts = 0.0, torch.zeros(height, width)
        for top in range(0, max(height - side + stride - 1, 0) // stride * stride + 1, stride):
            for left in range(0, max(width - side + stride - 1, 0) // stride * stride + 1, stride):
                y, x = max(min(top, height - side), 0), max(min(left, width - side), 0)
                window = pixels[..., y : y + side, x : x + side]
                with torch.no_grad():
                    logits = interpolate(model(window).logits, size=window.shape[-2:], mode="bilinear")
                margins = (x, width - x - window.shape[-1], y, height - y - window.shape[-2])
                total = total + nn.functional.pad(logits, margins)
                counts += nn.functional.pad(torch.ones(window.shape[-2:]), margins)
        scores = interpolate(total / counts, size=image.shape, mode="bilinear")[0]
        average.append(scores.flip(-1) if is_flipped else scores)
    return average[0] if len(passes) == 1 else sum(scores.softmax(0) for scores in average) / len(passes)


def prepared(
    model: nn.Module, processor: UnipImageProcessor, images: list[np.ndarray], settings: InferenceSettings
) -> Iterator[PreparedImage[int]]:
    for key, image in enumerate(images):
        yield prepare_image(key, model, processor, image, settings)


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("settings", ALL_SETTINGS)
@pytest.mark.parametrize("limit", [canvas.MAX_NUMBERS, 3000])  # as it is, and a few rows at once
def test_images_of_one_batch_get_what_each_gets_alone(
    name: str, settings: InferenceSettings, limit: int, make_config: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canvas, "MAX_NUMBERS", limit)
    processor, images = PROCESSORS[name], [draw(size, seed) for seed, size in enumerate(SIZES)]
    model = make_model(make_config, processor.num_channels)
    results = segment_images(model, prepared(model, processor, images, settings), settings, "ids_and_probabilities")
    scores = segment_images(model, prepared(model, processor, images, settings), settings, "scores")
    for key, (image, result, scored) in enumerate(zip(images, results, scores, strict=True)):
        expected = plain_scores(model, processor, image, settings)
        assert result.key == scored.key == key and result.error is None
        torch.testing.assert_close(scored.scores, expected, atol=1e-4, rtol=1e-4)
        first, second = expected.topk(2, dim=0).values
        is_clear = first - second > 1e-3
        assert is_clear.float().mean() > 0.9 and torch.equal(result.ids[is_clear], expected.argmax(0)[is_clear].byte())
        probabilities = expected.softmax(0) if settings.scales == (1.0,) and not settings.flip else expected
        torch.testing.assert_close(result.probabilities.float(), probabilities, atol=1e-3, rtol=0)


def test_batches_are_full_and_of_one_size(make_config: Callable) -> None:
    model, sizes = make_model(make_config), []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    settings, processor = InferenceSettings(48, 32, batch_size=4), PROCESSORS["as they are"]
    images = [draw((48, 80)), draw((48, 80)), draw((48, 48)), draw((40, 48)), draw((48, 112))]
    assert len(list(segment_images(model, prepared(model, processor, images, settings), settings))) == 5
    assert sizes == [(4, 3, 48, 48), (1, 3, 48, 48), (1, 3, 40, 48), (3, 3, 48, 48)]


class LargestTensor(TorchFunctionMode):
    """Notes how many numbers the largest floating-point tensor has that is made."""

    numbers = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.parametrize("passes", [{}, {"flip": True, "scales": (1, 0.8)}])
@pytest.mark.parametrize("side", [500, 30])  # of what the model sees: several rows of windows, and one
def test_a_large_image_is_never_held_with_all_classes(
    passes: dict[str, Any], side: int, make_config: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canvas, "MAX_NUMBERS", 5 * 60 * 8)
    settings = InferenceSettings(32, 24, **passes)
    model, processor = make_model(make_config), UnipImageProcessor(size={"height": side, "width": 40})
    with LargestTensor() as largest:
        (result,) = segment_images(model, prepared(model, processor, [draw((900, 60))], settings), settings)
    assert result.ids.shape == (900, 60) and 5 * 60 * 8 < largest.numbers < 5 * 900 * 60 / 2


@pytest.mark.parametrize("source", [(1, 7), (30, 20), (64, 9)])
@pytest.mark.parametrize("target", [(1, 1), (30, 20), (47, 31), (200, 5), (13, 40)])
def test_rows_are_resized_as_the_whole(
    source: tuple[int, int], target: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canvas, "MAX_NUMBERS", 50)
    maps, random = torch.randn(3, *source), np.random.default_rng(0)
    expected = interpolate(maps[None], size=target, mode="bilinear")[0]
    for count in (1, min(4, source[0]), source[0]):
        cuts = sorted(random.choice(np.arange(1, source[0]), count - 1, replace=False).tolist()) if count > 1 else []
        resizer, found = canvas.RowResizer(source, target), []
        for first, end in itertools.pairwise([0, *cuts, source[0]]):
            for start, rows in resizer.add(first, maps[:, first:end]):
                assert start == sum(part.shape[1] for part in found)
                found.append(rows)
        torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-4, rtol=0)


class Picky(nn.Module):
    """Refuses narrow images."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Conv2d(3, 2, kernel_size=1)

    def forward(self, pixel_values: torch.Tensor) -> SemanticSegmenterOutput:
        if pixel_values.shape[-1] < 20:
            raise ValueError("too narrow")
        return SemanticSegmenterOutput(logits=self.scores(pixel_values))


def test_an_error_is_of_its_image_and_what_was_begun_is_finished() -> None:
    model, processor, settings = Picky(), PROCESSORS["as they are"], InferenceSettings(32, 16, batch_size=4)
    images = [draw((40, 40)), draw((90, 10)), draw((90, 10)), draw((40, 40))]

    def interrupted() -> Iterator[PreparedImage[int]]:
        yield from prepared(model, processor, images, settings)
        raise KeyboardInterrupt

    found: list[SegmentedImage[int]] = []
    with pytest.raises(KeyboardInterrupt):
        for result, ids, _ in copied_late(segment_images(model, interrupted(), settings), 4):
            assert (ids is None) == (result.error is not None)
            found.append(result)
    assert [(result.key, str(result.error)) for result in found] == [
        (0, "None"), (1, "too narrow"), (2, "too narrow"), (3, "None")
    ]  # fmt: skip


def test_threads_work_ahead_in_order_and_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "MAX_PIXELS", 10)
    begun: list[int] = []
    gate = threading.Event()

    def task(number: int) -> int:
        begun.append(number)
        assert gate.wait(60)
        if number == 7:
            raise ValueError("seven")
        return number

    def tasks(pixels: int, count: int) -> Iterator[ahead.Task[int]]:
        yield from ((partial(task, number), pixels) for number in range(count))
        raise OSError("no more")

    with ThreadPoolExecutor(4) as threads:
        gate.set()
        for pixels, count in ((1, 7), (100, 7)):  # many small ones, and large ones of which each is alone
            found = []
            with pytest.raises(OSError, match="no more"):
                for number in ahead.ahead(threads, tasks(pixels, count), most=3):
                    found.append(number)
                    assert len(begun) <= number + (1 if pixels == 100 else 3)
            assert found == list(range(count)) and sorted(begun) == found
            begun.clear()
        with pytest.raises(ValueError, match="seven"):
            list(ahead.ahead(threads, tasks(1, 9)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_pixels_are_counted_on_the_device_as_on_the_cpu(dtype: torch.dtype) -> None:
    random = np.random.default_rng(0)
    true, predicted = (random.integers(0, 5, (2, 30, 40)) for _ in range(2))
    true[:, :3] = 255
    counts = count_confusions_on_device(torch.from_numpy(predicted).to(dtype), torch.from_numpy(true).to(dtype), 5)
    np.testing.assert_array_equal(counts[:, :5], count_confusions(predicted, true, 5))
    assert not counts[:, 5].any()
    predicted[0, 5, :7] = 9
    counts = count_confusions_on_device(torch.from_numpy(predicted), torch.from_numpy(true), 5)
    assert counts[:, 5].sum() == 7 and counts.sum() == (true != 255).sum()


@pytest.mark.slow
def test_a_model_is_compiled_twice_for_all_sizes(make_config: Callable) -> None:
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    model, processor = make_model(make_config), PROCESSORS["as they are"]
    settings = InferenceSettings(64, 48, batch_size=2)
    images = [draw(size) for size in [(64, 64), (64, 112), (48, 64), (32, 48), (64, 64)]]
    expected = list(segment_images(model, prepared(model, processor, images, settings), settings, "scores"))
    compiled = CompiledModel(model, settings.batch_size, backend)
    found = list(segment_images(compiled, prepared(compiled, processor, images, settings), settings, "scores"))
    assert len(graphs) == 2
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other.scores, one.scores, atol=1e-4, rtol=1e-4)


def test_auto_is_bf16_where_the_device_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, model = torch.device("cpu"), Picky()
    exported = ExportedModel.__new__(ExportedModel)
    for capabilities, chosen in (({"avx512_bf16": True}, "bf16"), ({"bf16": True}, "bf16"), ({"avx2": True}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert choose_dtype("auto", model, cpu) == chosen and choose_dtype("auto", exported, cpu) == "fp32"
        assert choose_dtype("fp16", model, cpu) == "fp16"
    for capability, chosen in (((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert choose_dtype("auto", model, torch.device("cuda", 1)) == chosen
    with autocast("bf16", cpu):
        assert model(torch.randn(1, 3, 20, 20)).logits.dtype == torch.bfloat16
    with autocast("fp32", cpu):
        assert model(torch.randn(1, 3, 20, 20)).logits.dtype == torch.float32


def test_worker_threads_compute_on_one_core_each_and_leave_the_others_alone() -> None:
    """Threads of PyTorch in each of many threads would outnumber the cores many times."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with ahead.worker_threads() as threads:
            assert {threads.submit(torch.get_num_threads).result() for _ in range(40)} == {1}
            assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


def test_worker_threads_that_cannot_start_end(monkeypatch: pytest.MonkeyPatch) -> None:
    submit, calls = ThreadPoolExecutor.submit, itertools.count()

    def fail_at_second(threads: ThreadPoolExecutor, *task: Any) -> Any:
        if next(calls):
            raise RuntimeError("can't start new thread")
        return submit(threads, *task)

    monkeypatch.setattr(ahead.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", fail_at_second)
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="can't start"), ahead.worker_threads():
        pass
    assert torch.get_num_threads() == before

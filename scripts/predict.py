# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Segments images, folders of images, multi-page TIFF files and videos with any semantic segmentation model.

    unip predict unip-small-soda image.png -o prediction
    unip predict unip-small-soda recordings "flights/**/*.tif" clip.mp4 -o prediction --save_scores
    unip predict exported/model.onnx image.png -o prediction

In the output folder, results are named as the files they belong to, pages and video frames by their number from 0:

    masks/NAME.png           class ids; 8 bits, 16 bits above 256 classes
    overlays/NAME.png        the image with its segmentation, one overlays/NAME.mp4 for a video
    scores/NAME.npz          with --save_scores: "probabilities", float16 (classes, height, width)
    predict.json             model, settings, inputs, names and colours of the classes, versions

The same command goes on where it was interrupted.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from unip_hf.files import write_whole
from unip_hf.scripts.options import add_inference_options, make_inference_settings, make_parser


if TYPE_CHECKING:
    import torch

    from unip_hf.inference.predictor import Predictor
    from unip_hf.inference.sources import Source
    from unip_hf.inference.windows import InferenceSettings

NEVER = sys.maxsize
Item = TypeVar("Item")


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("predict", __doc__)
    parser.add_argument(
        "model", help="folder of a semantic segmentation model, its name on the Hub, or\nwhat `unip export` wrote"
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        help="images, TIFF files of several pages, videos, folders with such files at\n"
        'any depth, quoted patterns with *, ?, [...] and ** ("flights/**/*.tif")',
    )
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output_dir", type=Path, required=True, help="folder for the results")
    output.add_argument("--no_overlay", action="store_true", help="write no overlays")
    output.add_argument("--opacity", type=float, default=0.5, help="of overlays, 0 to 1 (default: %(default)s)")
    output.add_argument("--save_scores", action="store_true", help="write the probabilities of all classes")
    output.add_argument(
        "--overwrite",
        action="store_true",
        help="replace results of another model, other settings or other inputs in the\n"
        "output folder; those with other names stay",
    )
    output.add_argument(
        "--skip_unreadable", action="store_true", help="go on after a file that cannot be read, list them at the end"
    )
    output.add_argument("--every", type=int, default=1, help="take every n-th frame of videos (default: %(default)s)")
    inference = add_inference_options(parser)
    inference.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    inference.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="no", help="default: no")
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(arguments)
    if not 0 <= options.opacity <= 1:
        raise ValueError(f"--opacity lies between 0 and 1, unlike {options.opacity}.")
    if options.every < 1:
        raise ValueError(f"--every is at least 1, not {options.every}.")
    return options


def check_output_dir(folder: Path) -> None:
    """Only an empty folder or one of ours is written to, so that no mask of the user's own is replaced."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {str(folder)!r} is a file.")
    is_ours = not folder.is_dir() or (folder / "predict.json").is_file()
    if not is_ours and any(not path.name.startswith(".incomplete-") for path in folder.iterdir()):
        raise ValueError(
            f"--output_dir {str(folder)!r} holds other files and no earlier prediction (predict.json): choose a new "
            "folder."
        )


def choose_device(name: str | None) -> "torch.device":
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error


def describe_run(
    options: argparse.Namespace, settings: "InferenceSettings", model: Any, processor: Any
) -> dict[str, Any]:
    """Content of predict.json."""
    import numpy
    import PIL
    import torch
    import transformers

    from unip_hf import __version__
    from unip_hf.inference.loading import fingerprint
    from unip_hf.pictures import segmentation_palette

    id2label: Mapping[int, str] = model.config.id2label
    palette = segmentation_palette(max(id2label) + 1).tolist()
    return {
        "model": options.model,
        "fingerprint": fingerprint(model, processor),
        "settings": {
            "window_size": settings.window_size,
            "stride": settings.stride,
            "flip": options.flip,
            "scales": options.scales,
            "mixed_precision": options.mixed_precision,
            "opacity": options.opacity,
            "every": options.every,
        },
        "inputs": [os.path.abspath(path) for path in options.inputs],
        "classes": [{"id": index, "name": name, "color": palette[index]} for index, name in sorted(id2label.items())],
        "versions": {
            "unip_hf": __version__,
            **{module.__name__: module.__version__ for module in (torch, transformers, numpy, PIL)},
        },
    }


def resume_time(options: argparse.Namespace, run: dict[str, Any]) -> int:
    """
    Since when results in the output folder belong to this very prediction, in nanoseconds as `st_mtime_ns`: since its
    predict.json was written, which comes first. Older ones, of what `--overwrite` replaces, do not count.

    Raises:
        ValueError: if the folder holds results of another prediction, and `--overwrite` was not given.
    """
    file = options.output_dir / "predict.json"
    if not file.is_file() or options.overwrite:
        return NEVER
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        other = {
            "another model": before["fingerprint"] != run["fingerprint"],
            "other settings": before["settings"] != run["settings"],
            "other inputs": before["inputs"] != run["inputs"],
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(file)!r} was not written by this command: choose a new --output_dir.") from error
    if any(other.values()):
        differences = " and ".join(name for name, differs in other.items() if differs)
        raise ValueError(
            f"--output_dir {str(options.output_dir)!r} holds results of {differences}, see predict.json there: choose "
            "a new folder, or add --overwrite."
        )
    return file.stat().st_mtime_ns


def write_run(file: Path, run: dict[str, Any]) -> int:
    """Writes predict.json; returns when, as [`resume_time`]."""
    with write_whole(file) as staged:
        staged.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    return file.stat().st_mtime_ns


def ahead(items: Iterator[Item], count: int = 2) -> Iterator[Item]:
    """The same items, taken by a thread before they are asked for."""
    end: Any = object()
    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting = deque(thread.submit(next, items, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield item


def segment_frames(
    predictor: "Predictor", sources: Sequence["Source"], every: int, unreadable: list[str] | None, run: dict[str, Any]
) -> tuple[int, int]:
    """
    Segments all frames that have no results yet, while one thread reads those to come and one writes those finished.

    Returns:
        How many frames were segmented, and how many had results before.

    Raises:
        FileNotFoundError, ValueError: if a frame cannot be read or used, unless `unreadable` takes the messages.
    """
    from unip_hf.inference.predictor import read_wanted
    from unip_hf.inference.sources import frame_name
    from unip_hf.progress import Progress

    total = already = segmented = 0
    for source in sources:
        numbers = range(0, source.num_frames, every if source.kind == "video" else 1)
        total += len(numbers)
        already += sum(not predictor.is_missing(source, frame_name(source, number)) for number in numbers)
    progress = Progress("frame", total, done=already)
    try:
        with ThreadPoolExecutor(max_workers=1) as writer:
            writing: deque[Future] = deque()
            for source, frame, image in ahead(read_wanted(sources, every, predictor.is_missing, unreadable)):
                try:
                    ids, probabilities = predictor.segment(image)
                except ValueError as error:
                    message = f"{frame.source} cannot be used: {error}"
                    if unreadable is None:
                        raise ValueError(message) from error
                    unreadable.append(message)
                    continue
                if predictor.since == NEVER:  # the first results; without any, no folder is made
                    predictor.since = write_run(predictor.output_dir / "predict.json", run)
                writing.append(writer.submit(predictor.write, source, frame.name, image, ids, probabilities))
                if len(writing) > 2:
                    writing.popleft().result()
                segmented += 1
                if progress.done < total:  # how many frames a video has is only about known
                    progress.update()
            for written in writing:
                written.result()
    except (ValueError, FileNotFoundError) as error:
        stays = f" What was finished stays in {predictor.output_dir}." if segmented else ""
        raise ValueError(
            f"{str(error).rstrip('.')}.{stays} Mend or convert the file and run the same command again, or add "
            "--skip_unreadable."
        ) from error
    finally:
        progress.close()
    return segmented, already


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    check_output_dir(options.output_dir)
    import torch
    from transformers.utils import logging

    from unip_hf.inference.loading import load_segmentation_model
    from unip_hf.inference.predictor import Predictor
    from unip_hf.inference.sources import find_sources
    from unip_hf.progress import Progress

    logging.disable_progress_bar()
    device = choose_device(options.device)
    unreadable: list[str] | None = [] if options.skip_unreadable else None
    sources = find_sources(options.inputs, exclude=options.output_dir, unreadable=unreadable)
    model, processor = load_segmentation_model(options.model, device)
    settings = make_inference_settings(options, model)
    run = describe_run(options, settings, model, processor)
    predictor = Predictor(
        model,
        processor,
        options.output_dir,
        settings,
        opacity=options.opacity,
        with_overlays=not options.no_overlay,
        with_scores=options.save_scores,
        dtype={"bf16": torch.bfloat16, "fp16": torch.float16}.get(options.mixed_precision),
        since=resume_time(options, run),
    )
    for leftover in list(options.output_dir.rglob(".incomplete-*")):  # of a run that was killed
        shutil.rmtree(leftover)

    started = time.monotonic()
    try:
        segmented, already = segment_frames(predictor, sources, options.every, unreadable, run)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"The memory of {device} is too small: lower --batch_size, or choose --device cpu ({error})."
        ) from error
    seconds = time.monotonic() - started
    if not segmented and not already:
        raise ValueError(f"No frame could be read: {(unreadable or [''])[0]}")
    for source in sources:
        masks = predictor.masks_without_overlay(source)
        if masks:
            progress = Progress(f"overlay of {source.name}: frame", len(masks))
            predictor.write_overlay_video(source, masks, options.every, options.skip_unreadable, progress.update)
            progress.close()
    there = f" ({already} more were there already)" if already else ""
    speed = f", {seconds / segmented:.3f} s a frame" if segmented else ""
    print(f"{segmented} frames{there}{speed}: {options.output_dir}")
    if unreadable:
        print(f"{len(unreadable)} could not be read:", *unreadable, sep="\n  ", file=sys.stderr)


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))

# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The tab that segments uploads."""

import html
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from .components import (
    COMPUTING,
    QUIET,
    example_gallery,
    example_pair_pictures,
    example_pictures,
    model_choice,
    percent,
    picture_output,
    swatch,
)
from .models import Models, in_one_thread, on_gpu
from .segmentation import Segmentation, segment_sources
from .temporary import session_folder, temporary_folder
from .uploads import (
    MAX_FILE_SIZE,
    MAX_FRAMES,
    MAX_PIXELS,
    describe_upload,
    describe_uploads,
    error_message,
    example_pairs,
    examples,
    pair_sources,
)


LIMITS = (
    f"Up to {MAX_FILE_SIZE // 2**20} MB, {MAX_PIXELS // 10**6} megapixels and {MAX_FRAMES} frames. Files are deleted "
    "after half an hour."
)
OPACITY = 50  # of the classes at first, in percent
Upload = tuple[list[str], list[str]]  # paths of infrared files, and of visible ones where there are any
NOTHING: Upload = ([], [])
CLICK = "click on the picture for the class and the value there."


def legend(shares: Mapping[int, float], labels: Mapping[int, str]) -> str:
    """HTML list of classes: colour, name, and share of the pixels."""
    entries = (
        f"<div>{swatch(index, labels)}{html.escape(labels[index])} <span>{percent(share)}</span></div>"
        for index, share in shares.items()
    )
    return f'<div class="legend">{"".join(entries)}</div>'


def example_uploads() -> tuple[list[np.ndarray], list[Upload]]:
    """Pictures and paths of the examples for models of one image: scenes, and at the end a TIFF file of them all."""
    scenes, pictures = examples(), example_pictures()
    pages = temporary_folder() / "examples" / "scenes.tif"
    images = [Image.open(path) for path in scenes]
    images[0].save(pages, save_all=True, append_images=images[1:])
    sheet = np.vstack([np.hstack(pictures[:2]), np.hstack(pictures[2:4])])
    return [*pictures, sheet], [([path], []) for path in (*scenes, str(pages))]


def example_pair_uploads() -> tuple[list[np.ndarray], list[Upload]]:
    """Pictures and paths of the examples where there are models of pairs."""
    return example_pair_pictures(), [([infrared], [visible]) for infrared, visible in example_pairs()]


def segment_at_start(models: Models, upload: Upload) -> Segmentation | None:
    """
    Segments an example with the first model, once for all visitors, so that the page does not open empty.

    Returns:
        The segmentation. `None` if the model cannot do it; a warning says why.
    """
    folder = Path(tempfile.mkdtemp(prefix="at-start-", dir=temporary_folder()))
    try:
        sources, visible = ([describe_upload(path) for path in paths] for paths in upload)
        if models.reads_pairs(models.names[0]):
            sources = pair_sources(sources, visible)
        in_one_thread(segment_sources)(*models.first_at_start(), sources, folder)
        segmentation = Segmentation(folder)
        segmentation.overlay(0, OPACITY / 100)  # whether it can be drawn
    except Exception as error:  # whatever the code of a model raises, the page opens
        reason = error.message if isinstance(error, gr.Error) else f"{type(error).__name__}: {error}"
        logging.getLogger(__name__).warning("The page opens without a segmented example. %s", reason)
        return None
    return segmentation


def segment_tab(models: Models) -> None:
    """Builds the tab inside the page under construction."""
    has_pairs = models.any_reads_pairs
    example_arrays, example_paths = example_pair_uploads() if has_pairs else example_uploads()
    # Values that components have from the start cannot replace what a quick visitor has uploaded.
    first = segment_at_start(models, example_paths[0])
    mask_file, overlay_file = (first.write_masks(), first.write_overlays(OPACITY / 100)) if first else (None, None)

    @on_gpu
    def compute(name: str, paths: list[str], visible_paths: list[str], folder: str) -> list[str]:
        progress = gr.Progress()

        def on_frame(done: int, total: int) -> None:
            if total > 1:
                progress((done, total), desc="Segmenting", unit="frames")

        with tempfile.TemporaryDirectory(dir=temporary_folder()) as unpacked:
            sources, notes = describe_uploads(paths, Path(unpacked))
            if models.reads_pairs(name):
                visible, more_notes = describe_uploads(visible_paths, Path(unpacked, "visible"))
                sources, notes = pair_sources(sources, visible), notes + more_notes
            return notes + segment_sources(*models.get(name), sources, Path(folder), on_frame)

    def show(segmentation: Segmentation, frame: int, opacity: float) -> list[Any]:
        """The values of `shown`."""
        classes = legend(segmentation.shares(frame), segmentation.labels)
        hint = f"{html.escape(segmentation.names[frame])}: {CLICK}"
        return [segmentation.picture(frame, opacity / 100), classes, hint]

    def segment_upload(name: str, upload: Upload, opacity: float, request: gr.Request) -> list[Any]:
        """The values of `shown` and `results`."""
        paths, visible_paths = upload
        if models.reads_pairs(name) and bool(paths) != bool(visible_paths):
            other = "visible" if paths else "infrared"
            hint = f"This model reads pairs: now upload the {other} image of the same scene."
            picture, classes, _, *others, _, folder = clear()
            return [picture, classes, hint, *others, upload, folder]  # another model may need no more
        if not paths:
            raise error_message("Upload an image first.")
        # Each result has a folder of its own, because another event of the page may still read the previous one.
        folders = session_folder(request) / "segmentations"
        folders.mkdir(parents=True, exist_ok=True)
        before = list(folders.iterdir())
        folder = tempfile.mkdtemp(dir=folders)
        notes = compute(name, paths, visible_paths, folder)
        for old in before:
            shutil.rmtree(old, ignore_errors=True)
        segmentation = Segmentation(Path(folder))
        count = len(segmentation.names)
        ending = "s" if count > 1 else ""
        overlays = segmentation.write_overlays(opacity / 100)
        return [
            *show(segmentation, 0, opacity),
            gr.update(value=1, maximum=max(2, count), label=f"Frame, of {count}", visible=count > 1),
            gr.update(value="<br>".join(html.escape(note) for note in notes), visible=bool(notes)),
            gr.update(value=segmentation.write_masks(), label=f"Download mask{ending}", interactive=True),
            gr.update(value=overlays, label=f"Download overlay{ending}", interactive=True),
            (paths, visible_paths),
            folder,
        ]

    def clear() -> list[Any]:
        """The values of `shown` and `results` without an upload."""
        unavailable = gr.update(value=None, interactive=False)
        return [
            None,
            "",
            "",
            gr.update(visible=False),
            gr.update(visible=False),
            unavailable,
            unavailable,
            NOTHING,
            None,
        ]

    def segment(name: str, paths: list[str] | None, opacity: float, request: gr.Request) -> list[Any]:
        return segment_upload(name, (paths or [], []), opacity, request)

    def segment_pair(
        name: str, paths: list[str] | None, opacity: float, visible: list[str] | None, request: gr.Request
    ) -> list[Any]:
        return segment_upload(name, (paths or [], visible or []), opacity, request)

    def segment_example(name: str, index: int, opacity: float, request: gr.Request) -> list[Any]:
        return segment_upload(name, example_paths[index], opacity, request)

    def segment_again(name: str, upload: Upload, opacity: float, request: gr.Request) -> list[Any]:
        return segment_upload(name, upload, opacity, request) if upload[0] else [gr.skip()] * len(shown + results)

    def show_again(folder: str | None, frame: int, opacity: float) -> list[Any]:
        return show(Segmentation(Path(folder)), int(frame) - 1, opacity) if folder else [gr.skip()] * len(shown)

    def blend_again(folder: str | None, frame: int, opacity: float) -> Image.Image | dict:
        return Segmentation(Path(folder)).picture(int(frame) - 1, opacity / 100) if folder else gr.skip()

    def write_overlays(folder: str | None, opacity: float, request: gr.Request) -> Any:
        if not folder:
            return gr.skip()
        place, own = Path(folder), session_folder(request)
        if not place.is_relative_to(own):  # what the page opens with belongs to all visitors
            own.mkdir(parents=True, exist_ok=True)
            place = own
        return gr.update(value=Segmentation(Path(folder)).write_overlays(opacity / 100, place))

    def describe_pixel(folder: str | None, frame: int, event: gr.SelectData) -> str:
        if not folder:
            return ""
        x, y = event.index
        return html.escape(Segmentation(Path(folder)).describe_pixel(int(frame) - 1, x, y))

    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            gr.Markdown("Upload infrared images, 16-bit TIFF files, a zip archive or a video, or choose an example.")
            if has_pairs:
                gr.Markdown(
                    "A model of pairs also needs the visible image of each. Of several files, those of the same name "
                    "belong together."
                )
            model = model_choice(models)
            kinds = "mages, TIFF, zip, video"
            label = f"Infrared i{kinds}" if has_pairs else f"I{kinds}"
            files = gr.File(file_count="multiple", label=label, height=150, elem_id="uploads")
            directory = gr.UploadButton("Upload a folder", file_count="directory", size="sm")
            if has_pairs:
                label = f"Visible i{kinds}"
                visible = gr.File(file_count="multiple", label=label, height=150, elem_id="visible-uploads")
            label = "Examples by day and by night" if has_pairs else "Examples, the last one a TIFF file of four pages"
            dataset = example_gallery(example_arrays, label, elem_id="examples")
            gr.Markdown(LIMITS, elem_classes="note")
        with gr.Column(scale=3, min_width=300):
            overlaid, shares, hint = show(first, 0, OPACITY) if first else (None, "", CLICK.capitalize())
            picture = picture_output(value=overlaid, label="Segmentation", elem_id="segmentation")
            pixel = gr.HTML(hint, elem_id="pixel")
            frame = gr.Slider(1, 2, 1, step=1, label="Frame", visible=False, elem_id="frame")
            opacity = gr.Slider(0, 100, OPACITY, step=5, label="Opacity of the classes, %", elem_id="opacity")
            classes = gr.HTML(shares, elem_id="legend")
            notes = gr.HTML(visible=False, elem_classes="note", elem_id="notes")
            with gr.Row():
                button: dict[str, Any] = {"size": "md", "interactive": first is not None}
                mask = gr.DownloadButton("Download mask", mask_file, elem_id="mask", **button)
                overlay = gr.DownloadButton("Download overlay", overlay_file, elem_id="overlay", **button)
    latest = gr.State(example_paths[0] if first else NOTHING)  # the upload that is shown
    result = gr.State(str(first.folder) if first else None)  # folder of its segmentation

    shown, results = [picture, classes, pixel], [frame, notes, mask, overlay, latest, result]
    light: dict[str, Any] = {"trigger_mode": "always_last", **QUIET}
    heavy: dict[str, Any] = {"outputs": shown + results, "show_progress_on": picture, "trigger_mode": "always_last"}
    heavy |= COMPUTING
    cleared: dict[str, Any] = {"fn": clear, "outputs": shown + results, "trigger_mode": "multiple", **QUIET}
    public = {**heavy, "api_visibility": "public", "api_name": "segment"}
    if has_pairs:
        files.upload(**cleared).then(segment_pair, [model, files, opacity, visible], **public)
        # The field takes the files of the folder, too, where they wait for the visible ones.
        filled = directory.upload(lambda paths: paths, directory, files, **QUIET).then(**cleared)
        filled.then(segment_pair, [model, files, opacity, visible], **heavy)
        visible.upload(**cleared).then(segment_pair, [model, files, opacity, visible], **heavy)
    else:
        files.upload(**cleared).then(segment, [model, files, opacity], **public)
        directory.upload(**cleared).then(segment, [model, directory, opacity], **heavy)
    dataset.click(**cleared).then(segment_example, [model, dataset, opacity], **heavy)
    model.change(segment_again, [model, latest, opacity], **heavy)
    frame.input(show_again, [result, frame, opacity], shown, **light)
    opacity.input(blend_again, [result, frame, opacity], picture, **light)
    opacity.input(write_overlays, [result, opacity], overlay, **light)
    picture.select(describe_pixel, [result, frame], pixel, **light)


__all__ = ["segment_tab"]

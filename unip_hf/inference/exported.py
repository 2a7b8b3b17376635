# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Runs the ONNX and OpenVINO files of `unip export` where a model is expected."""

import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.modeling_outputs import SemanticSegmenterOutput

from ..files import read_json
from ..modeling.modeling_unip_fusion import check_pair
from ..modeling.modeling_unip_layers import whole_patches
from ..modeling.modeling_unip_resampling import crop_to_image


DESCRIPTION = "export.json"
Run = Callable[..., np.ndarray]  # takes one array for each input of the file, in their order


def require_package(name: str, extra: str = "export") -> ModuleType:
    """
    Imports an optional package, one of the requirements that `extra` adds.

    Raises:
        ValueError: if it is not installed; the message says how to install it.
    """
    # openvino reports its import to its makers, and its only opt-out writes into the home folder and reports, too.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f'The package {name} is needed and cannot be imported ({error}). Run pip install ".[{extra}]" in the '
            f"folder of this project, or pip install {name}."
        ) from error


def _run_onnx(file: Path, device: torch.device) -> Run:
    onnxruntime: Any = require_package("onnxruntime")
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    available = onnxruntime.get_available_providers()
    providers = [name for name in [*wanted, "CPUExecutionProvider"] if name in available]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as well
    session = onnxruntime.InferenceSession(os.fspath(file), options, providers=providers)
    names = [part.name for part in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays)))[0]


def _run_openvino(file: Path, device: torch.device) -> Run:
    openvino: Any = require_package("openvino")
    # On some processors it would compute in bfloat16 by default.
    compiled = openvino.Core().compile_model(os.fspath(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda *arrays: compiled(arrays)[0]


RUNNERS: dict[str, Callable[[Path, torch.device], Run]] = {".onnx": _run_onnx, ".xml": _run_openvino}


class ExportedModel(nn.Module):
    """
    An exported file in the place of the segmentation model it was made from: takes images of any size, pads them as
    the model does, and cuts the logits back.

    Args:
        file: `.onnx`, or `.xml` with the `.bin` beside it.
        config: Configuration of the model that was exported.
        size_divisor: Height and width of what the file takes are multiples of this.
        image_size: Height and width of the only images that the file takes, if it was exported for one size; smaller
            ones are padded to it.
        device: Where ONNX Runtime computes if it has its CUDA provider; otherwise, and by default, on the CPU.

    Raises:
        ValueError: if the file cannot be loaded, or its runtime is not installed.
    """

    config: PreTrainedConfig
    checksum: torch.Tensor
    device = torch.device("cpu")  # of inputs and outputs, wherever the file computes
    dtype = torch.float32

    def __init__(
        self,
        file: Path,
        config: PreTrainedConfig,
        size_divisor: int = 16,
        device: str | torch.device | None = None,
        image_size: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.config = config
        self.size_divisor = size_divisor
        self.image_size = image_size
        self.name = str(file)
        for part in (file, file.with_suffix(".bin")) if file.suffix == ".xml" else (file,):
            if not part.is_file():
                raise FileNotFoundError(f"There is no file {str(part)!r}.")
        try:
            self._run = RUNNERS[file.suffix](file, torch.device(device or "cpu"))
        except Exception as error:  # each runtime has its own kinds
            raise ValueError(f"{self.name!r} cannot be loaded: {_first_line(error)}") from error
        digest = hashlib.sha256()
        for part in sorted(file.parent.glob(f"{file.stem}.*")):  # weights may lie beside the graph
            with part.open("rb") as opened:
                while block := opened.read(2**24):
                    digest.update(block)
        # In the state dict, where weights are looked for, the checksum tells files apart.
        self.register_buffer("checksum", torch.tensor(list(digest.digest()), dtype=torch.uint8))
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # tells where inputs are expected

    def to(self, *args: Any, **kwargs: Any) -> "ExportedModel":
        return self  # nothing here can move to another device or dtype

    def run(self, *arrays: np.ndarray) -> torch.Tensor:
        """
        The output of the file for its input, or for its two, the main one first.

        Raises:
            ValueError: if the runtime refuses the input, or automatic mixed precision is on.
        """
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            raise ValueError("An exported file has one precision: use it without mixed precision.")
        try:
            return torch.from_numpy(np.array(self._run(*(np.require(one, requirements=("C", "W")) for one in arrays))))
        except Exception as error:
            what = " and ".join(f"{array.dtype} {array.shape}" for array in arrays)
            raise ValueError(f"{self.name!r} cannot take an input {what}: {_first_line(error)}") from error

    @property
    def reads_pairs(self) -> bool:
        """Whether the file takes two images."""
        return getattr(self.config, "fusion", None) is not None

    def forward(
        self, pixel_values: torch.Tensor, auxiliary_pixel_values: torch.Tensor | None = None
    ) -> SemanticSegmenterOutput:
        """
        Args:
            pixel_values: Scaled images, float `(batch_size, num_channels, height, width)` of any size.
            auxiliary_pixel_values: Of the model of pairs: the other images.

        Returns:
            Output with float32 `logits`, `(batch_size, num_labels, rows, columns)`, which cover exactly the image.

        Raises:
            ValueError: see [`run`], or if an image is larger than the one size that the file takes.
        """
        height, width = pixel_values.shape[-2:]
        padded_height, padded_width = self.image_size or whole_patches((height, width), self.size_divisor)
        if height > padded_height or width > padded_width:
            raise ValueError(
                f"{self.name!r} takes images of up to {padded_height}x{padded_width} pixels (height x width), got "
                f"{height}x{width}: use windows of at most {min(padded_height, padded_width)} pixels, or export it "
                "with a larger --image_size."
            )
        padding = (0, padded_width - width, 0, padded_height - height)  # zero is mean intensity
        inputs = [pixel_values]
        if self.reads_pairs:
            inputs.append(check_pair(self.config, pixel_values, auxiliary_pixel_values))  # type: ignore[arg-type]
        elif auxiliary_pixel_values is not None:
            raise ValueError(f"{self.name!r} takes one image: leave out auxiliary_pixel_values.")
        padded = [nn.functional.pad(one.detach().float().cpu(), padding).numpy() for one in inputs]
        logits = self.run(*padded)
        return SemanticSegmenterOutput(logits=crop_to_image(logits, (padded_height, padded_width), (height, width)))


class EndToEndModel(ExportedModel):
    """
    An exported file that takes raw frames of one size and returns class ids.

    Args:
        file, config, device: See [`ExportedModel`].
        frame_size: Height and width in pixels.
        frame_dtype: `"uint8"` or `"uint16"`; of visible frames always `"uint8"`.
    """

    def __init__(
        self,
        file: Path,
        config: PreTrainedConfig,
        frame_size: tuple[int, int],
        frame_dtype: str,
        device: str | torch.device | None = None,
    ):
        super().__init__(file, config, 1, device)
        self.frame_size = frame_size
        self.frame_dtype = np.dtype(frame_dtype)

    def forward(
        self, pixel_values: torch.Tensor, auxiliary_pixel_values: torch.Tensor | None = None
    ) -> SemanticSegmenterOutput:
        raise ValueError(f"{self.name!r} takes raw frames, not pixel_values, and returns ids instead of logits.")

    def segment(self, frame: np.ndarray, auxiliary_frame: np.ndarray | None = None) -> torch.Tensor:
        """
        Args:
            frame: Raw frame of the size of the file. An infrared one is `(height, width)` or `(height, width, 1)` and
                of its dtype, a visible one `(height, width, 3)` and uint8.
            auxiliary_frame: Of the model of pairs: the other frame.

        Returns:
            Class ids, `(height, width)`: uint8, or int32 above 256 classes.

        Raises:
            ValueError: if the frames are of another size or dtype, or there are not as many as the file takes.
        """
        if self.reads_pairs != (auxiliary_frame is not None):
            raise ValueError(
                f"{self.name!r} takes pairs of frames: the auxiliary one is missing."
                if self.reads_pairs
                else f"{self.name!r} takes one frame: leave out the auxiliary one."
            )
        main = getattr(self.config, "main_modality", "infrared") if self.reads_pairs else "infrared"
        frames = [self._checked(frame, main == "visible")]
        if auxiliary_frame is not None:
            frames.append(self._checked(auxiliary_frame, main == "infrared"))
        return self.run(*(one[None] for one in frames))[0]

    def _checked(self, frame: np.ndarray, is_visible: bool) -> np.ndarray:
        """A frame as the file takes it: infrared `(height, width)`, visible `(height, width, 3)`."""
        frame = frame[..., 0] if not is_visible and frame.ndim == 3 and frame.shape[2] == 1 else frame
        shape = (*self.frame_size, 3) if is_visible else self.frame_size
        dtype = np.dtype(np.uint8) if is_visible else self.frame_dtype
        if frame.shape != shape or frame.dtype != dtype:
            height, width = self.frame_size
            raise ValueError(
                f"{self.name!r} takes {dtype} frames of {height}x{width} pixels (height x width) with "
                f"{'three channels' if is_visible else 'one channel'}, got {frame.dtype} of shape {frame.shape}. "
                "Export it again with the --frame_size and --frame_dtype of this camera, or without --end_to_end for "
                "images of any size."
            )
        return frame

    def scores(self, frame: np.ndarray, auxiliary_frame: np.ndarray | None = None) -> torch.Tensor:
        """1 for the class of each pixel and 0 for all others, float32 `(classes, height, width)`; see [`segment`]."""
        ids = self.segment(frame, auxiliary_frame).long()
        return nn.functional.one_hot(ids, self.config.num_labels or 0).permute(2, 0, 1).float()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") + "." if lines else f"{type(error).__name__}."


def is_exported(checkpoint: str | os.PathLike) -> bool:
    """Whether this is a file of `unip export`, by its suffix, or a folder that holds one and no weights."""
    path = Path(checkpoint)
    if not path.is_dir():
        return path.suffix in RUNNERS
    has_weights = any([*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")])
    return (path / DESCRIPTION).is_file() or (
        not has_weights and any(file.suffix in RUNNERS for file in path.iterdir())
    )


def load_exported_model(checkpoint: str | os.PathLike, device: str | torch.device | None = None) -> ExportedModel:
    """
    Args:
        checkpoint: Folder that `unip export` wrote, or one of the model files in it.
        device: See [`ExportedModel`].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file that `unip export` wrote beside it is missing, or it cannot be loaded.
    """
    path = Path(checkpoint)
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    for name in ("config.json", "preprocessor_config.json", DESCRIPTION):
        if not (folder / name).is_file():
            raise ValueError(
                f"{str(path)!r} cannot be used alone: there is no {name} beside it. Keep all files that `unip export` "
                "wrote together."
            )
    try:
        description: dict[str, Any] = read_json(folder / DESCRIPTION)
        file = folder / description["file"] if path.is_dir() else path
        end_to_end = description["end_to_end"]
        size_divisor = description["size_divisor"]
        image_size = _pair(description.get("image_size"))  # absent in older exports
        frame_size, frame_dtype = None, ""
        if end_to_end is not None:
            frame_size, frame_dtype = _pair(end_to_end["frame_size"]), np.dtype(end_to_end["frame_dtype"]).name
        if file.parent != folder or not (type(size_divisor) is int and size_divisor > 0):
            raise ValueError("a value is not possible")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{folder / DESCRIPTION}' was not written by `unip export`, or is damaged.") from error
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # of many kinds, as the values of the file
        raise ValueError(f"'{folder / 'config.json'}' cannot be used: {_first_line(error)}") from error
    if frame_size is None:
        return ExportedModel(file, config, size_divisor, device, image_size).eval()
    return EndToEndModel(file, config, frame_size, frame_dtype, device).eval()


def _pair(size: Any) -> tuple[int, int] | None:
    """Height and width, above 0."""
    if not size:
        return None
    height, width = size
    if not all(type(side) is int and side > 0 for side in (height, width)):
        raise ValueError(f"height and width must be whole numbers above 0, got {size}.")
    return height, width


__all__ = ["EndToEndModel", "ExportedModel", "is_exported", "load_exported_model", "require_package"]

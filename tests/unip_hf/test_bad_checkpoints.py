"""Checkpoints that are damaged, of another kind or malicious give a model or a sentence, and run no code."""

import argparse
import io
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from unip_hf import UnipForPreTraining, UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.hub import convert_checkpoint, read_checkpoint, to_published_state_dict
from unip_hf.inference import load_segmentation_model
from unip_hf.inference.exported import require_package
from unip_hf.training.checkpoints import load_checkpoint, save_checkpoint

from .. import conftest
from ..conftest import tiny_config
from ..nonsense import NONSENSE, damaged, json_files, result_or_sentence, with_nonsense


class RunsCode:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def pickled(content: Any, is_zip: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=is_zip)
    return file.getvalue()


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return to_published_state_dict(UnipForPreTraining(tiny_config(num_hidden_layers=1)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model = UnipForSemanticSegmentation(tiny_config(num_hidden_layers=1, decoder_channels=8)).eval()
    conftest.save_checkpoint(model, folder)
    return folder


@given(st.data(), st.sampled_from(["zip", "legacy", "safetensors"]))
def test_a_damaged_published_file_gives_a_network_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, published: dict[str, torch.Tensor], data: st.DataObject, kind: str
) -> None:
    whole = save(published) if kind == "safetensors" else pickled({"model": published}, kind == "zip")
    path = tmp_path_factory.getbasetemp() / f"file.{'safetensors' if kind == 'safetensors' else 'pth'}"
    path.write_bytes(data.draw(damaged(whole)))
    tensors = result_or_sentence(lambda: read_checkpoint(path), str(path))
    if tensors is not None:
        model = result_or_sentence(lambda: convert_checkpoint(path, UnipForPreTraining, num_attention_heads=2))
        assert model is None or all(parameter.isfinite().all() for parameter in model.parameters())


STRUCTURAL = (
    "cls_token",
    "pos_embed",
    "patch_embed.proj.weight",
    "blocks.0.mlp.fc1.weight",
    "blocks.0.attn.qkv.weight",
)
TENSORS: list[Callable[[torch.Tensor], Any]] = [
    lambda own: own[..., :1],
    lambda own: own.flatten(),
    lambda own: own.sum(),
    lambda own: own[None],
    lambda own: own * float("nan"),
    lambda own: own.to(torch.complex64),
    lambda own: own.to(torch.int64),
    lambda own: own.to("meta"),
    lambda own: own.to_sparse(),
    lambda own: torch.zeros(1).expand(10**6, *[1] * (own.ndim - 2), 10**6)[..., : 10**6],
    lambda own: "text",
]
NAMES = ["blocks.x.y", "blocks.99999999.attn.qkv.weight", "blocks.-1.a", "decode_head.zzz", "dist_token", "", 1, b"x"]


@given(st.sampled_from(STRUCTURAL), st.sampled_from(TENSORS), st.sampled_from([None, *NAMES]), NONSENSE, NONSENSE)
def test_tensors_that_make_no_network_are_refused(
    published: dict[str, torch.Tensor], name: str, change: Callable, other_name: Any, heads: Any, meta: Any
) -> None:
    tensors: dict[Any, Any] = dict(published)
    tensors[name if other_name is None else other_name] = change(tensors[name])
    content = {"model": tensors, "args": argparse.Namespace(last_heads=heads), "meta": meta}
    model = result_or_sentence(lambda: convert_checkpoint(content, UnipForPreTraining, num_attention_heads=2))
    assert model is None or all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("ending", ["pth", "bin", "pt", "safetensors"])
def test_no_pickle_runs_code(tmp_path: Path, published: dict[str, torch.Tensor], is_zip: bool, ending: str) -> None:
    canary = tmp_path / "canary"
    evil = RunsCode(canary)
    array = np.array([evil], dtype=object)
    for content in (
        evil,
        {**published, "evil": evil},
        {"model": published, "args": argparse.Namespace(x=evil)},
        array,
    ):
        path = tmp_path / f"file.{ending}"
        path.write_bytes(pickled(content, is_zip))
        with pytest.raises(ValueError, match=r"file\."):
            convert_checkpoint(path, UnipForPreTraining)
    assert not canary.exists()


def test_a_checkpoint_of_a_run_runs_no_code(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(2, 2)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    save_checkpoint(accelerator, tmp_path, {"step": 1}, torch.nn.Linear(2, 2))
    checkpoint, canary = tmp_path / "checkpoints" / "step-00000001", tmp_path / "canary"
    averaged = torch.nn.Linear(2, 2)
    assert load_checkpoint(accelerator, checkpoint, averaged) == {"step": 1}
    for file in sorted(checkpoint.iterdir()):
        content = file.read_bytes()
        for changed in (
            pickled(RunsCode(canary)),
            pickled({"a": RunsCode(canary)}, False),
            b"",
            content[: len(content) // 2],
        ):
            file.write_bytes(changed)
            with pytest.raises(ValueError, match="step-00000001' does not fit this run"):
                load_checkpoint(accelerator, checkpoint, averaged)
        file.write_bytes(content)
    assert not canary.exists() and optimizer is not None


def test_code_beside_a_checkpoint_does_not_run(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # nobody is asked
    for file, part in (("config.json", "AutoConfig"), ("preprocessor_config.json", "AutoImageProcessor")):
        for kind in ("unip", "other"):
            target = tmp_path / f"{kind}-{file}"
            shutil.copytree(folder, target)
            (target / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'canary')!r})\nclass Evil: pass\n")
            content = json.loads((target / file).read_text())
            content["auto_map"] = {part: "evil.Evil", "AutoModelForSemanticSegmentation": "evil.Evil"}
            if kind == "other":
                content |= {"model_type": "other", "image_processor_type": "Other"}
            (target / file).write_text(json.dumps(content))
            with suppress(OSError, ValueError):
                load_segmentation_model(target)
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickled(RunsCode(tmp_path / "canary")))
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_segmentation_model(folder)
    (folder / "pytorch_model.bin").unlink()
    (tmp_path / "model.safetensors").rename(folder / "model.safetensors")
    assert not (tmp_path / "canary").exists()


def lying_headers() -> list[bytes]:
    def file(header: Any, length: int | None = None, data: bytes = bytes(16)) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    def entry(**changes: Any) -> dict[str, Any]:
        return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}

    return [
        file(entry(), length=2**62), file(entry(), length=2**40), file(entry(), length=10**8), file(entry(), length=0),
        file(entry(data_offsets=[0, 800])), file(entry(data_offsets=[8, 0])), file(entry(data_offsets=[-8, 0])),
        file(entry(shape=[-2])), file(entry(shape=[10**12])), file(entry(shape=[2**32, 2**32])),
        file(entry(dtype="F64")),
        file(entry(dtype="X")), file({**entry(), "b": entry()["a"]}), file(b"\xff\xfe" * 8), file(b"[" * 10**6),
        file([]),
        file({"__metadata__": {"a": 1}}), file(b" " * 1000 + b"{}"), b"", bytes(8), b"\xff" * 8,
    ]  # fmt: skip


def test_headers_of_safetensors_that_lie_are_refused(tmp_path: Path, folder: Path) -> None:
    for number, content in enumerate(lying_headers()):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{number}\.safetensors"):
            convert_checkpoint(path, UnipForPreTraining)
        target = tmp_path / f"folder-{number}"
        shutil.copytree(folder, target)
        (target / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=f"folder-{number}"):
            load_segmentation_model(target)


HUGE = ["hidden_size", "num_hidden_layers", "decoder_channels", "image_size", "num_labels", "patch_size", "mlp_ratio"]


@pytest.mark.parametrize("number", [4096, 10**6, 10**9])
@pytest.mark.parametrize("name", HUGE)
def test_a_huge_number_in_the_configuration_allocates_nothing(
    tmp_path: Path, folder: Path, name: str, number: int
) -> None:
    content = json.loads((folder / "config.json").read_text())
    target = tmp_path / "target"
    shutil.copytree(folder, target)
    (target / "config.json").write_text(json.dumps({**content, name: number}))
    with pytest.raises(ValueError, match="target"):
        load_segmentation_model(target)


@given(st.data())
def test_nonsense_in_a_checkpoint_folder_gives_a_model_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, folder: Path, data: st.DataObject
) -> None:
    target = tmp_path_factory.getbasetemp() / "nonsense"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    name = data.draw(st.sampled_from(["config.json", "preprocessor_config.json", "model.safetensors"]))
    if name == "model.safetensors":
        (target / name).write_bytes(data.draw(damaged((folder / name).read_bytes())))
    else:
        content = json.loads((folder / name).read_text())
        many = with_nonsense({key: {key: value} for key, value in content.items()})
        one_field = many.filter(lambda found: isinstance(found, dict)).map(
            lambda found: json.dumps({k: v[k] if isinstance(v, dict) and k in v else v for k, v in found.items()})
        )
        text = one_field.map(lambda found: found.encode("utf-8", "surrogatepass"))
        (target / name).write_bytes(data.draw(st.one_of(text, text, json_files(content))))
    loaded = result_or_sentence(lambda: load_segmentation_model(target), "nonsense")
    if loaded is not None:
        model, processor = loaded
        image = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
        inputs = result_or_sentence(lambda: processor(image, return_tensors="pt", size=64))
        if inputs is not None and inputs.pixel_values.shape[1] == model.config.num_channels:
            with torch.no_grad():
                assert model(inputs.pixel_values).logits.isfinite().all()


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    model = UnipForSemanticSegmentation(tiny_config())
    torch.nn.init.constant_(model.unip.embeddings.cls_token, float("nan"))
    model.save_pretrained(tmp_path)
    UnipImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"weights hold NaN or infinite values, in 'unip\.embeddings\.cls_token'"):
        load_segmentation_model(tmp_path)


def identity() -> bytes:
    """An ONNX file that gives its input back."""
    onnx = pytest.importorskip("onnx")
    shape = (onnx.TensorProto.FLOAT, [1, 3, "height", "width"])
    values = [onnx.helper.make_tensor_value_info(name, *shape) for name in ("pixel_values", "logits")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["pixel_values"], ["logits"])], "g", *zip(values)
    )
    opset = onnx.helper.make_opsetid("", 20)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


@lru_cache
def identity_in_openvino() -> dict[str, bytes]:
    """The same as the two files of OpenVINO, with weights."""
    openvino: Any = require_package("openvino")
    from openvino import opset13 as ops

    image = ops.parameter([1, 3, -1, -1], np.float32, name="pixel_values")
    logits = ops.add(image, ops.constant(np.zeros((1, 3, 1, 1), np.float32)))
    for node, name in ((image, "pixel_values"), (logits, "logits")):
        node.output(0).get_tensor().set_names({name})
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(openvino.Model([logits], [image]), Path(folder, "model.xml"), compress_to_fp16=False)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


DESCRIPTION = {"file": "model.onnx", "end_to_end": None, "size_divisor": 16, "image_size": [64, 64]}


@pytest.mark.parametrize("file", ["model.onnx", pytest.param("model.xml", marks=pytest.mark.slow)])
@given(st.data())
def test_a_damaged_export_gives_logits_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, folder: Path, file: str, data: st.DataObject
) -> None:
    pytest.importorskip("onnxruntime")
    target = tmp_path_factory.getbasetemp() / "exported"
    target.mkdir(exist_ok=True)
    files = {"model.onnx": identity()} if file == "model.onnx" else dict(identity_in_openvino())
    files["export.json"] = json.dumps({**DESCRIPTION, "file": file}).encode()
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(folder / name, target)
    bad = data.draw(st.sampled_from(sorted(files)))
    is_json = bad == "export.json"
    files[bad] = data.draw(json_files({**DESCRIPTION, "file": file}) if is_json else damaged(files[bad]))
    for name, content in files.items():
        (target / name).write_bytes(content)
    loaded = result_or_sentence(lambda: load_segmentation_model(target), str(target))
    if loaded is not None:
        result_or_sentence(lambda: loaded[0](torch.zeros(1, 3, 32, 32)).logits, str(target))

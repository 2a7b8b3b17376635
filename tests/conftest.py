"""Shared by all tests: no network, tiny networks, golden vectors, real images where they are at hand."""

import os
import shutil
import signal
import time


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
# Networks this small are fastest on one thread, and the processes that tests start do not fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import datasets
import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ConvNextV2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    SwinConfig,
    TimmBackboneConfig,
)

from unip_hf import UnipConfig, UnipImageProcessor
from unip_hf.data.scenes_builder import InfraredScenes
from unip_hf.modeling.modeling_unip_unirgb_ir import UnipInjector


# Seconds until a process counts as stuck: no test depends on speed, and a busy machine is ten times slower.
PATIENCE = 600
STEP_TIMEOUT = 120_000  # milliseconds of a step in a browser; two seconds where nothing else runs
# Chromium as root in a container, without asking its makers for anything.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
CHROMIUM_FLAGS += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
# Inputs that a property test draws, the same in every run; a long trial raises their number.
NUM_EXAMPLES = int(os.environ.get("UNIP_TEST_EXAMPLES", 12))
hypothesis.settings.register_profile(
    "tests",
    max_examples=NUM_EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),  # most of them depend on speed
)
hypothesis.settings.load_profile("tests")
GOLDEN = Path(__file__).parent / "golden"
REAL_IMAGES = Path(__file__).parents[2] / "shared" / "data"


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Returns as soon as something holds; fails with what was waited for if it never does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def tiny_config(**fields: object) -> UnipConfig:
    """A network that runs in milliseconds; any field may be set."""
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "last_layer_num_attention_heads": 4,
        "image_size": 64,
        "num_labels": 5,
        "auxiliary_channels": 8,
        "layer_scale_init_value": 1.0,
        "position_embedding_type": "learned",
    }
    return UnipConfig(**{**sizes, **fields})


STAGES = ["stage1", "stage2", "stage3", "stage4"]


def tiny_backbones() -> dict[str, PreTrainedConfig]:
    """Configurations of backbones of other libraries that run in milliseconds."""
    plain = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    return {
        "dinov2-registers": Dinov2WithRegistersConfig(
            **plain, patch_size=14, image_size=56, mlp_ratio=2, num_register_tokens=2
        ),
        "dinov3": DINOv3ViTConfig(**plain, intermediate_size=64, image_size=64, num_register_tokens=2),
        "swin": SwinConfig(
            embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2], window_size=4, out_features=STAGES
        ),
        "convnextv2": ConvNextV2Config(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], out_features=STAGES),
        "timm": TimmBackboneConfig(backbone="test_convnext", out_indices=[0, 1, 2, 3]),
    }


def tiny_backbone_config(backbone: str, **fields: object) -> UnipConfig:
    """A network with one of [`tiny_backbones`] in place of UNIP's encoder."""
    sizes = {"image_size": 64, "num_labels": 5, "decoder_channels": 16, "auxiliary_channels": 8}
    return UnipConfig(backbone_config=tiny_backbones()[backbone], **{**sizes, **fields})


def leave_start(model: PreTrainedModel) -> PreTrainedModel:
    """The model with what UniRGB-IR starts at zero moved away from it: without this, little of it gets a gradient."""
    for module in model.modules():
        if isinstance(module, UnipInjector):
            torch.nn.init.normal_(module.gamma)
            torch.nn.init.normal_(module.attention.offsets.weight, std=0.1)
            torch.nn.init.normal_(module.attention.weights.weight, std=0.1)
    return model


def save_checkpoint(model: PreTrainedModel, folder: str | os.PathLike) -> None:
    """Saves a model with an image processor for its channels, as every command does."""
    model.save_pretrained(folder)
    UnipImageProcessor(num_channels=getattr(model.config, "num_channels", 3)).save_pretrained(folder)


@pytest.fixture
def make_config() -> Callable[..., UnipConfig]:
    return tiny_config


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What `datasets` keeps, here and in processes that tests start, is no user's and no other worker's."""
    folder = tmp_path_factory.mktemp("datasets-cache")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        monkeypatch.setenv("HF_DATASETS_CACHE", str(folder))
        yield


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """A folder of 8-bit images, six to train and two to validate, with masks of three classes."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "street"
    for split, count in (("train", 6), ("validation", 2)):
        for kind, high in (("images", 250), ("masks", 3)):
            (folder / kind / split).mkdir(parents=True)
            for number in range(count):
                values = np.kron(generator.integers(0, high, (3, 4), dtype=np.uint8), np.ones((16, 16), np.uint8))
                Image.fromarray(values).save(folder / kind / split / f"{number}.png")
    (folder / "id2label.json").write_text('{"0": "cold", "1": "mild", "2": "warm"}')
    return folder


@pytest.fixture(scope="session")
def few_scenes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], AbstractContextManager]:
    """A context in which there are few drawn scenes, in a cache of their own: to draw all of them takes long."""
    folder = tmp_path_factory.mktemp("few-scenes")

    @contextmanager
    def draw_few() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as monkeypatch:
            few = {split: seeds[:8] for split, seeds in InfraredScenes.SEEDS.items()}
            monkeypatch.setattr(InfraredScenes, "SEEDS", few)
            monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
            yield

    return draw_few


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """A command gives the handlers of signals back: one that is left over would keep workers from ending."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.fixture
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")  # asked first, so that a test that is skipped makes nothing before
def real_images() -> Path:
    if not REAL_IMAGES.is_dir():
        pytest.skip("the real infrared images are not at hand")
    return REAL_IMAGES


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    sync_api = pytest.importorskip("playwright.sync_api")
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("there is no browser: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        sync_api.expect.set_options(timeout=STEP_TIMEOUT)
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()

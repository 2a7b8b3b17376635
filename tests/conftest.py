"""Shared by all tests: no network, tiny networks, golden vectors, real images where they are at hand."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
# Networks this small are fastest on one thread, and the processes that tests start do not fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unip_hf import UnipConfig


GOLDEN = Path(__file__).parent / "golden"
REAL_IMAGES = Path(__file__).parents[2] / "shared" / "data"


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


@pytest.fixture
def make_config() -> Callable[..., UnipConfig]:
    return tiny_config


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def golden() -> Path:
    return GOLDEN


@pytest.fixture
def real_images() -> Path:
    if not REAL_IMAGES.is_dir():
        pytest.skip("the real infrared images are not at hand")
    return REAL_IMAGES

"""What a training step must not do: make the host wait for the device, or forget the state of older runs."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from unip_hf import UnipForSemanticSegmentation
from unip_hf.finetuning import SegmentationLoss
from unip_hf.training.loop import send, update_average


class NoWaiting(TorchDispatchMode):
    """Refuses what would read a tensor's values on the host."""

    WAITS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function.overloadpacket not in self.WAITS, f"{function} waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "terms", [{}, {"class_weights": [1.0, 2.0, 3.0], "dice_loss_weight": 1.0, "focal_gamma": 2.0}]
)
def test_a_step_does_not_wait_for_the_device(
    terms: dict, make_config: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = UnipForSemanticSegmentation(make_config(num_labels=3, drop_path_rate=0.2)).train()
    monkeypatch.setattr(model, "_check_labels", lambda *_: None)  # on a device it does not read them
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    averaged = AveragedModel(model, use_buffers=True)
    batch = {
        "pixel_values": torch.randn(2, 1, 32, 32).expand(-1, 3, -1, -1),
        "labels": torch.randint(0, 3, (2, 32, 32), dtype=torch.uint8),
        "num_labelled": 2048,
    }
    with NoWaiting():
        for decay in (0.0, 0.9):
            SegmentationLoss(**terms)(model, batch).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            update_average(averaged, model, decay)
        with pytest.raises(AssertionError, match="waits"):
            averaged.update_parameters(model)


def test_the_moving_average_is_that_of_torch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    ours = AveragedModel(model, use_buffers=True)
    expected = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for step in range(3):
        model(torch.randn(8, 4)).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        update_average(ours, model, 0.9 if step else 0.0)
        expected.update_parameters(model)
    torch.testing.assert_close(ours.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert int(ours.n_averaged) == 3


def test_the_fused_optimizer_goes_on_from_the_state_of_another() -> None:
    torch.manual_seed(0)
    weights = torch.randn(5, 3)

    def step(optimizer: torch.optim.Optimizer) -> None:
        (parameter,) = optimizer.param_groups[0]["params"]
        parameter.grad = parameter.detach().sin()
        optimizer.step()

    old = torch.optim.AdamW([nn.Parameter(weights.clone())], weight_decay=0.1)
    new = torch.optim.AdamW([nn.Parameter(weights.clone())], weight_decay=0.1, fused=True)
    step(old), step(new)
    for source in (old, new):
        resumed = torch.optim.AdamW(
            [nn.Parameter(source.param_groups[0]["params"][0].detach().clone())], weight_decay=0.1, fused=True
        )
        resumed.load_state_dict(deepcopy(source.state_dict()))
        step(source), step(resumed)
        (after,), (of_source,) = (one.param_groups[0]["params"] for one in (resumed, source))
        assert torch.equal(after, of_source)
    torch.testing.assert_close(old.param_groups[0]["params"], new.param_groups[0]["params"])


def test_channels_that_are_the_same_travel_once() -> None:
    grey, colour = torch.randn(2, 1, 4, 4), torch.randn(2, 3, 4, 4)
    for images in (grey.expand(-1, 3, -1, -1), grey, colour):
        sent = send(images, torch.device("meta"))
        assert sent.shape == images.shape and sent.untyped_storage().nbytes() == images.untyped_storage().nbytes()
        assert torch.equal(send(images, torch.device("cpu")), images)

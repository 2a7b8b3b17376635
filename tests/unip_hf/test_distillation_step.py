"""A step of distillation, as a GPU needs it: no wait for the device, and one compiled graph for each network."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from unip_hf import UnipForPreTraining, UnipImageProcessor, UnipModel
from unip_hf.distillation import (
    ATTENTION,
    FEATURES,
    DistillationInput,
    Objective,
    StudentInput,
    Students,
    Teacher,
    masked_reconstruction,
)


MAE = masked_reconstruction(32, decoder_num_hidden_layers=1, decoder_hidden_size=16, decoder_num_attention_heads=2)
# What a GPU cannot do without telling the host a number: values, and shapes that depend on values.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "_unique2", "equal"}


class NoWaiting(TorchDispatchMode):
    """Refuses operators that would make the host wait for a GPU."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        is_masked = name in ("index", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        assert name not in WAITS and not is_masked, f"{function} waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.fixture
def make_step(make_config: Callable) -> Callable[[Objective], tuple[StudentInput, Students]]:
    """The input of two students and these, with drop path."""

    def make(objective: Objective) -> tuple[StudentInput, Students]:
        processor, inputs, teacher = UnipImageProcessor(), None, None
        if objective.ask is not None:
            teacher = Teacher(UnipModel(make_config(num_attention_heads=4, image_size=32)), 3)
            inputs = DistillationInput(teacher, processor, ask=objective.ask)
        students: dict[str, Any] = {}
        for name, depth in (("a", 2), ("b", 3)):
            config = make_config(
                num_hidden_layers=depth, image_size=32, drop_path_rate=0.5, layer_scale_init_value=None,
                last_layer_num_attention_heads=4, position_embedding_type="sincos",
            )  # fmt: skip
            students[name] = objective.prepare(UnipForPreTraining(config), teacher)
        return inputs or StudentInput(processor), Students(students, objective.loss, objective.answers).train()

    return make


@pytest.mark.parametrize("objective", [ATTENTION, FEATURES, MAE])
@pytest.mark.parametrize("is_half", [False, True])
def test_nothing_waits_for_the_device(objective: Objective, is_half: bool, make_step: Callable) -> None:
    inputs, students = make_step(objective)
    with NoWaiting():
        images = torch.zeros(4, 1, 32, 32, dtype=torch.uint8)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            losses = students(*inputs(images))
        losses.sum().backward()
        with pytest.raises(AssertionError, match="waits for the device"):
            losses.sum().item()
    assert losses.shape == (2,) and students["a"].config is not None


@pytest.mark.parametrize("objective", [ATTENTION, FEATURES, MAE])
def test_each_network_is_compiled_once(objective: Objective, make_step: Callable) -> None:
    torch.compiler.reset()
    inputs, students = make_step(objective)
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, example: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    for network in students.values():
        network.compile(backend=count, fullgraph=True)
    if inputs.teacher is not None:
        inputs.teacher.compile(backend=count, fullgraph=True)
    for step in range(3):
        images = torch.randint(256, (4, 1, 32, 32), dtype=torch.uint8)
        students(*inputs(images)).sum().backward()
        assert len(graphs) == len(students) + (inputs.teacher is not None), f"step {step}"

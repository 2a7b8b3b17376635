# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The part of `make bench` that is about pre-training: the loss, several students at once, input, and cost."""

import statistics
import tempfile
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from unip_hf import UnipConfig, UnipForPreTraining
from unip_hf.distillation import Students, attention_distillation_loss, chunked_attention_distillation_loss

from .measuring import median_milliseconds, row


SIZES = ("tiny", "small", "base")


class TensorMemory(TorchDispatchMode):
    """
    Counts the bytes of tensors, including fake ones, while it is active: what operators return and what [`add`] is
    given, until it is freed. Tensors that existed before do not count, nor does what operators need inside. For the
    loss below, `peak` equals the allocator's (torch.profiler), and the process grows by as much.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.known = WeakIdKeyDictionary()  # storages

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self.known:
            self.known[storage] = True
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._remove, storage.nbytes())

    def _remove(self, number: int) -> None:
        self.bytes -= number

    def _ignore(self, tensor: torch.Tensor) -> None:
        self.known.setdefault(tensor.untyped_storage(), True)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tree_map_only(torch.Tensor, self._ignore, (args, kwargs))
        result = function(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self.add, result)
        return result


def peak_memory(function: Callable[[], object]) -> float:
    """Peak memory of a function in MB, beside what existed before: the allocator's on a GPU, else that of tensors."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with TensorMemory() as memory:
        function()
    return memory.peak / 2**20


def measure_loss(repeats: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch_size, num_heads, num_tokens = 64, 16, 197
    # views of what one layer gives, as in networks
    students, teachers = (
        list(torch.randn(batch_size, num_tokens, 2, num_heads, width, device=device).permute(2, 0, 3, 1, 4).unbind())
        for width in (24, 64)
    )
    for tensor in students:
        tensor.requires_grad_()
    results: dict[Any, list[torch.Tensor]] = {}

    def run(loss_function: Callable[..., torch.Tensor]) -> None:
        loss = loss_function(*students, *teachers)
        gradients = torch.autograd.grad(loss, students)
        results[loss_function] = [loss.detach(), *gradients]
        if device == "cuda":
            torch.cuda.synchronize()

    functions = (chunked_attention_distillation_loss, attention_distillation_loss)
    times = median_milliseconds([partial(run, function) for function in functions], repeats)
    torch.testing.assert_close(*(results[f] for f in functions), rtol=1e-4, atol=1e-9)
    results.clear()
    memory = []
    for function in functions:
        memory.append(peak_memory(partial(run, function)))
        results.clear()
    print(
        f"chunked_attention_distillation_loss beside attention_distillation_loss, {batch_size} images, "
        f"{num_heads} heads, {num_tokens} tokens, on {device}"
    )
    row("forward and backward", times[0], times[1], "ms")
    row("peak memory beside the inputs", memory[0], memory[1], "MB")


def make_teacher(size: str, layer: int) -> UnipForPreTraining:
    """A frozen random network as large as a ViT of this size up to the queries and keys of a block."""
    config = UnipConfig.from_size(size, num_hidden_layers=layer)
    return UnipForPreTraining(config).eval().requires_grad_(False)


def make_students(sizes: Sequence[str], num_heads: int) -> Students:
    """Students with the teacher's heads in their last block."""
    options = {"last_layer_num_attention_heads": num_heads, "drop_path_rate": 0.1}
    return Students({size: UnipForPreTraining(UnipConfig.from_size(size, **options)) for size in sizes})


def make_optimizer(students: Students, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW([weight for weight in students.parameters() if weight.requires_grad], **settings)


def loss_of_students(
    teacher: UnipForPreTraining, students: Students, pixel_values: torch.Tensor, is_half: bool
) -> torch.Tensor:
    """One forward pass, under bf16 autocast if `is_half`."""
    with torch.autocast(pixel_values.device.type, torch.bfloat16, enabled=is_half):
        with torch.no_grad():
            block = teacher(pixel_values)
        return students(pixel_values, block.query, block.key).sum()


def measure_students(repeats: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch_size, repeats = (64, repeats) if device == "cuda" else (2, min(repeats, 3))
    with torch.device(device):
        teacher, students = make_teacher("large", 18), make_students(SIZES, num_heads=16).train()
    runs = [students, *(Students({size: student}) for size, student in students.items())]  # type: ignore[dict-item]
    optimizers = [make_optimizer(run) for run in runs]
    pixel_values = torch.randn(batch_size, 3, 224, 224, device=device)

    def step(*numbers: int) -> None:
        for number in numbers:
            loss = loss_of_students(teacher, runs[number], pixel_values, is_half=device == "cuda")
            loss.backward()
            optimizers[number].step()
            optimizers[number].zero_grad()
            loss.item()  # waits for the device

    together, alone = median_milliseconds([lambda: step(0), lambda: step(1, 2, 3)], repeats)
    print(f"tiny, small and base from one teacher (large, 18 blocks) together beside three runs, on {device}")
    row(f"training step, {batch_size} images, {'bf16' if device == 'cuda' else 'fp32'}", together, alone, "ms")


def published_input(paths: Sequence[Path], size: int = 224) -> None:
    """Reads images as the published code does: on the CPU, in three channels, to normalised floats."""
    from torchvision import transforms

    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, (0.2, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.3801] * 3, [0.1871] * 3),
        ]
    )
    for path in paths:
        with Image.open(path) as image:
            augment(image.convert("RGB").convert("L").convert("RGB"))


def draw_jpegs(folder: Path, number: int) -> None:
    """Draws infrared scenes of 640x512 pixels with sensor noise, stored in colour as many cameras do."""
    from unip_hf.data import draw_scene

    for seed in range(number):
        counts, _ = draw_scene(seed, 512, 640)
        low, high = np.percentile(counts, (1, 99))
        noise = np.random.default_rng(seed).normal(0, 5, counts.shape)
        grey = np.clip((counts - low) / (high - low) * 255 + noise, 0, 255).astype(np.uint8)
        Image.fromarray(grey).convert("RGB").save(folder / f"{seed:03d}.jpg", quality=90)


def measure_input(repeats: int, folder: Path | None = None) -> None:
    import datasets

    from unip_hf.data.grey_crops import GreyCrop, read_crops
    from unip_hf.data.infmix import InfMixSettings, find_infmix_sources, prepare_infmix

    features = datasets.Features({"image": datasets.Image(decode=False)})
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        if folder is None:
            folder = temporary / "images"
            folder.mkdir()
            draw_jpegs(folder, 64)
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:64]
        if not paths:
            raise ValueError(f"There are no JPEG files in {str(folder)!r}.")
        chosen = temporary / "chosen"
        chosen.mkdir()
        for number, path in enumerate(paths):
            (chosen / f"{number:03d}.jpg").symlink_to(path.resolve())
        prepare_infmix(find_infmix_sources([chosen]), temporary / "infmix", InfMixSettings(shortest_edge=256))
        table = datasets.concatenate_datasets(
            [
                datasets.Dataset.from_parquet(str(shard), cache_dir=name, columns=["image"], features=features)
                for shard in sorted((temporary / "infmix" / "data").glob("*.parquet"))
            ]
        )
        files = datasets.Dataset.from_dict({"image": [str(path) for path in paths]}, features=features)
        batches = [read_crops(rows, GreyCrop(), len(paths), num_workers=0) for rows in (files, table)]
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        calls: list[Callable[[], object]] = [partial(next, iterator) for iterator in batches]
        times = median_milliseconds([*calls, partial(published_input, paths)], repeats)
        torch.set_num_threads(num_threads)
        size = statistics.mean(path.stat().st_size for path in paths) / 1024
    on_files, on_shards, published = (1000 * len(paths) / time for time in times)
    print(f"grey crops beside the published input, one core, {len(paths)} JPEG files of {size:.0f} KB in the mean")
    row("the same files", on_files, published, "images/s")
    row("prepared grey shards, short side 256", on_shards, published, "images/s")


def trace_step(teacher: tuple[str, int], sizes: Sequence[str], batch_size: int) -> tuple[int, int, int]:
    """
    Follows training with tensors that have shapes but no content: a teacher in bf16, bf16 autocast, an update, and the
    first batch of the next update.

    Args:
        teacher: Size and block of the teacher.
        sizes: Sizes of the students.
        batch_size: Images at once on one device.

    Returns:
        Floating-point operations of the teacher and of the students (older versions of torch do not count those of
        attention, a few percent), and the peak memory in bytes.
    """
    with FakeTensorMode(), torch.device("cpu"):
        torch.set_default_dtype(torch.bfloat16)
        network = make_teacher(*teacher)
        torch.set_default_dtype(torch.float32)
        students = make_students(sizes, network.config.num_attention_heads).train()
        optimizer = make_optimizer(students)
        with TensorMemory() as memory, FlopCounterMode(display=False) as operations:
            for weight in [*network.parameters(), *students.parameters()]:
                memory.add(weight)
            pixel_values = torch.empty(batch_size, 3, 224, 224)
            for is_update in (True, False):
                loss_of_students(network, students, pixel_values, is_half=True).backward()
                if is_update:
                    optimizer.step()
    counts = operations.get_flop_counts()
    of_teacher = sum(counts["UnipForPreTraining"].values()) // 2
    return of_teacher, operations.get_total_flops() // 2 - of_teacher, memory.peak


def print_cost(tflops: float = 100.0, num_images: int = 100 * 209 * 4096) -> None:
    """
    Calculates what the published pre-training costs.

    Args:
        tflops: Sustained speed of a GPU in TFLOP/s.
        num_images: Images that the students see: 100 epochs of 209 updates of 4,096 images.
    """
    choices = [*((size,) for size in SIZES), SIZES]
    print(
        f"operations of the published recipe, {num_images / 1e6:.1f} M images: teacher, students, all; hours of a GPU "
        f"that sustains {tflops:.0f} TFLOP/s"
    )
    for teacher in (("large", 18), ("large", 21), ("base", 9)):
        for sizes in choices:
            of_teacher, of_students, _ = trace_step(teacher, sizes, 1)
            total = (of_teacher + of_students) * num_images
            print(
                f"  {teacher[0]:<6} block {teacher[1]:2d}   {' '.join(sizes):<18}{of_teacher / 1e9:8.1f} "
                f"{of_students / 1e9:8.1f} GFLOP/image{total / 1e18:8.1f} EFLOP{total / (tflops * 3.6e15):8.1f} h",
                flush=True,
            )
    print("memory of tensors on a GPU, GiB, teacher large up to block 18 in bf16, batch 64, 128, 256 on each device")
    for sizes in choices:
        peaks = [trace_step(("large", 18), sizes, batch_size)[2] / 2**30 for batch_size in (64, 128, 256)]
        print(f"  {' '.join(sizes):<30}" + "".join(f"{peak:8.1f}" for peak in peaks), flush=True)

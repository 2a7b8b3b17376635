# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of a run: everything it needs to go on as if it had never stopped."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import RNG_STATE_NAME, gather_object, load
from safetensors import SafetensorError
from torch import nn

from ..files import could_not_write, read_json, settle, write_whole


def find_checkpoint(output_dir: Path, which: str) -> Path:
    """
    The folder of a checkpoint.

    Args:
        output_dir (`Path`): Folder of the run.
        which (`str`): `"latest"`, or the path of a checkpoint.

    Raises:
        FileNotFoundError: if there is none.
    """
    if which != "latest":
        if not (Path(which) / "state.json").is_file():
            raise FileNotFoundError(f"{which!r} is not a checkpoint of a run: it has no state.json.")
        return Path(which)
    found = sorted((output_dir / "checkpoints").glob("step-*/state.json"))
    if not found:
        raise FileNotFoundError(
            f"There is no checkpoint to resume in '{output_dir}': leave out --resume_from_checkpoint to start anew."
        )
    return found[-1].parent


def save_checkpoint(
    accelerator: Accelerator, output_dir: Path, state: dict[str, Any], averaged_model: nn.Module | None = None
) -> None:
    """
    Writes `output_dir/checkpoints/step-...` whole, and then removes older checkpoints. If it exists, only its plain
    values are replaced. Every process calls this. All machines must see the folder.

    Args:
        accelerator: Its prepared models and optimizers are written, with the random states of all processes.
        output_dir (`Path`): Folder of the run.
        state (`dict`): Plain values, among them `"step"`.
        averaged_model (*optional*): The moving average of the weights.

    Raises:
        OSError: if it cannot be written, e.g. because the disk is full. Older checkpoints stay.
    """
    target = output_dir / "checkpoints" / f"step-{state['step']:08d}"
    if (target / "state.json").is_file():
        if accelerator.is_main_process:
            with write_whole(target / "state.json") as file:
                file.write_text(json.dumps(state))
        return
    staged = target.with_name(f".incomplete-{target.name}")
    if accelerator.is_main_process:
        shutil.rmtree(staged, ignore_errors=True)
    accelerator.wait_for_everyone()
    failure = None
    try:
        accelerator.save_state(str(staged))
        if accelerator.is_main_process:
            if averaged_model is not None:
                torch.save(averaged_model.state_dict(), staged / "averaged_model.bin")
            (staged / "state.json").write_text(json.dumps(state))
    except (OSError, RuntimeError, SafetensorError) as error:
        failure = could_not_write(target, error)
    failures = gather_object([] if failure is None else [str(failure)])  # waits for all processes, too
    if failures:
        if accelerator.is_main_process:
            shutil.rmtree(staged, ignore_errors=True)
        raise OSError(failures[0]) from failure
    if accelerator.is_main_process:
        try:
            settle(staged, new_folder=staged)  # before older ones go, because a power cut may come
            staged.rename(target)
        except OSError as error:
            raise could_not_write(target, error) from error
        for left_behind in list(target.parent.glob(".incomplete-step-*")):
            shutil.rmtree(left_behind, ignore_errors=True)
        for older in [folder for folder in target.parent.glob("step-*") if folder != target]:
            hidden = older.rename(older.with_name(f".incomplete-{older.name}"))  # half removed, it is no checkpoint
            shutil.rmtree(hidden, ignore_errors=True)
    accelerator.wait_for_everyone()


def load_checkpoint(
    accelerator: Accelerator, checkpoint: Path, averaged_model: nn.Module | None = None
) -> dict[str, Any]:
    """
    Loads what [`save_checkpoint`] wrote into the prepared models and optimizers, and returns the plain values.

    Raises:
        ValueError: if the checkpoint is damaged or belongs to another model or run.
    """
    try:
        accelerator.load_state(str(checkpoint))
        random_states = checkpoint / f"{RNG_STATE_NAME}_{accelerator.process_index}.pkl"
        # Accelerate goes on without those that it cannot read. Another number of processes lacks some.
        loaded = torch.get_rng_state()
        if random_states.is_file() and not torch.equal(load(random_states)["torch_manual_seed"], loaded):
            raise ValueError(f"{random_states.name} was not loaded")
        if averaged_model is not None:
            file = checkpoint / "averaged_model.bin"
            averaged_model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        return read_json(checkpoint / "state.json")
    except Exception as error:  # of many kinds, as its files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"The checkpoint '{checkpoint}' does not fit this run: {reason}") from error


__all__ = ["find_checkpoint", "load_checkpoint", "save_checkpoint"]

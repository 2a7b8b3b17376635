# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Published checkpoints: conversion to and from the models of this library."""

from .conversion import convert_checkpoint, read_checkpoint, to_published_state_dict


__all__ = ["convert_checkpoint", "read_checkpoint", "to_published_state_dict"]

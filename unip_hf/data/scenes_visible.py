# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""How a camera of visible light sees the drawn scenes, by day and by night."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .drawing import blur, smooth_noise


# Reflected share of red, green and blue light, 0 to 1. Objects of one class vary.
COLOURS = {
    "sky": (0.55, 0.7, 0.9), "ground": (0.35, 0.4, 0.2), "road": (0.2, 0.2, 0.21), "lane mark": (0.75, 0.75, 0.72),
    "building": (0.5, 0.42, 0.36), "window": (0.18, 0.22, 0.27), "lit window": (0.2, 0.23, 0.26),
    "tree": (0.13, 0.28, 0.1), "trunk": (0.2, 0.15, 0.1), "pole": (0.32, 0.33, 0.34), "lamp": (0.5, 0.5, 0.48),
    "car": (0.4, 0.4, 0.42), "glass": (0.1, 0.12, 0.14), "tyre": (0.05, 0.05, 0.05),
    "person": (0.4, 0.35, 0.35), "trousers": (0.12, 0.13, 0.2), "skin": (0.6, 0.45, 0.36),
}  # fmt: skip
VARIATION = {"building": 0.15, "tree": 0.05, "pole": 0.05, "car": 0.3, "person": 0.35}
SHINING = ("lamp", "lit window")  # at night


class Daylight(NamedTuple):
    """
    Args:
        light (`float`): What reaches every surface; 1 is full daylight.
        noise (`float`): Standard deviation of the camera's noise in grey levels.
        are_lights_on (`bool`): Whether lamps, windows and cars shine.
    """

    light: float
    noise: float
    are_lights_on: bool

    @classmethod
    def day(cls, generator: np.random.Generator) -> "Daylight":
        return cls(generator.uniform(0.5, 1.0), 2.0, are_lights_on=False)

    @classmethod
    def night(cls) -> "Daylight":
        return cls(0.0005, 3.5, are_lights_on=True)


class VisibleCanvas:
    """
    Colours and lights of a scene, painted together with its temperatures.

    Args:
        height, width: Size in pixels.
        generator: Draws colours and noise.
        daylight: Light of the scene.
    """

    def __init__(self, height: int, width: int, generator: np.random.Generator, daylight: Daylight):
        self.size = height, width
        self.generator = generator
        self.daylight = daylight
        self.colours = dict(COLOURS)
        self.reflection = Image.new("RGB", (width, height), self._levels("ground"))
        self.shine = Image.new("F", (width, height), 0.0)
        self.pens = ImageDraw.Draw(self.reflection), ImageDraw.Draw(self.shine)
        self.lights: list[tuple[float, float, float]] = []

    def begin(self, name: str) -> None:
        """A new object of a class: its colour differs from that of the others."""
        change = VARIATION[name] * self.generator.uniform(-1, 1, 3)
        self.colours[name] = tuple((np.array(COLOURS[name]) + change).clip(0.03, 0.95))

    def paint(self, shape: str, points: Sequence[tuple[float, float]], part: str) -> None:
        is_shining = self.daylight.are_lights_on and part in SHINING
        for pen, value in zip(self.pens, (self._levels(part), 0.5 * is_shining)):
            getattr(pen, shape)(points, fill=value)

    def light(self, x: float, y: float, radius: float) -> None:
        """A lamp that lights what is around it at night."""
        if self.daylight.are_lights_on:
            self.lights.append((x, y, radius))
            size = max(1.0, 0.08 * radius)
            self.pens[1].ellipse([(x - size, y - size), (x + size, y + size)], fill=0.9)

    def photograph(self) -> np.ndarray:
        """The image, uint8 `(height, width, 3)`."""
        rows, columns = np.mgrid[: self.size[0], : self.size[1]].astype(np.float32)
        light: np.ndarray = np.full(self.size, self.daylight.light, np.float32)
        for x, y, radius in self.lights:
            light += 0.08 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (0.5 * radius**2 + 1))
        light = light * (1 + 0.08 * smooth_noise(self.generator, *self.size, cell=10))
        reflection = np.asarray(self.reflection, np.float32) / 255  # (H, W, 3)
        radiance = reflection * light[..., None] + np.asarray(self.shine)[..., None] * np.array([1.0, 0.9, 0.65])
        blurred = np.stack([blur(radiance[..., channel], 0.8) for channel in range(3)], axis=-1)
        levels = 255 * blurred.clip(0, 1) ** (1 / 2.2)  # as cameras encode light
        levels += self.daylight.noise * self.generator.standard_normal(levels.shape)
        return np.round(levels.clip(0, 255)).astype(np.uint8)

    def _levels(self, part: str) -> tuple[int, ...]:
        return tuple(round(255 * float(share)) for share in self.colours[part])


__all__ = ["Daylight", "VisibleCanvas"]

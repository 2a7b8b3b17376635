# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Built-in infrared street scenes. They are drawn, not recorded, so that everything runs offline."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .drawing import blur, smooth_noise
from .scenes_visible import Daylight, VisibleCanvas


SCENE_CLASSES = ("sky", "ground", "road", "building", "tree", "pole", "car", "person")

KELVIN_PER_COUNT = 0.04  # linear radiometric output of common uncooled cameras


class _Canvas:
    """
    Surface temperature in degrees Celsius, emissivity and class id of every pixel, painted together.

    Args:
        height, width, temperature: Size in pixels, and temperature of the ground.
        visible (`VisibleCanvas`, *optional*): What a camera of visible light sees, painted along.
        hidden (`tuple[str, ...]`, *optional*): Classes that are as warm as what is behind them.
    """

    def __init__(
        self,
        height: int,
        width: int,
        temperature: float,
        visible: VisibleCanvas | None = None,
        hidden: tuple[str, ...] = (),
    ):
        self.layers = [
            Image.new("F", (width, height), value) for value in (temperature, 0.95, SCENE_CLASSES.index("ground"))
        ]
        self.pens = [ImageDraw.Draw(layer) for layer in self.layers]
        self.visible = visible
        self.hidden = hidden

    def begin(self, name: str) -> None:
        """A new object of a class, with colours of its own."""
        if self.visible is not None:
            self.visible.begin(name)

    def paint(
        self,
        shape: str,
        points: Sequence[tuple[float, float]],
        name: str,
        temperature: float,
        emissivity: float = 0.95,
        part: str | None = None,
    ) -> None:
        """Paints a shape of an object of class `name`. Its `part`, if it is one, has another colour."""
        for pen, value in zip(self.pens, (temperature, emissivity, SCENE_CLASSES.index(name))):
            if name not in self.hidden or pen is self.pens[-1]:
                getattr(pen, shape)(points, fill=value)
        if self.visible is not None:
            self.visible.paint(shape, points, part or name)

    def arrays(self) -> list[np.ndarray]:
        return [np.asarray(layer).copy() for layer in self.layers]


def _building(canvas: _Canvas, generator: np.random.Generator, horizon: float, left: float, ambient: float) -> float:
    width, height = generator.uniform(30, 80), generator.uniform(25, 0.9 * horizon)
    wall, base = ambient + generator.uniform(-2, 5), horizon + 6
    canvas.begin("building")
    canvas.paint("rectangle", [(left, horizon - height), (left + width, base)], "building", wall, 0.92)
    step = generator.uniform(9, 14)
    for y in np.arange(horizon - height + 5, base - 8, step):
        for x in np.arange(left + 4, left + width - 7, step):
            is_lit = generator.random() < 0.3
            part = "lit window" if is_lit else "window"
            glass = wall + generator.uniform(2, 6) if is_lit else wall - generator.uniform(0, 3)
            corners = [(x, y), (x + step / 2, y + step / 2)]
            canvas.paint("rectangle", corners, "building", glass, 0.85, part)
    return left + width


def _tree(canvas: _Canvas, generator: np.random.Generator, x: float, y: float, size: float, ambient: float) -> None:
    crown = ambient - generator.uniform(0, 3)
    canvas.begin("tree")
    trunk = [(x - 0.05 * size, y - 0.5 * size), (x + 0.05 * size, y)]
    canvas.paint("rectangle", trunk, "tree", ambient, part="trunk")
    for _ in range(9):
        cx, cy = x + generator.normal(0, 0.15) * size, y - (0.7 + generator.normal(0, 0.12)) * size
        r = generator.uniform(0.12, 0.24) * size
        canvas.paint("ellipse", [(cx - r, cy - r), (cx + r, cy + r)], "tree", crown + generator.normal(0, 0.6), 0.97)


def _pole(canvas: _Canvas, generator: np.random.Generator, x: float, y: float, size: float, ambient: float) -> None:
    metal, half = ambient + generator.uniform(-3, 3), max(1.0, 0.02 * size)
    canvas.begin("pole")
    canvas.paint("rectangle", [(x - half, y - 1.3 * size), (x + half, y)], "pole", metal, 0.7)
    arm = 0.25 * size * generator.choice([-1, 1])
    corners = [(min(x, x + arm), y - 1.3 * size), (max(x, x + arm), y - 1.3 * size + 2 * half)]
    canvas.paint("rectangle", corners, "pole", metal, 0.7, "lamp")
    if canvas.visible is not None:
        canvas.visible.light(x + arm, y - 1.3 * size, 0.5 * size)


def _car(canvas: _Canvas, generator: np.random.Generator, x: float, y: float, size: float, ambient: float) -> None:
    length, height, side = 1.1 * size, 0.36 * size, generator.choice([-1, 1])
    is_running = generator.random() < 0.6
    body, engine = ambient + generator.uniform(0, 4), generator.uniform(8, 20) if is_running else 0.0

    canvas.begin("car")

    def box(
        x0: float, y0: float, x1: float, y1: float, temperature: float, emissivity: float, part: str | None = None
    ) -> None:
        xs = sorted((x + side * x0 * length, x + side * x1 * length))
        corners = [(xs[0], y - y1 * height), (xs[1], y - y0 * height)]
        canvas.paint("rectangle", corners, "car", temperature, emissivity, part)

    box(-0.5, 0.2, 0.5, 0.7, body, 0.85)
    box(-0.35, 0.7, 0.15, 1.15, body, 0.85)
    box(-0.3, 0.75, 0.1, 1.05, body, 0.7, "glass")  # windows reflect the cold sky
    box(0.2, 0.3, 0.5, 0.7, body + engine, 0.9)
    radius = 0.25 * height
    for wheel in (-0.3, 0.3):
        cx, cy = x + wheel * length, y - 0.2 * height
        tyre = ambient + (generator.uniform(4, 12) if is_running else 0)
        wheel_box = [(cx - radius, cy - radius), (cx + radius, cy + radius)]
        canvas.paint("ellipse", wheel_box, "car", tyre, part="tyre")
    if is_running and canvas.visible is not None:
        canvas.visible.light(x + side * 0.5 * length, y - 0.5 * height, 0.25 * size)


def _person(canvas: _Canvas, generator: np.random.Generator, x: float, y: float, size: float, ambient: float) -> None:
    height = 0.55 * size
    canvas.begin("person")
    clothes, stride = max(ambient + 2, generator.uniform(20, 29)), generator.uniform(0.02, 0.12) * height
    for leg in (-1, 1):
        foot, hip = x + leg * stride, y - 0.5 * height
        points = [(x - 0.07 * height, hip), (x + 0.07 * height, hip), (foot + 1, y), (foot - 1, y)]
        canvas.paint("polygon", points, "person", clothes - 2, 0.97, "trousers")
    trunk = [(x - 0.13 * height, y - 0.85 * height), (x + 0.13 * height, y - 0.4 * height)]
    canvas.paint("ellipse", trunk, "person", clothes)
    r = 0.075 * height
    head = [(x - r, y - height), (x + r, y - height + 2.2 * r)]
    canvas.paint("ellipse", head, "person", generator.uniform(31, 35), 0.98, "skin")


def draw_scene(seed: int, height: int = 256, width: int = 320) -> tuple[np.ndarray, np.ndarray]:
    """
    Draws a street as a radiometric thermal camera sees it: surfaces with temperature and emissivity in front of a cold
    sky, with optical blur, fixed-pattern and temporal noise, as linear 16-bit output.

    Args:
        seed (`int`): The same seed gives the same scene.
        height, width (`int`, *optional*, default to 256 and 320): Size in pixels, at least 96.

    Returns:
        Counts, uint16 `(height, width)` of 0.04 K each (absolute temperature), and class ids, uint8 `(height, width)`,
        indices of `SCENE_CLASSES`.

    Raises:
        ValueError: if a side is shorter than 96 pixels.
    """
    return _draw(seed, height, width)


def draw_scene_pair(seed: int, height: int = 256, width: int = 320) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Draws the same street as a thermal camera and a camera of visible light beside it see it. What is hidden from one
    is seen by the other:

    - At night, the visible image is dark. Lamps, lit windows and the lights of cars are seen, and what stands close
      to them. The thermal image is that of [`draw_scene`].
    - By day, all is seen in the visible image. In the thermal one, persons are as warm as what is behind them
      ("thermal crossover") and cannot be seen; all else is as in [`draw_scene`].

    Half of the seeds are nights.

    Args:
        seed, height, width: As for [`draw_scene`], whose class ids the same seed gives.

    Returns:
        Counts, uint16 `(height, width)`; the visible image, uint8 `(height, width, 3)`; and class ids, uint8
        `(height, width)`.

    Raises:
        ValueError: if a side is shorter than 96 pixels.
    """
    generator = np.random.default_rng((seed, 1))  # its own, so that streets are those of draw_scene
    is_night = bool(generator.random() < 0.5)
    visible = VisibleCanvas(height, width, generator, Daylight.night() if is_night else Daylight.day(generator))
    counts, ids = _draw(seed, height, width, visible, () if is_night else ("person",))
    return counts, visible.photograph(), ids


def _draw(
    seed: int, height: int, width: int, visible: VisibleCanvas | None = None, hidden: tuple[str, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    if min(height, width) < 96:
        raise ValueError(f"A scene must have at least 96x96 pixels, got {width}x{height}.")
    generator = np.random.default_rng(seed)
    ambient = generator.uniform(-5, 25)
    horizon = height * generator.uniform(0.32, 0.5)
    canvas = _Canvas(height, width, ambient - 1, visible, hidden)

    canvas.paint("rectangle", [(0, 0), (width, horizon)], "sky", ambient - 10, 1.0)
    vanishing = width * generator.uniform(0.3, 0.7)
    left, right = vanishing - width * generator.uniform(0.4, 0.9), vanishing + width * generator.uniform(0.4, 0.9)
    road = ambient + generator.uniform(1, 7)
    corners = [(vanishing - 4, horizon), (vanishing + 4, horizon), (right, height), (left, height)]
    canvas.paint("polygon", corners, "road", road)
    for near, far in ((1.0, 0.8), (0.66, 0.52), (0.42, 0.34), (0.27, 0.22)):  # lane marks
        y0, y1 = horizon + near * (height - horizon), horizon + far * (height - horizon)
        middle = (left + right) / 2 - vanishing
        marks = [
            (vanishing + s * middle + d * s * 5, y)
            for s, y, d in ((far, y1, -1), (far, y1, 1), (near, y0, 1), (near, y0, -1))
        ]
        canvas.paint("polygon", marks, "road", road - 1.5, part="lane mark")

    x = generator.uniform(-40, 20)
    while x < width:
        x = _building(canvas, generator, horizon, x, ambient) + generator.uniform(0, 45)
    things = [_tree] * 4 + [_pole] * 2 + [_car] * 3 + [_person] * 4
    drawn = [things[i] for i in generator.integers(0, len(things), generator.integers(9, 16))]
    for depth, draw in sorted(zip(generator.uniform(0.06, 0.95, len(drawn)), drawn), key=lambda pair: pair[0]):
        y, size = horizon + depth * (height - horizon), 18 + 130 * depth
        road_left, road_right = (vanishing + depth * (edge - vanishing) for edge in (left, right))
        if draw in (_tree, _pole):  # beside the road
            side = generator.choice([-1, 1])
            x = (road_left if side < 0 else road_right) + side * generator.uniform(0.1, 0.9) * size
        else:
            x = generator.uniform(road_left, road_right)
        draw(canvas, generator, x, y, size, ambient)

    temperature, emissivity, ids = canvas.arrays()
    ids = ids.astype(np.uint8)
    is_sky = emissivity == 1  # also where a hidden person stands in front of it
    rows = np.arange(height, dtype=np.float32)[:, None]
    sky = ambient - 8 - 30 * np.clip(1 - rows / horizon, 0, 1) + 2 * smooth_noise(generator, height, width, 48)
    temperature += np.where(is_sky, 0, 0.7 * smooth_noise(generator, height, width, 12))
    temperature = np.where(is_sky, sky, temperature)
    # A surface shows its own temperature where it emits, and that of the sky where it reflects.
    apparent = emissivity * temperature + (1 - emissivity) * (ambient - 25)
    apparent = blur(apparent, generator.uniform(0.6, 1.0))
    apparent += 0.08 * generator.standard_normal((1, width)) + 0.06 * generator.standard_normal((height, width))
    counts = (apparent + 273.15) / KELVIN_PER_COUNT
    return np.round(counts).astype(np.uint16), ids


__all__ = ["SCENE_CLASSES", "draw_scene", "draw_scene_pair"]

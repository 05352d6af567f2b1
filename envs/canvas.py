"""Pictures in metres: rods, discs and arrows, drawn smoothly by pygame, without a display."""

from __future__ import annotations

import itertools
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium.error import DependencyNotInstalled

if TYPE_CHECKING:
    import pygame

Point = tuple[float, float]
Color = tuple[int, int, int]

PAPER: Color = (250, 250, 247)
INK: Color = (52, 58, 64)
PALE: Color = (206, 212, 218)
BLUE: Color = (66, 118, 178)
TEAL: Color = (54, 158, 148)
ORANGE: Color = (232, 119, 34)
GREEN: Color = (47, 158, 68)

FINE = 3  # Everything is drawn this much larger and then shrunk, which smooths all edges.


def load_pygame() -> Any:
    """The module pygame.

    Raises:
        DependencyNotInstalled: with the command that installs it.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame
    except ImportError as error:
        raise DependencyNotInstalled('to render, run `pip install "gymnasium[classic-control]"`') from error
    return pygame


class Canvas:
    """A picture of ``width x height`` pixels around the point `center`, `scale` pixels a metre, y upwards."""

    def __init__(self, width: int, height: int, scale: float, center: Point = (0.0, 0.0)) -> None:
        self._pygame = load_pygame()
        self.width, self.height, self.scale, self.center = width, height, scale, center
        self._surface = self._pygame.Surface((width * FINE, height * FINE), depth=32)
        self._surface.fill(PAPER)

    def disc(self, at: Point, radius: float, color: Color) -> None:
        """A filled disc."""
        self._pygame.draw.circle(self._surface, color, self._pixel(at), radius * self.scale * FINE)

    def ring(self, at: Point, radius: float, color: Color, width: float = 0.03) -> None:
        """A circle drawn with a line of this width."""
        w = max(1, round(width * self.scale * FINE))
        self._pygame.draw.circle(self._surface, color, self._pixel(at), radius * self.scale * FINE, w)

    def rod(self, a: Point, b: Point, width: float, color: Color) -> None:
        """A bar from a to b with round ends."""
        self.disc(a, width / 2, color)
        self.disc(b, width / 2, color)
        length = math.dist(a, b)
        if length > 0:
            x, y = (b[1] - a[1]) / length * width / 2, (a[0] - b[0]) / length * width / 2
            corners = [(a[0] + x, a[1] + y), (b[0] + x, b[1] + y), (b[0] - x, b[1] - y), (a[0] - x, a[1] - y)]
            self.polygon(corners, color)

    def polygon(self, corners: list[Point], color: Color) -> None:
        """A filled polygon."""
        self._pygame.draw.polygon(self._surface, color, [self._pixel(corner) for corner in corners])

    def box(self, center: Point, width: float, height: float, color: Color) -> None:
        """A filled rectangle with rounded corners."""
        (x, y), unit = self._pixel(center), self.scale * FINE
        rectangle = (x - width * unit / 2, y - height * unit / 2, width * unit, height * unit)
        radius = round(min(width, height) * unit / 5)
        self._pygame.draw.rect(self._surface, color, rectangle, border_radius=radius)

    def arrow(self, a: Point, b: Point, color: Color, width: float = 0.04) -> None:
        """An arrow from a to b; nothing where they coincide."""
        length = math.dist(a, b)
        if length < 1e-3:
            return
        head = min(3.5 * width, length)
        x, y = (b[0] - a[0]) / length, (b[1] - a[1]) / length
        neck = (b[0] - head * x, b[1] - head * y)
        self.rod(a, neck, width, color)
        self._head(neck, (x, y), head, color)

    def turn(self, at: Point, radius: float, turn: float, color: Color, width: float = 0.04) -> None:
        """An arrow round a point for a torque: counter-clockwise from the top by `turn` radians."""
        if abs(turn) < 0.02:
            return
        angles = math.pi / 2 + np.linspace(0.0, turn, max(3, math.ceil(abs(turn) / 0.1)))
        arc = [(at[0] + radius * math.cos(t), at[1] + radius * math.sin(t)) for t in angles]
        for a, b in itertools.pairwise(arc):
            self.rod(a, b, width, color)
        end, sign = float(angles[-1]), math.copysign(1.0, turn)
        self._head(arc[-1], (-sign * math.sin(end), sign * math.cos(end)), 3.5 * width, color)

    def surface(self) -> pygame.Surface:
        """The picture in its final size."""
        result: pygame.Surface = self._pygame.transform.smoothscale(self._surface, (self.width, self.height))
        return result

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The picture as ``[height, width, 3]``."""
        pixels = self._pygame.surfarray.array3d(self.surface())
        return np.ascontiguousarray(pixels.transpose(1, 0, 2), np.uint8)

    def _head(self, neck: Point, direction: Point, length: float, color: Color) -> None:
        (x, y), half = direction, 0.6 * length
        tip = (neck[0] + length * x, neck[1] + length * y)
        sides = [(neck[0] - half * y, neck[1] + half * x), (neck[0] + half * y, neck[1] - half * x)]
        self.polygon([tip, *sides], color)

    def _pixel(self, point: Point) -> Point:
        unit = self.scale * FINE
        return (
            self.width * FINE / 2 + (float(point[0]) - self.center[0]) * unit,
            self.height * FINE / 2 - (float(point[1]) - self.center[1]) * unit,
        )


class Window:
    """A window on the screen that shows canvases in real time."""

    def __init__(self, title: str) -> None:
        self._pygame, self._title = load_pygame(), title
        self._screen: Any = None
        self._clock = self._pygame.time.Clock()

    def show(self, canvas: Canvas, seconds: float) -> None:
        """Show a picture, and wait until `seconds` have passed since the last one."""
        if self._screen is None:
            self._pygame.display.init()
            self._screen = self._pygame.display.set_mode((canvas.width, canvas.height))
            self._pygame.display.set_caption(self._title)
        self._screen.blit(canvas.surface(), (0, 0))
        self._pygame.event.pump()
        self._clock.tick(1 / seconds)
        self._pygame.display.flip()

    def close(self) -> None:
        """Take the window off the screen."""
        self._pygame.display.quit()
        self._screen = None

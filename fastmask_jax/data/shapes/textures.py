"""Draws random patterns and colors with a given generator."""

import cv2
import numpy as np
from jaxtyping import Float32

TEXTURES = ("plain", "noise", "stripes", "checks", "gradient", "spots")

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def random_colors(
    rng: np.random.Generator, number: int, saturation: tuple[float, float]
) -> Float32[np.ndarray, "number 3"]:
    """Draws RGB colors 0 … 255, uniform in hue, in saturation within the given range, and in brightness."""
    hsv = np.stack(
        [rng.uniform(0, 360, number), rng.uniform(*saturation, number), rng.uniform(0.2, 1, number)],
        axis=1,
        dtype=np.float32,
    )
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0] * 255


def distinct_color(
    rng: np.random.Generator, others: Float32[np.ndarray, "m 3"], candidates: int, saturation: tuple[float, float]
) -> Float32[np.ndarray, "3"]:
    """Draws random RGB colors and returns the one farthest from all `others`; brightness counts twice."""
    colors = random_colors(rng, candidates, saturation)

    def place(rgb: Float32[np.ndarray, "k 3"]) -> Float32[np.ndarray, "k 4"]:
        return np.concatenate([rgb, 2 * (rgb @ _LUMA)[:, None]], axis=1)

    distances = np.linalg.norm(place(colors)[:, None] - place(others)[None], axis=2)
    return colors[distances.min(axis=1).argmax()]


def texture(
    rng: np.random.Generator, kind: str, height: int, width: int, color: Float32[np.ndarray, "3"], contrast: float
) -> Float32[np.ndarray, "height width 3"]:
    """Draws RGB pixels of a pattern around `color`; may exceed 0 … 255.

    Args:
      rng: generator of the pattern's position, direction and scale.
      kind: one of TEXTURES.
      height, width: pixels.
      color: RGB, mean of the pattern.
      contrast: amplitude of the pattern, in levels out of 255.
    """
    pattern = _pattern(rng, kind, height, width)
    tint = rng.uniform(0.6, 1.0, 3).astype(np.float32) * np.float32(contrast)
    return color + pattern[:, :, None] * tint


def _pattern(rng: np.random.Generator, kind: str, height: int, width: int) -> Float32[np.ndarray, "height width"]:
    """Returns values of about −1 … 1."""
    if kind == "plain":
        return np.zeros((height, width), np.float32)
    if kind == "noise":
        cells = rng.uniform(4, 14)
        grid = rng.uniform(-1, 1, (max(2, round(height / cells)), max(2, round(width / cells)))).astype(np.float32)
        return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    along, across = _turned(rng, height, width)
    if kind == "gradient":
        return along / max(np.abs(along).max(), np.float32(1))
    period = rng.uniform(6, 20)
    along, across = along * np.float32(2 * np.pi / period), across * np.float32(2 * np.pi / period)
    if kind == "stripes":
        return np.clip(2 * np.sin(along), -1, 1)
    if kind == "checks":
        return np.clip(3 * np.sin(along) * np.sin(across), -1, 1)
    if kind == "spots":
        return np.clip(4 * np.sin(along) * np.sin(across) - 2, -1, 1)
    raise ValueError(f"no texture {kind!r}; there are {', '.join(TEXTURES)}")


def _turned(rng: np.random.Generator, height: int, width: int) -> tuple[Float32[np.ndarray, "h w"], ...]:
    """Returns pixel coordinates along and across a random direction, relative to a random point."""
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x = np.arange(width, dtype=np.float32)[None] - np.float32(rng.uniform(0, width))
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(rng.uniform(0, height))
    return cos * x + sin * y, cos * y - sin * x

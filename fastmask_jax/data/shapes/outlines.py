"""Outlines of drawn objects: closed curves around the origin, scaled to a longest side."""

import numpy as np
from jaxtyping import Float

SHAPES = ("ellipse", "rectangle", "rounded", "star", "polygon", "blob", "ring", "crescent")

_CIRCLE = 48  # points of a round curve

Curve = Float[np.ndarray, "points 2"]


def outline(rng: np.random.Generator, shape: str, longest_side: float) -> list[Curve]:
    """Returns the curves (x, y) in pixels of a shape with random proportions and direction, centered at the origin.

    The first curve is the outside. A point inside an odd number of curves belongs to the shape (a ring has two).

    Args:
      rng: generator of proportions and direction.
      shape: one of SHAPES.
      longest_side: longest side of the shape's box, in pixels.
    """
    curves = _unit(rng, shape)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.array([1.0, rng.uniform(0.35, 1.0)])
    curves = [(curve * stretch) @ turn.T for curve in curves]
    low, high = curves[0].min(axis=0), curves[0].max(axis=0)
    return [(curve - (low + high) / 2) * (longest_side / (high - low).max()) for curve in curves]


def _unit(rng: np.random.Generator, shape: str) -> list[Curve]:
    """Returns curves of a shape with similar width and height."""
    if shape == "ellipse":
        return [_circle()]
    if shape == "rectangle":
        return [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)]
    if shape == "rounded":
        power = rng.uniform(0.25, 0.6)  # |x|^(2/p) + |y|^(2/p) = 1
        circle = _circle()
        return [np.sign(circle) * np.abs(circle) ** power]
    if shape == "star":
        points = int(rng.integers(4, 8))
        radius = np.tile([1.0, rng.uniform(0.4, 0.65)], points)
        return [_polar(np.arange(2 * points) * np.pi / points, radius)]
    if shape == "polygon":
        corners = int(rng.integers(3, 8))
        angles = (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * 2 * np.pi / corners
        return [_polar(angles, rng.uniform(0.7, 1.0, corners))]
    if shape == "blob":
        angles = np.arange(_CIRCLE) * 2 * np.pi / _CIRCLE
        waves = np.arange(2, 6)
        size, phase = rng.uniform(0, 0.5, len(waves)) / waves, rng.uniform(0, 2 * np.pi, len(waves))
        return [_polar(angles, 1 + (size * np.cos(angles[:, None] * waves + phase)).sum(axis=1))]
    if shape == "ring":
        return [_circle(), _circle() * rng.uniform(0.4, 0.65)]
    if shape == "crescent":
        return [_crescent(rng.uniform(0.45, 0.75))]
    raise ValueError(f"no shape {shape!r}; there are {', '.join(SHAPES)}")


def _polar(angles: Float[np.ndarray, "n"], radius: Float[np.ndarray, "n"]) -> Curve:
    return radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _circle() -> Curve:
    return _polar(np.arange(_CIRCLE) * 2 * np.pi / _CIRCLE, np.ones(_CIRCLE))


def _crescent(bite: float) -> Curve:
    """Returns the left part of a circle, closed by an arc through the same two points, 1 − `bite` as deep."""
    angles = np.linspace(0.3 * np.pi, 1.7 * np.pi, _CIRCLE // 2)
    outer = _polar(angles, np.ones(len(angles)))
    inner = outer[::-1].copy()
    chord = outer[0, 0]  # x where the arcs meet
    inner[:, 0] = chord + (inner[:, 0] - chord) * (1 - bite)
    return np.concatenate([outer, inner[1:-1]])

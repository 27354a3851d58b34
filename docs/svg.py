"""A small SVG writer for the drawings of the documentation."""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

INK, FAINT, PAPER, PANEL = "#1f2933", "#9aa5b1", "#ffffff", "#f2f4f7"


class Drawing:
    """SVG elements, collected; coordinates in pixels of the picture."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._elements: list[str] = []

    def add(self, tag: str, text: str = "", **attributes: object) -> None:
        """One element; an underscore in an attribute's name stands for a hyphen."""
        written = "".join(f' {name.replace("_", "-")}="{short(value)}"' for name, value in attributes.items())
        self._elements.append(f"<{tag}{written}>{escape(text)}</{tag}>" if text else f"<{tag}{written}/>")

    def rectangle(self, x: float, y: float, width: float, height: float, **style: object) -> None:
        self.add("rect", x=x, y=y, width=width, height=height, **{"fill": "none", "stroke": INK, **style})

    def text(self, x: float, y: float, text: str, **style: object) -> None:
        self.add("text", text, x=x, y=y, **{"fill": INK, "font_size": 13, **style})

    def line(self, *points: tuple[float, float], **style: object) -> None:
        path = " ".join(f"{short(x)},{short(y)}" for x, y in points)
        self.add("polyline", points=path, **{"fill": "none", "stroke": INK, **style})

    def arrow(self, *points: tuple[float, float], color: str = INK) -> None:
        self.line(*points, stroke=color, stroke_width=1.5)
        (x1, y1), (x2, y2) = points[-2:]
        along = np.array([x2 - x1, y2 - y1], float) / np.hypot(x2 - x1, y2 - y1)
        across = np.array([-along[1], along[0]])
        tip = np.array([x2, y2], float)
        corners = [tip, tip - 8 * along + 4 * across, tip - 8 * along - 4 * across]
        self.add("polygon", points=" ".join(f"{short(x)},{short(y)}" for x, y in corners), fill=color)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        lines: Sequence[str],
        stroke: str = INK,
        font_size: int = 13,
    ) -> None:
        """A labeled block of a diagram."""
        self.rectangle(x, y, width, height, rx=5, fill=PANEL, stroke=stroke)
        for number, text in enumerate(lines):
            at = y + height / 2 + 5 + 16 * (number - (len(lines) - 1) / 2)
            self.text(x + width / 2, at, text, text_anchor="middle", font_size=font_size)

    def dots(self, points: Iterable[tuple[float, float]], radius: float, color: str) -> None:
        """Small filled circles."""
        path = "".join(f"M{short(x)} {short(y)}h0" for x, y in points)
        self.add("path", d=path, stroke=color, stroke_width=2 * radius, stroke_linecap="round")

    def svg(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="Helvetica, Arial, DejaVu Sans, sans-serif">'
        )
        paper = f'<rect width="{self.width}" height="{self.height}" rx="6" fill="{PAPER}"/>'
        return "\n".join([head, paper, *self._elements, "</svg>", ""])


def short(value: object) -> str:
    """Two digits after the point at most, and none that say nothing."""
    if isinstance(value, int | float | np.number):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return escape(str(value))

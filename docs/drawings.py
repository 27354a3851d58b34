"""The drawings of docs/how_it_works.md, made from the code's own geometry and labels.

PYTHONPATH=. python docs/drawings.py                    # writes docs/pictures/*.svg
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from svg import FAINT, INK, PANEL, PAPER, Drawing, short

from fastmask_jax.configs import coco
from fastmask_jax.data.labels import LabelSpec, WindowLabels, label_windows
from fastmask_jax.geometry import WINDOW, all_windows, level_sizes, resized_size, window_boxes, window_grids

CONFIG = coco.get_config()
STRIDES = tuple(CONFIG.model.strides)
LABELS = LabelSpec(**CONFIG.labels)
ORIGINAL = (480, 640)  # of the image that is drawn: (height, width), COCO's most frequent size
(LONG_EDGE,) = CONFIG.evaluation.long_edges
RESIZED = resized_size(*ORIGINAL, LONG_EDGE)
OBJECT = (330, 225, 190, 140)  # x, y, width, height of the drawn object, in resized pixels
POINT = (400, 300)  # x, y, in resized pixels, around which one window of each level is drawn

BLUE, ORANGE, GREEN, RED, VIOLET = "#2563b8", "#d9730d", "#1a8a4a", "#c8303a", "#7a3fb0"
SHADES = ("#2563b8", "#d9730d", "#1a8a4a", "#c8303a", "#7a3fb0", "#0e8c99", "#8a6d1a")  # one for each level


def _streams() -> list[list[int]]:
    """Strides by stream: those of a stream are its first one, doubled and doubled."""
    first = [stride for stride in STRIDES if stride / 2 not in STRIDES]
    return [
        [stride for stride in STRIDES if stride % base == 0 and (stride // base).bit_count() == 1] for base in first
    ]


def pyramid() -> Drawing:
    """From the image to the levels, all drawn with cells of the same size."""
    drawing = Drawing(980, 510)
    cell = 3
    sizes = dict(zip(STRIDES, level_sizes(*RESIZED, STRIDES), strict=True))
    grids = dict(zip(STRIDES, window_grids(*RESIZED, STRIDES), strict=True))
    drawing.box(15, 200, 95, 70, ["image", f"{RESIZED[1]} × {RESIZED[0]}"])
    drawing.box(135, 200, 95, 70, ["body, stages", "1 to 3: stride 8"], font_size=12)
    drawing.arrow((110, 235), (135, 235))
    for row, (strides, color) in enumerate(zip(_streams(), (BLUE, ORANGE), strict=True)):
        middle = 130 + 215 * row
        drawing.box(262, middle - 27, 82, 54, ["stage 4:", f"stride {strides[0]}"], stroke=color)
        drawing.arrow((230, 235), (246, 235), (246, middle), (262, middle))
        x = 385
        for number, stride in enumerate(strides):
            h, w = sizes[stride]
            drawing.arrow((x - 40, middle), (x - 4, middle), color=color)
            if number:
                drawing.text(x - 24, middle - 8, "neck", text_anchor="middle", font_size=12)
            y = middle - h * cell / 2
            _cells(drawing, x, y, h, w, cell, color)
            i, j = (h - WINDOW) // 2, (w - WINDOW) // 2
            if min(i, j) >= 0:  # else the window reaches beyond the map
                place = x + j * cell, y + i * cell
            else:
                place = x + (w - WINDOW) * cell / 2, y + (h - WINDOW) * cell / 2  # around the map
            drawing.rectangle(*place, WINDOW * cell, WINDOW * cell, stroke=RED, stroke_width=2)
            rows, columns = grids[stride]
            notes = [f"stride {stride}", f"{h} × {w} cells", f"{rows * columns:,} windows", f"of {WINDOW * stride} px"]
            for line, note in enumerate(notes):
                weight = "bold" if line == 0 else "normal"
                drawing.text(x, middle + 82 + 15 * line, note, font_size=12, font_weight=weight)
            x += max(w * cell, 92) + 42
    drawing.text(303, 240, "the same weights", text_anchor="middle", font_size=12)
    total = len(all_windows(*RESIZED, STRIDES))
    drawing.text(
        15,
        30,
        f"Red: one window of {WINDOW} × {WINDOW} cells. It is the same for the heads on every level; "
        f"in the image it is {WINDOW} strides wide.",
        font_size=14,
    )
    drawing.text(
        15, 495, f"{total:,} windows in all, of an image of {ORIGINAL[1]} × {ORIGINAL[0]} at long edge {LONG_EDGE}."
    )
    return drawing


def _cells(drawing: Drawing, x: float, y: float, h: int, w: int, cell: float, color: str) -> None:
    drawing.rectangle(x, y, w * cell, h * cell, stroke=color, fill=PANEL)
    lines = [f"M{short(x + k * cell)} {short(y)}v{h * cell}" for k in range(1, w)]
    lines += [f"M{short(x)} {short(y + k * cell)}h{w * cell}" for k in range(1, h)]
    drawing.add("path", d="".join(lines), stroke=color, stroke_width=0.25, fill="none")


def windows() -> Drawing:
    """One window of every level around a point; and all windows of one level."""
    drawing = Drawing(980, 460)
    scale = 0.3
    nearest = [(level, round(POINT[1] / s), round(POINT[0] / s)) for level, s in enumerate(STRIDES)]
    left, top = 120, 175
    _image(drawing, left, top, scale)
    for (level, _, _), box in zip(nearest, window_boxes(np.array(nearest, np.int32), STRIDES).tolist(), strict=True):
        x1, y1, x2, y2 = (side * scale for side in box)
        color = SHADES[level]
        drawing.rectangle(left + x1, top + y1, x2 - x1, y2 - y1, stroke=color, stroke_width=2)
        corner = y1 + 13 if level % 2 else y2 - 4  # in turn, so that they do not meet
        drawing.text(left + x1 + 4, top + corner, str(STRIDES[level]), fill=color, font_size=12)
    drawing.text(20, 24, "The window of each level whose center is nearest to one point.", font_size=14)
    drawing.text(20, 44, "Numbers: strides. Outside the image (gray) there are zeros.", font_size=14)

    left, level = 630, STRIDES.index(48)
    stride = STRIDES[level]
    _image(drawing, left, top, scale)
    every = all_windows(*RESIZED, STRIDES)
    centers = every[every[:, 0] == level][:, :0:-1] * stride * scale + [left, top]
    drawing.dots(centers.tolist(), 2, INK)
    for window, color in (((level, 0, 0), RED), ((level, 5, 8), BLUE)):
        x1, y1, x2, y2 = (side * scale for side in window_boxes(np.array([window], np.int32), STRIDES)[0].tolist())
        drawing.rectangle(left + x1, top + y1, x2 - x1, y2 - y1, stroke=color, stroke_width=2)
        drawing.add("circle", cx=left + (x1 + x2) / 2, cy=top + (y1 + y2) / 2, r=4, fill=color)
        name = f"({window[1]}, {window[2]})"
        halo = {"stroke": PAPER, "stroke_width": 4, "paint_order": "stroke"}
        drawing.text(left + x1 + 4, top + y1 + 15, name, fill=color, font_size=12, **halo)
    rows, columns = window_grids(*RESIZED, STRIDES)[level]
    drawing.text(
        530, 24, f"All {rows} × {columns} windows of stride {stride}, by their centers; two drawn.", font_size=14
    )
    drawing.text(530, 44, f"Window (i, j) is centered at row {stride}·i and column {stride}·j of pixels.", font_size=14)
    return drawing


def _image(drawing: Drawing, x: float, y: float, scale: float) -> None:
    height, width = RESIZED
    drawing.rectangle(x, y, width * scale, height * scale, stroke=FAINT, fill=PANEL)


def fits() -> Drawing:
    """Which sizes of objects fit a window of which level, with two streams and with one."""
    drawing = Drawing(980, 390)
    left, right, low, high = 150, 950, 55, 950

    def place(side: float) -> float:
        return left + (right - left) * np.log(side / low) / np.log(high / low)

    drawing.text(20, 28, "Longest side of an object's box for which a window of a level is right:", font_size=14)
    drawing.text(
        20,
        48,
        f"{LABELS.fit_low} to {LABELS.fit_high} of the window's side, which is {WINDOW} strides.",
        font_size=14,
    )
    streams = _streams()
    for level, stride in enumerate(STRIDES):
        y = 70 + 30 * level
        color = BLUE if stride in streams[0] else ORANGE
        a, b = (place(share * WINDOW * stride) for share in (LABELS.fit_low, LABELS.fit_high))
        drawing.text(20, y + 15, f"stride {stride}")
        drawing.rectangle(a, y, b - a, 20, rx=3, fill=color, stroke="none", fill_opacity=0.85)
        ends = [f"{share * WINDOW * stride:.0f}" for share in (LABELS.fit_low, LABELS.fit_high)]
        drawing.text(a + 5, y + 15, ends[0], fill=PAPER, font_size=12)
        drawing.text(b - 5, y + 15, ends[1], fill=PAPER, font_size=12, text_anchor="end")
    ratio = max(ORIGINAL) / max(RESIZED)
    for row, (title, factor) in enumerate(
        ((f"px at long edge {LONG_EDGE}", 1.0), (f"px of {ORIGINAL[1]} × {ORIGINAL[0]}", ratio))
    ):
        y = 305 + 42 * row
        drawing.text(20, y + 4, title, font_size=12)
        drawing.line((left, y), (right, y))
        for tick in (50, 75, 100, 150, 200, 300, 400, 600, 800):
            if low <= tick / factor <= high:
                x = place(tick / factor)
                drawing.line((x, y - 4), (x, y + 4))
                drawing.text(x, y + 19, str(tick), text_anchor="middle", font_size=12)
    return drawing


def positive() -> Drawing:
    """A window that is right for an object, and the labels of all windows of three levels."""
    drawing = Drawing(980, 600)
    level = next(n for n, s in enumerate(STRIDES) if _fits(max(OBJECT[2:]), s))
    labels = label_windows(np.array([OBJECT], np.int64), np.array([False]), RESIZED, RESIZED, STRIDES, LABELS)
    matched = np.flatnonzero((labels.windows[:, 0] == level) & labels.positive)
    window = labels.windows[matched[-1]]
    _anatomy(drawing, window, 20, 55, 340)
    x = 510
    for number, at in enumerate((level - 1, level, level + 1)):
        y = 55 + 180 * number
        _labeled(drawing, labels, at, x, y, 0.22)
        words = ("too small windows", "the right size", "too large windows")[number]
        drawing.text(x + 212, y + 20, f"stride {STRIDES[at]}: {words}", font_size=14, font_weight="bold")
        of_level = labels.windows[:, 0] == at
        counts = (
            (f"{int((of_level & labels.positive).sum())} positive", GREEN),
            (f"{int((of_level & labels.hard_negative).sum())} hard negatives", RED),
            (f"{int((of_level & ~labels.positive & ~labels.hard_negative).sum()):,} not trained on", FAINT),
        )
        for line, (text, color) in enumerate(counts):
            drawing.add("circle", cx=x + 217, cy=y + 41 + 20 * line, r=4, fill=color)
            drawing.text(x + 230, y + 46 + 20 * line, text)
    drawing.text(20, 30, "A positive window of this object", font_size=14, font_weight="bold")
    drawing.text(510, 30, "Labels of the windows of three levels, at their centers", font_size=14, font_weight="bold")
    return drawing


def _fits(side: float, stride: int) -> bool:
    return LABELS.fit_low * WINDOW * stride <= side <= LABELS.fit_high * WINDOW * stride


def _anatomy(drawing: Drawing, window: np.ndarray, left: float, top: float, side: float) -> None:
    """A window with its cells, the object in it, and what makes it positive."""
    stride = STRIDES[int(window[0])]
    x1, y1, x2, _ = window_boxes(window[None], STRIDES)[0].tolist()
    scale = side / (x2 - x1)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (x - x1) * scale, top + (y - y1) * scale

    for k in range(WINDOW + 1):
        p = k * side / WINDOW
        drawing.line((left + p, top), (left + p, top + side), stroke=FAINT, stroke_width=0.5)
        drawing.line((left, top + p), (left + side, top + p), stroke=FAINT, stroke_width=0.5)
    x, y, width, height = OBJECT
    bx, by = at(x, y)
    drawing.add("path", d=_blob(bx, by, width * scale, height * scale), fill=BLUE, fill_opacity=0.35)
    drawing.rectangle(bx, by, width * scale, height * scale, stroke=BLUE, stroke_width=2)
    middle = left + side / 2, top + side / 2
    for share, color, dash in (
        (1.0, RED, "none"),
        (LABELS.fit_low, VIOLET, "6 4"),
        (LABELS.fit_high, VIOLET, "6 4"),
        (LABELS.center, GREEN, "none"),
    ):
        half = share * side / 2
        drawing.rectangle(
            middle[0] - half, middle[1] - half, 2 * half, 2 * half, stroke=color, stroke_width=2, stroke_dasharray=dash
        )
    cx, cy = at(x + width / 2, y + height / 2)
    drawing.add("circle", cx=cx, cy=cy, r=5, fill=BLUE)
    notes = (
        (RED, f"the window: {WINDOW} × {WINDOW} cells of stride {stride}, {WINDOW * stride} × {WINDOW * stride} px"),
        (BLUE, f"the object, its box of {width} × {height} px, the box's center"),
        (VIOLET, f"its longest side must lie between these: {LABELS.fit_low} to {LABELS.fit_high} of the side"),
        (GREEN, f"its center must lie in here: {LABELS.center:g} of the side, along both axes"),
    )
    for line, (color, text) in enumerate(notes):
        y = top + side + 28 + 22 * line
        drawing.rectangle(left, y - 10, 12, 12, stroke=color, stroke_width=2)
        drawing.text(left + 22, y, text)


def _blob(x: float, y: float, width: float, height: float) -> str:
    """A shape that touches all four sides of its box."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = 1 + 0.18 * np.cos(3 * angle) + 0.06 * np.sin(5 * angle)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    points = (points - points.min(0)) / np.ptp(points, axis=0) * [width, height] + [x, y]
    return "M" + "L".join(f"{short(px)} {short(py)}" for px, py in points) + "Z"


def _labeled(drawing: Drawing, labels: WindowLabels, level: int, left: float, top: float, scale: float) -> None:
    _image(drawing, left, top, scale)
    x, y, width, height = (part * scale for part in OBJECT)
    drawing.add("path", d=_blob(left + x, top + y, width, height), fill=BLUE, fill_opacity=0.35)
    kinds = (
        (~labels.positive & ~labels.hard_negative, FAINT, 1.0),
        (labels.hard_negative, RED, 2.0),
        (labels.positive, GREEN, 2.6),
    )
    for chosen, color, radius in kinds:
        windows = labels.windows[chosen & (labels.windows[:, 0] == level)]
        drawing.dots((windows[:, :0:-1] * STRIDES[level] * scale + [left, top]).tolist(), radius, color)


def neck() -> Drawing:
    """The residual neck."""
    hidden = CONFIG.model.neck_hidden
    drawing = Drawing(980, 200)
    drawing.box(20, 75, 120, 60, ["map of stride s", "1024 channels"])
    drawing.box(200, 75, 120, 60, ["3×3 convolution", f"{hidden}, ReLU"])
    drawing.box(365, 75, 120, 60, ["1×1 convolution", "1024"])
    drawing.add("circle", cx=540, cy=105, r=14, fill=PANEL, stroke=INK)
    drawing.text(540, 111, "+", text_anchor="middle", font_size=18)
    drawing.box(600, 75, 130, 60, ["2×2 average", "pooling, ReLU"])
    drawing.box(790, 75, 150, 60, ["map of stride 2s", "1024 channels"])
    drawing.arrow((140, 105), (200, 105))
    drawing.arrow((320, 105), (365, 105))
    drawing.arrow((485, 105), (526, 105))
    drawing.arrow((554, 105), (600, 105))
    drawing.arrow((730, 105), (790, 105))
    drawing.arrow((170, 105), (170, 45), (540, 45), (540, 91))
    drawing.text(
        20,
        180,
        "One set of weights for every step of both streams. A new one is average pooling: convolutions near zero.",
    )
    return drawing


def heads() -> Drawing:
    """The two heads over a window."""
    model = CONFIG.model
    drawing = Drawing(980, 300)
    wide = f"10×10×{model.channels}"
    drawing.box(20, 120, 120, 60, ["a window", wide], stroke=RED)
    drawing.box(215, 30, 150, 60, ["fully connected", f"{model.objectness_widths[0]}, ReLU, dropout"])
    drawing.box(410, 30, 150, 60, ["fully connected", f"{model.objectness_widths[1]}, ReLU"])
    drawing.box(605, 30, 150, 60, ["fully connected, 1", "sigmoid"])
    drawing.box(800, 30, 150, 60, ["objectness", "of every window"], stroke=GREEN)
    drawing.box(215, 215, 150, 60, ["fully connected, 100", "sigmoid"])
    drawing.text(385, 262, "10×10 attention", font_size=12)
    drawing.add("circle", cx=470, cy=150, r=14, fill=PANEL, stroke=INK)
    drawing.text(470, 156, "×", text_anchor="middle", font_size=18)
    drawing.box(525, 120, 110, 60, [str(model.mask_width), "then a norm"])
    drawing.box(665, 120, 110, 60, ["1600:", "40×40 logits"])
    drawing.box(805, 120, 145, 60, ["mask 160×160", "of the best windows"], stroke=GREEN)
    drawing.arrow((140, 150), (456, 150))
    drawing.arrow((178, 150), (178, 60), (215, 60))
    drawing.arrow((178, 150), (178, 245), (215, 245))
    drawing.arrow((365, 245), (470, 245), (470, 164))
    for a, b, y in ((365, 410, 60), (560, 605, 60), (755, 800, 60), (484, 525, 150), (635, 665, 150), (775, 805, 150)):
        drawing.arrow((a, y), (b, y))
    drawing.text(525, 205, "fully connected", font_size=12)
    drawing.text(665, 205, "fully connected", font_size=12)
    drawing.text(805, 205, "bilinear ×4, fixed", font_size=12)
    return drawing


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "pyramid": pyramid,
    "neck": neck,
    "windows": windows,
    "heads": heads,
    "fits": fits,
    "positive": positive,
}


def write(folder: Path) -> Iterable[Path]:
    """Writes every drawing to `folder`/NAME.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        path = folder / f"{name}.svg"
        path.write_text(draw().svg(), encoding="utf-8")
        yield path


if __name__ == "__main__":
    for written in write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"):
        print(written)

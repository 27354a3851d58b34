"""Defines all options of `propose`."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypedDict, Unpack, cast

import numpy as np

from fastmask_jax.config_schema import SECTIONS
from fastmask_jax.data.exif import Exif, check_exif
from fastmask_jax.errors import InvalidInput

_FLAG = bool | np.bool_
_WHOLE, _NUMBER = (Integral, "an integer"), (Real, "a number")  # includes NumPy's types
_WANTED = {
    "count": _WHOLE,
    "score_threshold": _NUMBER,
    "nms_iou": _NUMBER,
    "min_area": _NUMBER,
    "min_part": _NUMBER,
    "fill_holes": _NUMBER,
    "mask_threshold": _NUMBER,
    "extra_thresholds": (tuple, "a tuple of probabilities"),
    "stability_weight": _NUMBER,
    "rerank_iou": _NUMBER,
    "exif": (str, "'ignore' or 'apply'"),
    "candidates": _WHOLE,
    "long_edges": (tuple, "an integer or several"),
    "flip": (_FLAG, "True or False"),
    "tile": (Integral | str, "a number of pixels, 'off' or 'auto'"),
    "tile_overlap": _NUMBER,
    "max_pixels": _WHOLE,
    "batch_size": _WHOLE,
}
_OF_CONFIG = (
    *("mask_threshold", "extra_thresholds", "stability_weight", "rerank_iou", "exif", "long_edges"),
    *("tile", "tile_overlap", "max_pixels"),
)
_EVALUATION = SECTIONS["evaluation"]
_RANGES = {  # ranges of the corresponding settings
    "count": _EVALUATION["proposals"],
    "candidates": _EVALUATION["proposals"],
    **{name: _EVALUATION[name] for name in _OF_CONFIG if name not in ("exif", "tile_overlap")},
    "batch_size": _EVALUATION["batch_size"],
}


class OptionsByName(TypedDict, total=False):
    """The fields of `ProposeOptions` as keyword arguments, for editors to complete and type checkers to check."""

    count: int
    score_threshold: float
    nms_iou: float
    min_area: float | int
    min_part: float | int
    fill_holes: float | int
    mask_threshold: float | None
    extra_thresholds: Sequence[float] | None
    stability_weight: float | None
    rerank_iou: float | None
    exif: Exif | None
    candidates: int | None
    long_edges: int | Sequence[int] | None
    flip: bool
    tile: int | str | None
    tile_overlap: float | int | None
    batch_size: int
    max_pixels: int | None


@dataclass(frozen=True)
class ProposeOptions:
    """Options for proposing and filtering.

    `count`, `score_threshold`, `nms_iou` and `min_area` filter decoded masks. `Proposals.filtered` applies them later,
    without the network.

    Attributes:
      count: maximum number of proposals, highest scores first.
      score_threshold: minimum score (objectness), 0 to 1.
      nms_iou: 0 to 1. A proposal is removed if its mask IoU with a kept proposal of a higher score is above this;
        computed on the masks, not the boxes. 1: no suppression.
      min_area: minimum mask area, in pixels of the original image.
      min_part: connected parts of a returned mask that have fewer pixels of the original image are removed; below 1, a
        share of the mask's pixels. The largest part always stays.
      fill_holes: holes in a returned mask that have at most this many pixels of the original image are filled; below 1,
        a share of the mask's pixels.
      mask_threshold: minimum probability for a mask pixel, between 0 and 1; lower values give larger masks. None: the
        config's `evaluation.mask_threshold`.
      extra_thresholds: further thresholds, such as (0.2, 0.8): each window also gives a mask at each of them, with a
        lower score (see `masks.odds`), so that long lists have more outlines to choose from. (): none. Not used with
        tiles, nor with `nms_iou`, which would remove most of them. None: the config's `evaluation.extra_thresholds`.
      stability_weight: 0 or more. The odds of each score are multiplied by the stability of its mask (see
        `masks.stability`) to this power, so that sharp masks rank first. 0: off. None: the config's
        `evaluation.stability_weight`.
      rerank_iou: 0 to 1. A proposal whose mask IoU with one of a higher score is above this gets a lower score (see
        `masks.odds`); nothing is removed. 1: no reranking. None: the config's `evaluation.rerank_iou`.
      exif: "ignore": masks refer to the pixels as stored, as in COCO; "apply": to the image turned upright by its EXIF
        orientation. None: the config's `evaluation.exif`.
      candidates: number of windows decoded before suppression, reranking and filtering. None: `count`, or at least the
        config's `evaluation.proposals` with `nms_iou`, `min_area`, `stability_weight` or `rerank_iou`.
      long_edges: one or several test scales: long edge of the resized image, in pixels. Larger scales find smaller
        objects, at a cost that grows with the square. Proposals of several scales are merged; many objects are then
        found twice, so set `rerank_iou` or `nms_iou`. None: the config's `evaluation.long_edges`.
      flip: also propose in the mirrored image and merge: twice the time for somewhat better proposals, with many
        duplicates.
      tile: side of tiles, in pixels of the original image. Larger images are also divided into tiles of this side, to
        find small objects; each tile takes as long as an image. Proposals of the tiles and of the whole image are
        merged (see `masks.seams`), and `count` limits the merged ones. "auto": tiles as large as the largest of
        `long_edges`, for images of more than twice that. "off": no tiles. None: the config's `evaluation.tile`.
      tile_overlap: minimum overlap of neighboring tiles in pixels; below 1, a fraction of the tile; at most half of it.
        An object of up to this size is whole in some tile. None: the config's `evaluation.tile_overlap`.
      batch_size: images per device and batch; it changes results only by rounding.
      max_pixels: maximum height times width of an image file or PIL image, in its own pixels; larger ones are refused
        before they are decoded. None: the config's `evaluation.max_pixels`.
    """

    count: int = 100
    score_threshold: float = 0.0
    nms_iou: float = 1.0
    min_area: float | int = 0
    min_part: float | int = 0
    fill_holes: float | int = 0
    mask_threshold: float | None = None
    extra_thresholds: Sequence[float] | None = None
    stability_weight: float | None = None
    rerank_iou: float | None = None
    exif: Exif | None = None
    candidates: int | None = None
    long_edges: int | Sequence[int] | None = None
    flip: bool = False
    tile: int | str | None = None
    tile_overlap: float | int | None = None
    batch_size: int = 1
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.long_edges is not None:
            several = np.ndim(self.long_edges) == 1 and not isinstance(self.long_edges, str)
            object.__setattr__(
                self, "long_edges", tuple(cast(Sequence[int], self.long_edges)) if several else (self.long_edges,)
            )
        if isinstance(self.tile, str) and self.tile.isdecimal():  # as given in configs and commands
            object.__setattr__(self, "tile", int(self.tile[:20]))
        if self.extra_thresholds is not None and not isinstance(self.extra_thresholds, str):
            object.__setattr__(self, "extra_thresholds", tuple(np.atleast_1d(self.extra_thresholds).tolist()))
        for field in dataclasses.fields(self):
            self._check_type(field.name, *_WANTED[field.name])
        for name, kind in _RANGES.items():
            if getattr(self, name) is not None:
                kind.check(name, getattr(self, name))
        self._check("score_threshold", 0 <= self.score_threshold <= 1, "an objectness between 0 and 1")
        self._check("nms_iou", 0 <= self.nms_iou <= 1, "an IoU between 0 and 1 (1: no suppression)")
        self._check("min_area", self.min_area >= 0, "a number of pixels")
        for name in ("min_part", "fill_holes"):
            self._check(name, getattr(self, name) >= 0, "a number of pixels, or a share below 1")
        if self.exif is not None:
            check_exif(self.exif)
        if self.tile_overlap is not None:
            most = self.tile // 2 if isinstance(self.tile, Integral) else np.inf
            good = 0 <= self.tile_overlap <= 0.5 or 1 <= self.tile_overlap <= most
            self._check("tile_overlap", good, "pixels, or a share below 1; at most half of the tile")

    def _check(self, name: str, good: bool, wanted: str) -> None:
        if not good:
            raise InvalidInput(f"{name}={getattr(self, name)!r}: expected {wanted}")

    def _check_type(self, name: str, wanted: Any, said: str) -> None:
        value = getattr(self, name)
        good = isinstance(value, wanted) and (wanted is _FLAG or not isinstance(value, _FLAG))
        self._check(name, good or (value is None and getattr(type(self), name) is None), said)

    def changed(self, **changes: Unpack[OptionsByName]) -> "ProposeOptions":
        """Returns these options with some changes.

        Raises:
          ValueError: an unknown option, or a value out of range.
        """
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                (near,) = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
                raise InvalidInput(f"{name}: no such option of propose; did you mean {near}?")
        return dataclasses.replace(self, **changes)

    def with_defaults(self, evaluation: Mapping[str, Any]) -> "ProposeOptions":
        """Returns these options with the values of a config's `evaluation` section in place of None."""
        taken = {name: evaluation[name] for name in _OF_CONFIG if getattr(self, name) is None}
        options = dataclasses.replace(self, **taken)
        if options.candidates is None:
            filtered = options.nms_iou < 1 or options.min_area > 0
            ranked = cast(float, options.rerank_iou) < 1 or cast(float, options.stability_weight) > 0
            wanted = max(options.count, evaluation["proposals"]) if filtered or ranked else options.count
            options = dataclasses.replace(options, candidates=wanted)
        return options

"""What a user can choose about proposals: all options, with their meaning, in one place."""

import dataclasses
import difflib
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from fastmask_jax.errors import InvalidInput

_FLAG = bool | np.bool_
_WHOLE, _NUMBER = (Integral, "a whole number"), (Real, "a number")  # NumPy's count as well
_WANTED = {
    "count": _WHOLE,
    "score_threshold": _NUMBER,
    "nms_iou": _NUMBER,
    "min_area": _NUMBER,
    "mask_threshold": _NUMBER,
    "candidates": _WHOLE,
    "long_edge": _WHOLE,
    "flip": (_FLAG, "True or False"),
    "batch_size": _WHOLE,
}


@dataclass(frozen=True)
class ProposeOptions:
    """How the proposals of an image are found and which of them are returned.

    `count`, `score_threshold`, `nms_iou` and `min_area` choose among masks that are already made: they can be changed
    afterwards, without the network, by `ObjectProposals.filtered`.

    Attributes:
      count: at most this many proposals are returned, those of highest objectness.
      score_threshold: proposals of a lower objectness, 0 to 1, are left out.
      nms_iou: 0 to 1. A proposal is left out where its mask has a greater IoU with that of a better one that stays;
        exact, on the masks. 1: none is.
      min_area: proposals whose mask has fewer pixels of the original image are left out.
      mask_threshold: probability, above 0 and below 1, from which on a pixel belongs to a mask; lower gives larger
        masks. None: the config's `evaluation.mask_threshold`.
      candidates: how many windows of highest objectness become masks before any of them is left out. None: `count`;
        or at least the config's `evaluation.proposals` where `nms_iou` or `min_area` may leave some out.
      long_edge: the test scale: pixels of the resized image's longer side. Larger finds smaller objects, at a cost
        that grows with its square. None: the config's `evaluation.long_edge`.
      flip: propose in the mirror image, too, and merge: twice the time for somewhat better proposals. An object is
        then often found twice, so `nms_iou` is worth setting.
      batch_size: images that each device works on at a time. Results do not depend on which images share a batch; from
        one batch size to another they may differ by rounding.
    """

    count: int = 100
    score_threshold: float = 0.0
    nms_iou: float = 1.0
    min_area: float | int = 0
    mask_threshold: float | None = None
    candidates: int | None = None
    long_edge: int | None = None
    flip: bool = False
    batch_size: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_type(field.name, *_WANTED[field.name])
        self._check("count", self.count >= 1, "at least 1")
        self._check("score_threshold", 0 <= self.score_threshold <= 1, "an objectness between 0 and 1")
        self._check("nms_iou", 0 <= self.nms_iou <= 1, "an IoU between 0 and 1 (1: no suppression)")
        self._check("min_area", self.min_area >= 0, "a number of pixels")
        threshold = self.mask_threshold
        self._check("mask_threshold", threshold is None or 0 < threshold < 1, "a probability between 0 and 1, or None")
        self._check("candidates", self.candidates is None or self.candidates >= 1, "at least 1, or None")
        self._check("long_edge", self.long_edge is None or self.long_edge >= 4, "at least 4 pixels, or None")
        self._check("batch_size", self.batch_size >= 1, "at least 1")

    def _check(self, name: str, good: bool, wanted: str) -> None:
        if not good:
            raise InvalidInput(f"{name}={getattr(self, name)!r}: {wanted} is wanted")

    def _check_type(self, name: str, wanted: Any, said: str) -> None:
        value = getattr(self, name)
        good = isinstance(value, wanted) and (wanted is _FLAG or not isinstance(value, _FLAG))
        self._check(name, good or (value is None and getattr(type(self), name) is None), said)

    def changed(self, **changes: Any) -> "ProposeOptions":
        """The same options but for some.

        Errors:
          ValueError: no such option, or a value out of its range.
        """
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                (near,) = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
                raise InvalidInput(f"{name}: no such option of propose; did you mean {near}?")
        return dataclasses.replace(self, **changes)

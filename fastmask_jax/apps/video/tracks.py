"""Tracks objects: matches the masks of a frame to those of earlier frames by IoU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from fastmask_jax.errors import InvalidInput

LEAST_IOU = 0.3  # minimum mask IoU of an object in consecutive frames
MEMORY = 15  # number of frames that an object may be missing


class Followed(NamedTuple):
    """The object of each mask of a frame.

    Attributes:
      tracks: int64[m], object numbers, from 1 in order of appearance; never reused.
      slots: int64[m], indices into a list of colors. An object keeps its slot until it is dropped; then the slot is
        reused, so that few simultaneous objects use the first, most distinct colors.
    """

    tracks: Int64[np.ndarray, "m"]
    slots: Int64[np.ndarray, "m"]


@dataclass
class _Track:
    number: int
    slot: int
    mask: Mapping[str, Any]  # its last mask
    seen: int  # frame of that mask


class Tracker:
    """Tracks objects through the frames of one video."""

    def __init__(self, least_iou: float = LEAST_IOU, memory: int = MEMORY) -> None:
        """
        Args:
          least_iou: minimum IoU of a mask with the last mask of its track; above 0.
          memory: number of frames without a match after which a track is dropped.
        """
        if not 0 < least_iou <= 1:
            raise InvalidInput(f"least_iou={least_iou}: an IoU above 0, at most 1, such as {LEAST_IOU}")
        self._least_iou = least_iou
        self._memory = memory
        self._tracks: list[_Track] = []
        self._frame = 0
        self._begun = 0

    def follow(self, masks: Sequence[Mapping[str, Any]]) -> Followed:
        """Matches the masks of the next frame to tracks, by the assignment that maximizes total IoU.

        Args:
          masks: RLE, all of the video's size. An unmatched mask starts a new track.
        """
        self._frame += 1
        self._tracks = [track for track in self._tracks if self._frame - track.seen <= self._memory + 1]
        followed: list[_Track | None] = [None] * len(masks)
        if masks and self._tracks:
            iou = np.asarray(
                coco_mask.iou(list(masks), [track.mask for track in self._tracks], [0] * len(self._tracks))
            )
            iou[iou < self._least_iou] = 0  # otherwise many weak pairs could outweigh a good one
            for mask, track in zip(*linear_sum_assignment(iou, maximize=True), strict=True):
                if iou[mask, track] > 0:
                    followed[mask] = self._tracks[track]
        for number, mask in enumerate(masks):
            track = followed[number] = followed[number] or self._begin(mask)
            track.mask, track.seen = mask, self._frame
        return Followed(
            np.array([track.number for track in followed], np.int64),
            np.array([track.slot for track in followed], np.int64),
        )

    def _begin(self, mask: Mapping[str, Any]) -> _Track:
        self._begun += 1
        used = {track.slot for track in self._tracks}
        slot = next(slot for slot in range(len(used) + 1) if slot not in used)
        self._tracks.append(_Track(self._begun, slot, mask, self._frame))
        return self._tracks[-1]

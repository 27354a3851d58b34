"""Bounds of the IoU of masks that are much cheaper than the IoU itself."""

import numpy as np
from jaxtyping import Float64, Real


def greatest_iou(
    edges: Real[np.ndarray, "4 a"],
    areas: Real[np.ndarray, "a"],
    other_edges: Real[np.ndarray, "4 b"],
    other_areas: Real[np.ndarray, "b"],
) -> Float64[np.ndarray, "a b"]:
    """Returns the greatest IoU that each pair of masks can have by boxes and areas.

    Args:
      edges, other_edges: x1, y1, x2, y2 of boxes around the masks.
      areas, other_areas: areas of the masks in pixels.
    """
    x1, y1, x2, y2 = other_edges
    left, top, right, bottom = edges[:, :, None]
    width = np.minimum(x2, right) - np.maximum(x1, left)
    height = np.minimum(y2, bottom) - np.maximum(y1, top)
    box = np.maximum(width, 0) * np.maximum(height, 0)
    return iou(np.minimum(box, np.minimum(areas[:, None], other_areas)), areas[:, None], other_areas)


def iou(
    shared: Real[np.ndarray, "..."], area: Real[np.ndarray, "..."], other_area: Real[np.ndarray, "..."]
) -> Float64[np.ndarray, "..."]:
    """Returns the IoU of masks with these areas and intersections; 0 for two empty ones.

    Rounded like the division in pycocotools, so a bound of the intersection gives a bound of the rounded IoU.
    """
    return shared / np.maximum(area + other_area - shared, 1.0)

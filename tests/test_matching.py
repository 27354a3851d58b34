"""Matching of proposals with objects: each shortcut compared with plain loops over all pairs."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from fastmask_jax.evaluation.matching import Pairs, box_pairs, found_objects, mask_pairs
from fastmask_jax.masks.iou_bounds import greatest_iou

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def found_by_loops(iou, wanted, threshold, cap):
    """Each of the first `cap` proposals takes the free object with the greatest IoU, of several the last."""
    taken = set()
    for row in iou[:cap]:
        free = [n for n in range(iou.shape[1]) if wanted[n] and n not in taken and row[n] >= threshold]
        if free:
            taken.add(max(free, key=lambda n: (row[n], n)))
    return len(taken)


@st.composite
def scenes(draw):
    """Draws IoUs that are often equal, or at a threshold, and objects to find: (IoU [m, n], wanted [areas, n])."""
    m, n, areas = draw(st.integers(0, 12)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    values = st.sampled_from([0.0, 0.3, 0.49, *THRESHOLDS.tolist(), 0.72, 1.0])
    return draw(arrays(np.float64, (m, n), elements=values)), draw(arrays(bool, (areas, n)))


@settings(max_examples=200)
@given(scenes(), st.lists(st.integers(0, 14), min_size=1, max_size=3, unique=True))
def test_all_thresholds_ranges_and_caps_at_once_equal_loops(scene, caps):
    iou, wanted = scene
    caps = sorted(caps)
    proposal, target = np.nonzero(iou >= THRESHOLDS[0])
    found = found_objects(Pairs(proposal, target, iou[proposal, target]), wanted, THRESHOLDS, caps)
    for t, threshold in enumerate(THRESHOLDS):
        for a, chosen in enumerate(wanted):
            assert found[t, a].tolist() == [found_by_loops(iou, chosen, threshold, cap) for cap in caps]


@st.composite
def bitmaps(draw):
    """Draws masks of one image in large pixels, so that IoUs are often exactly 1/2: (proposals, objects)."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    masks = st.lists(arrays(np.uint8, (height, width), elements=st.integers(0, 1)), max_size=8)
    return draw(masks), [mask for mask in draw(masks) if mask.any()]


@settings(max_examples=200)
@given(bitmaps(), st.sampled_from([0.1, 0.5, 2 / 3, 1.0]))
def test_boxes_and_areas_rule_out_no_pair_that_matches(drawn, least):
    masks, targets = drawn
    rles, wanted = ([coco_mask.encode(np.asfortranarray(mask)) for mask in some] for some in drawn)
    boxes = np.array([coco_mask.toBbox(rle) for rle in rles]).reshape(-1, 4)
    edges = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).T
    areas = np.array([mask.sum() for mask in masks], np.int64)
    pairs = mask_pairs(rles, areas, edges, wanted, least)
    expected = {}
    for m, mask in enumerate(masks):
        for n, target in enumerate(targets):
            iou = (mask & target).sum() / (mask | target).sum()
            if iou >= least:
                expected[m, n] = iou
    found = zip(pairs.proposal.tolist(), pairs.target.tolist(), pairs.iou.tolist(), strict=True)
    assert {(m, n): iou for m, n, iou in found} == expected
    bounds = greatest_iou(edges, areas, edges, areas)
    for m, mask in enumerate(masks):
        for n, other in enumerate(masks):
            assert bounds[m, n] >= (mask & other).sum() / max((mask | other).sum(), 1)


@settings(max_examples=100)
@given(arrays(np.int64, (6, 4), elements=st.integers(-2, 9)), arrays(np.int64, (3, 4), elements=st.integers(1, 9)))
def test_pairs_of_boxes_equal_loops(boxes, targets):
    expected = {}
    for m, (x, y, width, height) in enumerate(boxes.tolist()):
        for n, (left, top, across, down) in enumerate(targets.tolist()):
            shared = [min(x + width, left + across) - max(x, left), min(y + height, top + down) - max(y, top)]
            if min(shared) > 0:
                both = shared[0] * shared[1]
                iou = both / (width * height + across * down - both)
                if iou >= 0.5:
                    expected[m, n] = iou
    pairs = box_pairs(boxes.astype(np.float64), targets.astype(np.float64), 0.5)
    found = zip(pairs.proposal.tolist(), pairs.target.tolist(), pairs.iou.tolist(), strict=True)
    assert {(m, n): iou for m, n, iou in found} == expected

"""Training pictures, on images that are bright inside the masks of their objects."""

import gc
import weakref

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fastmask_jax.data.batch_plan import BatchPlan
from fastmask_jax.data.pipeline import BatchLoader, TrainSpec
from fastmask_jax.data.records import Record
from fastmask_jax.geometry import window_boxes
from fastmask_jax.masks.drawing import distinct_colors
from fastmask_jax.models.fastmask import Decoded
from fastmask_jax.training import progress_pictures
from fastmask_jax.training.progress_pictures import (
    TrainingPictures,
    attention_picture,
    label_picture,
    lay_back,
    objects_of,
    prediction_picture,
)
from tests.tiny import compilations, label_spec

STRIDES = (16, 24, 32, 48)
LONG_EDGE = 256
BRIGHT = 160


def make_record(number: int) -> Record:
    """Returns a record of an asymmetric shape on a dark background."""
    mask = np.zeros((192, 256), np.uint8)
    corner = np.array([60 + 20 * number, 40])
    shape = np.array([[0, 0], [70, 10], [95, 60], [40, 45], [20, 110]]) + corner
    cv2.fillPoly(mask, [shape.astype(np.int32)], 1)
    image = np.where(mask[..., None] > 0, np.uint8(BRIGHT), np.uint8(40)).repeat(3, axis=-1)
    rle = coco_mask.encode(np.asfortranarray(mask))
    return Record(
        image_id=7 + number,
        file_name=f"{number}.png",
        height=192,
        width=256,
        image_bytes=cv2.imencode(".png", image)[1].tobytes(),
        object_ids=np.array([1]),
        boxes=coco_mask.toBbox(rle)[None].astype(np.float32),
        areas=np.array([mask.sum()], np.float32),
        crowd=np.array([False]),
        rles=[rle],
    )


@pytest.fixture(scope="module")
def batch():
    records = [make_record(number) for number in range(2)]
    plan = BatchPlan(
        np.full(2, 192),
        np.full(2, 256),
        np.ones(2, bool),
        batch_size=2,
        buckets=((256, 320),),
        long_edge_max=LONG_EDGE,
        seed=0,
    )
    spec = TrainSpec(STRIDES, (LONG_EDGE,), label_spec(score_positives=4, score_negatives=4, mask_positives=8))
    return BatchLoader(records, spec, plan, range(2), 0)(0)


def without_windows(batch):
    return batch._replace(mask_weights=0 * batch.mask_weights, score_weights=0 * batch.score_weights)


def truth(batch, row: int) -> np.ndarray:
    height, width = batch.size[row]
    return batch.image[row, :height, :width, 0] > (BRIGHT + 40) // 2


def recording(function, record):
    """Wraps a function to pass its arguments to `record` first."""

    def called(*args, **kwargs):
        record(*args, **kwargs)
        return function(*args, **kwargs)

    return called


@pytest.mark.parametrize("row", [0, 1])
def test_targets_laid_back_cover_the_object_that_the_image_shows(batch, row):
    shown = truth(batch, row)
    windows = batch.mask_windows[row, batch.mask_weights[row] > 0]
    assert len(windows) >= 2
    for window, box, target in zip(windows, window_boxes(windows, STRIDES), batch.mask_targets[row], strict=False):
        laid = lay_back(target, box, shown.shape)
        if STRIDES[window[0]] == 16:  # cells are pixels
            np.testing.assert_array_equal(laid, shown)
        assert (laid & shown).sum() / (laid | shown).sum() > 0.96
        mirrored = lay_back(target[:, ::-1].copy(), box, shown.shape)
        assert (mirrored & shown).sum() / (mirrored | shown).sum() < 0.9


def test_the_label_picture_marks_the_object_where_the_image_shows_it(batch, monkeypatch):
    monkeypatch.setattr(progress_pictures, "SHOWN_SIDE", LONG_EDGE)
    monkeypatch.setattr(progress_pictures, "dots", lambda image, *args, **kwargs: image)
    panels = []
    monkeypatch.setattr(progress_pictures, "captioned", lambda panel, caption: panels.append(panel) or panel)
    label_picture(batch, 0, STRIDES)
    shown = truth(batch, 0)
    reddened = panels[0][..., 0].astype(int) > panels[0][..., 2] + 20
    rim = cv2.dilate(shown.astype(np.uint8), np.ones((5, 5))) > cv2.erode(shown.astype(np.uint8), np.ones((5, 5)))
    assert reddened[shown & ~rim].mean() > 0.97  # except for a dark line of the box
    assert reddened[~shown & ~rim].mean() < 0.03  # the box


def test_masks_are_grouped_by_what_they_show():
    masks = np.zeros((5, 20, 20), bool)
    masks[0, :8], masks[1, 12:], masks[2, :9], masks[3, 13:], masks[4, 9:11] = True, True, True, True, True
    assert objects_of(masks).tolist() == [0, 1, 0, 1, 2]
    assert objects_of(np.zeros((0, 20, 20), bool)).tolist() == []


def test_pictures_of_an_image_without_windows(batch):
    empty = without_windows(batch)
    assert label_picture(empty, 0, STRIDES).shape[1] == 256 * 3
    taught = empty.mask_windows.shape[1]
    assert (
        attention_picture(
            empty, 0, STRIDES, np.zeros((taught, 10, 10), np.float32), np.zeros((taught, 40, 40), np.float32)
        ).ndim
        == 3
    )


def test_a_perfect_prediction_scores_iou_1_and_covers_the_object(batch, monkeypatch):
    captions, overlaid = [], []
    monkeypatch.setattr(
        progress_pictures,
        "grid",
        recording(progress_pictures.grid, lambda tiles, texts=(), *_, **__: captions.extend(texts)),
    )
    monkeypatch.setattr(
        progress_pictures,
        "overlay",
        recording(progress_pictures.overlay, lambda _, masks, *__, **___: overlaid.append(masks)),
    )
    used = int(batch.mask_weights[0].sum())
    logits = 20 * (batch.mask_targets[0, :used].reshape(-1, 40, 4, 40, 4).mean((2, 4), dtype=np.float32) - 0.5)
    attention = batch.attention_targets[0, :used].astype(np.float32)
    attention_picture(batch, 0, STRIDES, attention, logits)
    assert float(captions[-1].removeprefix("mask, IoU ")) > 0.95

    overlaid.clear()
    scores = np.linspace(0.9, 0.5, used, dtype=np.float32)
    image = batch.image[0, : batch.size[0, 0], : batch.size[0, 1]]
    picture = prediction_picture(image, Decoded(scores, batch.mask_windows[0, :used], logits, attention), STRIDES, 0.2)
    assert (picture == distinct_colors(1)[0]).all(-1).any()
    (proposal,) = overlaid[0]  # the others say the same
    shown = truth(batch, 0).repeat(3, 0).repeat(3, 1)
    covered = coco_mask.decode(proposal).astype(bool)
    assert (shown & covered).sum() / (shown | covered).sum() > 0.85  # a threshold of 0.2 widens the mask


def test_pictures_of_windows_that_do_not_exist(batch):
    decoded = Decoded(
        np.full(3, -1.0, np.float32),
        np.zeros((3, 3), int),
        np.zeros((3, 40, 40), np.float32),
        np.zeros((3, 10, 10), np.float32),
    )
    assert prediction_picture(batch.image[0], decoded, STRIDES, 0.2).dtype == np.uint8


def test_a_network_is_pictured_without_compiling_twice(batch, tiny_network):
    network, variables = tiny_network
    network = network.clone()
    pictures = TrainingPictures(network, batch, 0.2)
    drawn = pictures(variables)
    with compilations() as compiled:
        again = pictures(variables)
    assert not compiled
    assert sorted(drawn) == [f"{kind}/{number}" for kind in ("attention", "labels", "proposals") for number in (7, 8)]
    for tag, picture in drawn.items():
        np.testing.assert_array_equal(picture, again[tag])
    freed = weakref.ref(network)
    del network, pictures
    gc.collect()
    assert freed() is None  # no cache of compiled functions keeps it

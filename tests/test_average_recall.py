"""Average recall: both engines compared with plain COCOeval and with loops; results of other systems."""

import contextlib
import copy
import io
import json
import math
import tempfile
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fastmask_jax.evaluation.average_recall import average_recall, recall_by_image
from tests.coco_mini import COCO_MINI, needs_coco_mini

ENGINES = ("fast", "reference")
AREAS = {"": (0, 1e10), "_small": (0, 1024), "_medium": (1024, 9216), "_large": (9216, 1e10)}


def rle(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def result(image_id, mask, score, **more):
    box = coco_mask.toBbox(rle(mask)).tolist()
    return {"image_id": image_id, "category_id": 1, "segmentation": rle(mask), "bbox": box, "score": score, **more}


def blob(rng, height, width):
    """An ellipse somewhere in an image."""
    mask = np.zeros((height, width), np.uint8)
    center = (int(rng.integers(width)), int(rng.integers(height)))
    axes = (int(rng.integers(3, max(4, width // 2))), int(rng.integers(3, max(4, height // 2))))
    return cv2.ellipse(mask, center, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)


def scene(tmp_path, seed, images=5, crowds=True):
    """Objects of several classes and proposals near them, with ties of score and of IoU: (annotation file, results)."""
    rng = np.random.default_rng(seed)
    truth = {"images": [], "annotations": [], "categories": [{"id": c, "name": str(c)} for c in (3, 5, 8)]}
    results = []
    for image_id in range(10, 10 + images):
        height, width = int(rng.integers(40, 200)), int(rng.integers(40, 200))
        truth["images"].append({"id": image_id, "height": height, "width": width, "file_name": f"{image_id}.jpg"})
        for _ in range(rng.integers(0, 6)):
            mask = blob(rng, height, width)
            number = len(truth["annotations"])  # the first is 0
            truth["annotations"].append(
                {
                    "id": number,
                    "image_id": image_id,
                    "category_id": int(rng.choice([3, 5, 8])),
                    "segmentation": rle(mask),
                    "bbox": coco_mask.toBbox(rle(mask)).tolist(),
                    "area": float(mask.sum()),
                    "iscrowd": int(crowds and rng.random() < 0.2),
                }
            )
            for _ in range(rng.integers(0, 9)):
                moved = np.roll(mask, rng.integers(-4, 5, 2), (0, 1))
                results.append(result(image_id, moved, round(float(rng.random()), 1)))
        for _ in range(rng.integers(0, 15)):
            results.append(result(image_id, blob(rng, height, width), round(float(rng.random()), 1)))
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    return path, results


def overlap(kind, proposal, target, crowd):
    """IoU, or the covered share of the proposal where the target is a crowd."""
    if kind == "bbox":
        ax, ay, aw, ah = proposal["bbox"]
        bx, by, bw, bh = target["bbox"]
        both = max(0, min(ax + aw, bx + bw) - max(ax, bx)) * max(0, min(ay + ah, by + bh) - max(ay, by))
        one, two = aw * ah, bw * bh
    else:
        a, b = coco_mask.decode(proposal["segmentation"]), coco_mask.decode(target["segmentation"])
        both, one, two = (a & b).sum(), a.sum(), b.sum()
    return both / (one if crowd else one + two - both) if both else 0.0


def recall_by_loops(truth, results, kind, most, area):
    """COCO's greedy matching as loops: each proposal, best first, takes the best free object, of several the last."""
    low, high = area
    recalls = []
    for threshold in np.linspace(0.5, 0.95, 10):
        found = wanted = 0
        for image in truth["images"]:
            objects = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
            ignored = [bool(a["iscrowd"]) or not low <= a["area"] <= high for a in objects]
            wanted += ignored.count(False)
            taken = [False] * len(objects)
            proposals = sorted((r for r in results if r["image_id"] == image["id"]), key=lambda r: -r["score"])[:most]
            for proposal in proposals:
                overlaps = [overlap(kind, proposal, a, a["iscrowd"]) for a in objects]
                free = [n for n, a in enumerate(objects) if overlaps[n] >= threshold and (not taken[n] or a["iscrowd"])]
                choice = [n for n in free if not ignored[n]] or free
                if choice:
                    best = max(reversed(choice), key=lambda n: overlaps[n])
                    found += not ignored[best]
                    taken[best] = True
        recalls.append(found / wanted if wanted else math.nan)
    return float(np.mean(recalls))


def same(figures, expected):
    assert figures.keys() == expected.keys()
    for key, value in expected.items():
        assert figures[key] == pytest.approx(value, abs=1e-6, nan_ok=True), key


@pytest.mark.parametrize("seed", range(4))
def test_engines_equal_plain_loops(tmp_path, seed):
    path, results = scene(tmp_path, seed)
    truth = json.loads(path.read_text())
    expected = {}
    for kind in ("segm", "bbox"):
        expected |= {f"{kind}/AR@{k}": recall_by_loops(truth, results, kind, k, AREAS[""]) for k in (1, 10, 1000)}
        for name in ("_small", "_medium", "_large"):
            expected[f"{kind}/AR{name}@100"] = recall_by_loops(truth, results, kind, 100, AREAS[name])
    for engine in ENGINES:
        same(average_recall(path, results, max_proposals=(1, 10, 1000), engine=engine), expected)
    for kind in ("segm", "bbox"):
        by_image = recall_by_image(path, results, kind=kind, proposals=10)
        for image in truth["images"]:
            alone = {"images": [image], "annotations": truth["annotations"]}
            recall = recall_by_loops(alone, results, kind, 10, AREAS[""])
            assert by_image.get(image["id"], math.nan) == pytest.approx(recall, nan_ok=True)


@st.composite
def blocky_scenes(draw):
    """Draws images with masks of few large pixels, so that IoUs, scores and areas are often equal: (truth, results)."""
    truth = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    results = []
    for image_id in range(1, draw(st.integers(1, 3)) + 1):
        height, width, scale = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.sampled_from([1, 13, 30]))
        masks = arrays(np.uint8, (height, width), elements=st.integers(0, 1)).filter(np.any)
        objects = draw(st.lists(st.tuples(masks, st.booleans()), max_size=5))
        proposals = draw(st.lists(st.tuples(masks, st.sampled_from([0.0, 0.25, 0.5, 1.0])), max_size=8))
        size = {"height": height * scale, "width": width * scale}
        truth["images"].append({"id": image_id, "file_name": f"{image_id}.jpg", **size})
        for mask, crowd in objects:
            entry = result(image_id, np.kron(mask, np.ones((scale, scale))), 0)
            entry |= {"id": len(truth["annotations"]) + 1, "area": int(mask.sum()) * scale**2, "iscrowd": int(crowd)}
            truth["annotations"].append(entry)
        results += [result(image_id, np.kron(mask, np.ones((scale, scale))), score) for mask, score in proposals]
    return truth, results


@settings(max_examples=60)
@given(blocky_scenes(), st.sampled_from(ENGINES))
def test_recall_of_any_scene_is_that_of_loops(given_scene, engine):
    truth, results = given_scene
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.json"
        path.write_text(json.dumps(truth))
        figures = average_recall(path, results, max_proposals=(1, 3), engine=engine)
    for kind in ("segm", "bbox"):
        for name, (most, area) in {"AR@1": (1, ""), "AR@3": (3, ""), "AR_medium@100": (100, "_medium")}.items():
            expected = recall_by_loops(truth, results, kind, most, AREAS[area])
            assert figures[f"{kind}/{name}"] == pytest.approx(expected, abs=1e-9, nan_ok=True), (kind, name)


def cocoeval(path, results, kind, image_ids):
    """Calls COCOeval directly."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), kind)
        evaluation.params.useCats = 0
        evaluation.params.imgIds = image_ids
        evaluation.params.maxDets = [10, 100, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"][:, 0]
    columns = {"AR@10": (0, 0), "AR@100": (0, 1), "AR@1000": (0, 2)}
    columns |= {"AR_small@100": (1, 1), "AR_medium@100": (2, 1), "AR_large@100": (3, 1)}
    return {f"{kind}/{key}": float(recall[:, a, m][recall[:, a, m] > -1].mean()) for key, (a, m) in columns.items()}


@needs_coco_mini
@pytest.mark.coco
def test_engines_equal_cocoeval_on_real_objects(tmp_path):
    path = COCO_MINI / "annotations" / "instances_val.json"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
    ids = sorted(truth.imgs)[:20]
    rng = np.random.default_rng(0)
    results = []
    for image_id in ids:
        image = truth.imgs[image_id]
        for _ in range(30):
            results.append(result(image_id, blob(rng, image["height"], image["width"]), float(rng.random())))
        for annotation in truth.imgToAnns[image_id]:
            mask = truth.annToMask(annotation)
            for _ in range(8):
                kernel = np.ones((rng.integers(1, 9),) * 2, np.uint8)
                changed = np.roll(cv2.dilate(mask, kernel), rng.integers(-4, 5, 2), (0, 1))
                results.append(result(image_id, changed, round(float(rng.random()), 2)))
    expected = cocoeval(path, results, "segm", ids) | cocoeval(path, results, "bbox", ids)
    for engine in ENGINES:
        same(average_recall(path, results, limit=20, engine=engine), expected)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    same(average_recall(path, file, image_ids=ids), expected)
    rng.shuffle(results)  # entries of an image are no longer contiguous, and ties have another order
    file.write_text(json.dumps(results))
    expected = cocoeval(path, results, "segm", ids) | cocoeval(path, results, "bbox", ids)
    same(average_recall(path, file, limit=20), expected)


def test_results_of_other_systems(tmp_path):
    path, results = scene(tmp_path, 7, crowds=False)
    expected = average_recall(path, results)
    plain = {k: v for k, v in expected.items() if k.startswith("segm")}
    foreign = copy.deepcopy(results)
    for n, entry in enumerate(foreign):
        entry["category_id"] = 1000 + n
        if n % 3 == 0:
            del entry["bbox"]
        if n % 3 == 1:
            del entry["category_id"]
        if n % 2:
            flat = coco_mask.decode(entry["segmentation"]).ravel(order="F")
            edges = np.flatnonzero(np.diff(flat, prepend=0, append=2))
            counts = np.diff(np.concatenate([[0], edges])).tolist()
            entry["segmentation"] = {"size": entry["segmentation"]["size"], "counts": counts}
    same(average_recall(path, foreign), expected)
    boxes_only = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in results]
    figures = average_recall(path, boxes_only)
    assert all(math.isnan(figures[key]) for key in plain)
    assert all(figures[key] == pytest.approx(expected[key], nan_ok=True) for key in expected if key not in plain)


def test_numbers_and_arrays_of_numpy_are_taken(tmp_path):
    path, results = scene(tmp_path, 3)
    numpys = [
        {
            "image_id": np.int64(entry["image_id"]),
            "score": np.float64(entry["score"]),
            "bbox": np.array(entry["bbox"], np.float64),
            "segmentation": entry["segmentation"] | {"size": np.array(entry["segmentation"]["size"])},
        }
        for entry in results
    ]
    same(average_recall(path, numpys), average_recall(path, results))


@pytest.mark.parametrize("form", [list, tuple, iter], ids=lambda form: form.__name__)
def test_arrays_of_any_library_are_taken(tmp_path, form):
    path, results = scene(tmp_path, 3)
    arrays = [
        {
            "image_id": np.array(entry["image_id"]),
            "score": jnp.float32(entry["score"]),
            "bbox": jnp.array(entry["bbox"]),
            "segmentation": {
                "size": tuple(np.array(entry["segmentation"]["size"])),
                "counts": np.bytes_(entry["segmentation"]["counts"]),
            },
        }
        for entry in results
    ]
    plain = [entry | {"score": float(np.float32(entry["score"]))} for entry in results]
    ids = [entry["image_id"] for entry in results]
    same(average_recall(path, form(arrays), image_ids=ids), average_recall(path, plain, image_ids=ids))


@pytest.mark.parametrize("category", [None, "cat", [1], "missing"])
def test_categories_of_any_kind_are_ignored(tmp_path, category):
    path, results = scene(tmp_path, 3)
    expected = average_recall(path, results)
    content = json.loads(path.read_text())
    for number, entry in enumerate([*content["annotations"], *results]):
        if number % 2:
            entry.pop("category_id", None)
            entry.update({} if category == "missing" else {"category_id": category})
    path.write_text(json.dumps(content))
    figures = average_recall(path, results)
    assert figures == pytest.approx(expected, abs=0.05, nan_ok=True)  # ties between matches may be resolved differently


def test_images_without_a_size_are_named_at_once(tmp_path):
    path, results = scene(tmp_path, 3)
    content = json.loads(path.read_text())
    content["images"][1]["height"] = 0
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"truth.json: image 11 .* has no height and width \(1 of 5 images"):
        average_recall(path, results)


def test_polygons_are_masks(tmp_path):
    path = tmp_path / "truth.json"
    box = {"bbox": [10, 20, 40, 50], "area": 2000.0, "iscrowd": 0, "category_id": 1, "image_id": 1, "id": 1}
    polygon = [[10, 20, 50, 20, 50, 70, 10, 70]]
    image = {"id": 1, "height": 100, "width": 90, "file_name": "a.jpg"}
    path.write_text(json.dumps({"images": [image], "annotations": [{**box, "segmentation": polygon}]}))
    entry = {"image_id": 1, "score": 1, "segmentation": polygon}
    figures = average_recall(path, [entry])
    assert figures["segm/AR@10"] == figures["bbox/AR@10"] == figures["segm/AR_medium@100"] == 1
    assert math.isnan(figures["segm/AR_large@100"])
    outside = {**entry, "segmentation": [[200, 200, 210, 200, 210, 210]]}  # counts as a proposal that finds nothing
    assert average_recall(path, [{**outside, "score": 2}, entry], max_proposals=(1,))["segm/AR@1"] == 0


def test_no_proposals_find_nothing(tmp_path, caplog):
    path, _ = scene(tmp_path, 1)
    figures = average_recall(path, [])
    assert figures["bbox/AR@100"] == figures["segm/AR@100"] == 0
    assert "5 of 5 images have no proposals" in caplog.text
    assert set(recall_by_image(path, []).values()) == {0.0}


def test_unlisted_images_are_named_and_left_out(tmp_path, caplog):
    path, results = scene(tmp_path, 2)
    expected = average_recall(path, results)
    assert "not list" not in caplog.text
    stray = [result(999, np.ones((4, 4)), 0.5)] * 3
    same(average_recall(path, results + stray), expected)
    assert "3 proposals are of 1 images that the annotations do not list (999)" in caplog.text
    caplog.clear()
    average_recall(path, results, limit=2)
    assert "not list" not in caplog.text


def test_selection_of_images(tmp_path):
    path, results = scene(tmp_path, 3)
    truth = json.loads(path.read_text())
    kept = {**truth, "images": truth["images"][:3]}
    kept["annotations"] = [a for a in truth["annotations"] if a["image_id"] < 13]
    smaller = tmp_path / "smaller.json"
    smaller.write_text(json.dumps(kept))
    expected = average_recall(smaller, [r for r in results if r["image_id"] < 13])
    same(average_recall(path, results, limit=3), expected)
    same(average_recall(path, results, image_ids=[12, 10, 11]), expected)
    with pytest.raises(ValueError, match="no image 77"):
        average_recall(path, results, image_ids=[10, 77])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": {"size": [1, 2], "counts": "1"}}, "not of the image's"),
        ({"segmentation": {"size": None, "counts": "1"}}, "not of the image's"),
        ({"segmentation": "text"}, "without a segmentation"),
        ({"segmentation": [[1, 2, 3]]}, "degenerate polygon"),
        ({"bbox": [1, 2, "3", 4]}, "not four numbers"),
        ({"score": None}, "not a finite number"),
    ],
)
def test_broken_entries_are_named(tmp_path, change, message):
    path, results = scene(tmp_path, 4, crowds=False)
    target = json.loads(path.read_text())["annotations"][0]["image_id"]
    entry = next(r for r in results if r["image_id"] == target)
    with pytest.raises(ValueError, match=message) as error:
        average_recall(path, [{**entry, **change}])
    assert "\n" not in str(error.value)


def test_cut_run_lengths_are_named_and_not_matched_for_ever(tmp_path):
    path, results = scene(tmp_path, 4, crowds=False)
    target = json.loads(path.read_text())["annotations"][0]["image_id"]
    entry = copy.deepcopy(next(r for r in results if r["image_id"] == target))
    entry["segmentation"]["counts"] = entry["segmentation"]["counts"][:-9]
    with pytest.raises(ValueError, match=f"results: .* image {target} .* broken or cut off"):
        average_recall(path, [entry])
    file = tmp_path / "others.json"
    file.write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match=r"others.json: .* broken or cut off"):
        average_recall(path, file)

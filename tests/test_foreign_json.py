"""JSON files of strangers: numbers beyond all types, nesting without end, bytes that are no text."""

import json
import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fastmask_jax.data.coco import objects
from fastmask_jax.data.coco.instances import read_instances
from fastmask_jax.data.coco.objects import objects_of
from fastmask_jax.data.coco.problem_report import Problem
from fastmask_jax.errors import InvalidInput, printable, shown
from fastmask_jax.evaluation.average_recall import average_recall
from fastmask_jax.foreign_json import DEEPEST, decoded, is_shallow
from fastmask_jax.masks.coco_results import read_results

LONG = "9" * 5_000
SQUARE = [[2, 2, 20, 2, 20, 20, 2, 20]]
RESULT = '{"image_id": 1, "score": 0.5, "bbox": [2, 2, 18, 18]}'


def written(folder, image="", annotation="", name="truth.json"):
    """Writes an instances file of one image and one object, with more keys as text; the last of a key counts."""
    image = f'{{"id": 1, "file_name": "a.jpg", "height": 40, "width": 30{image and ", " + image}}}'
    annotation = f'{{"id": 5, "image_id": 1, "segmentation": {SQUARE}{annotation and ", " + annotation}}}'
    path = folder / name
    path.write_text(f'{{"images": [{image}], "annotations": [{annotation}]}}')
    return path


@pytest.mark.parametrize(
    "sides",
    [
        '"height": 1000000000',
        '"height": 1e400',
        f'"width": {LONG}',
        '"height": 100000, "width": 100000',
        '"height": true',
        '"width": [30]',
    ],
)
def test_a_size_that_no_image_has_is_named(tmp_path, sides):
    path = written(tmp_path, sides)
    assert read_instances(path, None).report.counts == {Problem.IMAGE_NO_SIZE: 1}
    with pytest.raises(InvalidInput, match=r"truth.json: image 1 \(a.jpg\) has no height and width"):
        average_recall(path, [])


@pytest.mark.parametrize(
    "value", [LONG, f"-{LONG}", "1e400", "NaN", "true", "[1]", "{}", f'"{LONG}"', "2.5", str(2**63)]
)
def test_ids_of_every_odd_kind_are_counted(tmp_path, value):
    assert read_instances(written(tmp_path, f'"id": {value}'), None).report.counts[Problem.IMAGE_ENTRY] == 1
    for key in ("id", "image_id"):
        report = read_instances(written(tmp_path, annotation=f'"{key}": {value}'), None).report
        assert report.examples == {Problem.OBJECT_ENTRY: ["annotations[0]"]}


@pytest.mark.parametrize("value", [LONG, "1e400", "NaN", "true", '"cat"', "null", "[1]", "{}"])
def test_other_values_of_every_odd_kind_leave_the_object(tmp_path, value):
    for key in ("category_id", "area", "bbox", "iscrowd", "note"):
        path = written(tmp_path, annotation=f'"{key}": {value}')
        crowd = key == "iscrowd" and value == "true"
        assert average_recall(path, [json.loads(RESULT)])["bbox/AR@10"] == pytest.approx(
            math.nan if crowd else 1, nan_ok=True
        )


def test_nesting_without_end(tmp_path):
    for deep in ("[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000):
        (tmp_path / "deep.json").write_text(deep)
        with pytest.raises(InvalidInput, match=r"deep.json: (not readable: its values are|not complete JSON)"):
            read_instances(tmp_path / "deep.json", None)
        (tmp_path / "deep.json").write_text(f"[{RESULT}, {deep}")
        with pytest.raises(InvalidInput, match=r"deep.json: entry 1 is (nested too deeply|truncated)"):
            list(read_results(tmp_path / "deep.json"))
    deep = "[" * 500 + "]" * 500  # which json reads
    report = read_instances(written(tmp_path, annotation=f'"note": {deep}'), None).report
    assert report.counts == {Problem.OBJECT_NESTED: 1}


def test_levels():
    value = 7
    for levels in range(DEEPEST + 3):
        assert is_shallow(value) == (levels <= DEEPEST)
        value = [1, value] if levels % 2 else {"a": value}


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b'{"a": "\xe9"}', b"\x80"])
def test_bytes_that_are_no_text(tmp_path, data):
    with pytest.raises(InvalidInput, match=r"x.json: not readable: byte \d is no utf"):
        decoded(data, "x.json")
    (tmp_path / "r.json").write_bytes(b"[" + RESULT.encode() + b", " + data)
    with pytest.raises(InvalidInput, match=r"r.json: entry \d, or one behind it, is no UTF-8 text"):
        list(read_results(tmp_path / "r.json"))


def test_names_and_run_lengths_of_half_surrogates(tmp_path):
    path = written(tmp_path, r'"file_name": "\ud800.jpg"')
    assert read_instances(path, None).report.counts[Problem.IMAGE_ENTRY] == 1
    path = written(tmp_path, annotation=r'"segmentation": {"size": [40, 30], "counts": "0\udc80"}')
    with pytest.raises(InvalidInput, match="its run lengths are broken"):
        average_recall(
            written(tmp_path, name="sound.json"),
            [json.loads(RESULT) | {"segmentation": {"size": [40, 30], "counts": "\ud800"}}],
        )
    assert math.isnan(average_recall(path, [json.loads(RESULT)])["bbox/AR@10"])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (f'"image_id": {LONG}', "entry 1: image_id inf is not an integer"),
        ('"image_id": 1e400', "entry 1: image_id inf is not an integer"),
        ('"image_id": true', "entry 1: image_id True is not an integer"),
        ('"image_id": [1]', r"entry 1: image_id \[1\] is not an integer"),
        ('"score": 1e400', "entry 1: score inf is not a finite number"),
        (f'"score": {"9" * 350}', r"entry 1: score 9+\.\.\. is not a finite number"),
        ('"score": false', "entry 1: score False is not a finite number"),
        ('"score": "half"', "entry 1: score 'half' is not a finite number"),
        ('"bbox": [0, 0, 1e400, 3]', r"its bbox \[0, 0, inf, 3\] is not four numbers"),
        (f'"bbox": [0, 0, {"9" * 350}, 3]', "is not four numbers"),
        ('"bbox": [0, 0, true, 3]', "is not four numbers"),
        ('"bbox": {"a": 1}', "is not four numbers"),
        ('"segmentation": {"size": 5, "counts": "04"}', "its mask is not of the image's"),
        ('"segmentation": {"size": [40, 30], "counts": [1e300, 5]}', "invalid run-length encoding"),
        ('"segmentation": {"size": [40, 30], "counts": {}}', "invalid run-length encoding"),
        ('"segmentation": 7', "annotation without a segmentation"),
    ],
)  # fmt: skip
def test_results_of_every_odd_kind_are_named(tmp_path, more, says):
    truth, path = written(tmp_path), tmp_path / "r.json"
    path.write_text(f"[{RESULT},\n {RESULT[:-1]}, {more}}}]")
    with pytest.raises(InvalidInput, match=f"r.json: .*{says}") as caught:
        average_recall(truth, path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_an_outline_of_any_length_is_refused_and_a_long_one_drawn(monkeypatch):
    rng = np.random.default_rng(0)
    polygon = rng.uniform(0, 100, 40).tolist()
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    sides = [max(abs(a - c), abs(b - d)) for (a, b), (c, d) in zip(points, points[1:] + points[:1], strict=True)]
    entry = {"id": 1, "segmentation": [polygon]}
    monkeypatch.setattr(objects, "LONGEST_OUTLINE", sum(sides) + 1e-6)
    (drawn,), found = objects_of([entry], (100, 100), "a")
    expected = coco_mask.frPyObjects([polygon], 100, 100)[0]
    assert not found and drawn.counts == expected["counts"]
    monkeypatch.setattr(objects, "LONGEST_OUTLINE", sum(sides) - 1e-6)
    assert objects_of([entry], (100, 100), "a") == ([], [(Problem.POLYGON_LONG, "annotation 1 of a")])


def test_messages_show_any_value_in_a_line():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in (10**5_000, "a\nb" * 100, deep, np.zeros((9, 9)), object()):
        assert "\n" not in shown(value) and len(shown(value)) <= 80
    while deep:
        (deep,) = deep
    assert printable("a\nb\x1b[31m") == r"a\nb\x1b[31m" and printable("größe.jpg") == "größe.jpg"


MANIFEST = {"shards": 1, "images": 1, "complete": True}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", r"no manifest of fastmask propose-dataset \(shards=None"),
        ("{", "not complete JSON"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps(MANIFEST | {"shards": 10**400}), "no manifest"),
        (json.dumps(MANIFEST | {"shards": math.inf}), "shards=inf"),
        (json.dumps(MANIFEST | {"images": "1"}), "images='1'"),
        (json.dumps(MANIFEST | {"complete": 1}), "complete=1"),
    ],
)
def test_a_manifest_of_every_odd_kind_is_one_line(tmp_path, content, says):
    results = pytest.importorskip("fastmask_jax.masks.parquet_results", reason="folders of results need pyarrow")
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InvalidInput, match=f"manifest.json: {says}|manifest.json: .*{says}") as caught:
        results.ParquetResults(tmp_path, int)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scores": [0.5, 0.4]}, r"image a has \[2, 1, 1\] scores, boxes and counts"),
        ({"scores": [math.nan]}, "image a: score nan is not a finite number"),
        ({"counts": None}, r"has \[1, 1, 0\]"),
        ({"boxes": 7}, "damaged"),
        ({"scores": "x"}, "damaged"),
    ],
)
def test_parquet_results_of_every_odd_kind_are_one_line(tmp_path, change, says):
    pa = pytest.importorskip("pyarrow", reason="folders of results need pyarrow")
    import pyarrow.parquet as pq

    from fastmask_jax.masks.parquet_results import ParquetResults, schema, shard_name

    row = {"image_id": "a", "height": 4, "width": 4, "scores": [0.5], "boxes": [[0, 0, 2, 2]], "counts": ["0"]} | change
    try:
        table = pa.Table.from_pylist([row], schema(False))
    except (pa.ArrowInvalid, TypeError):
        table = pa.Table.from_pylist([row])
    (tmp_path / "shards").mkdir()
    pq.write_table(table, tmp_path / "shards" / shard_name(0))
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    with pytest.raises(InvalidInput, match=says) as caught:
        list(ParquetResults(tmp_path, lambda name: 1))
    assert "\n" not in str(caught.value)

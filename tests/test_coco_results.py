"""Results files: round trips, and one line for invalid files."""

import json

import numpy as np
import pytest

from fastmask_jax.masks import coco_results
from fastmask_jax.masks.coco_results import ResultsWriter, read_results
from fastmask_jax.masks.rle import ScoredMasks

ENTRY = {"image_id": 7, "category_id": 1, "score": 0.5, "segmentation": {"size": [2, 2], "counts": "04"}}


def proposals(count, seed=0):
    rng = np.random.default_rng(seed)
    texts = ["".join(chr(c) for c in rng.integers(48, 112, rng.integers(1, 30))) for _ in range(count)]  # backslash too
    return ScoredMasks(
        rng.random(count, np.float32),
        rng.integers(0, 50, (count, 4)).astype(np.float32),
        [{"size": [50, 60], "counts": text} for text in texts],
        np.arange(count),
        0,
    )


def test_written_file_is_json_of_the_same_proposals(tmp_path, monkeypatch):
    monkeypatch.setattr(coco_results, "CHUNK", 97)  # entries extend over several chunks
    path = tmp_path / "new" / "results.json"
    images = {3: proposals(4), 1: proposals(0), 2**40: proposals(9, seed=1)}
    with ResultsWriter(path) as writer:
        for image_id, given in images.items():
            writer.write(image_id, given)
        assert not path.exists()
    assert writer.entries == 13 and sorted(path.parent.iterdir()) == [path]
    entries = json.loads(path.read_text())
    assert list(read_results(path)) == entries
    for image_id, given in images.items():
        mine = [entry for entry in entries if entry["image_id"] == image_id]
        assert [entry["segmentation"] for entry in mine] == given.segmentations
        assert np.array_equal(np.array([entry["score"] for entry in mine], np.float32), given.scores)
        assert [entry["bbox"] for entry in mine] == given.boxes.tolist()
        assert {entry["category_id"] for entry in mine} <= {1}


def test_a_byte_order_mark_is_no_content(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([ENTRY]), "utf-8-sig")
    assert list(read_results(path)) == [ENTRY]


def test_file_without_proposals(tmp_path):
    with ResultsWriter(tmp_path / "r.json"):
        pass
    assert json.loads((tmp_path / "r.json").read_text()) == list(read_results(tmp_path / "r.json")) == []


def test_a_failed_run_leaves_the_old_file_and_the_part(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("[]")
    with pytest.raises(KeyboardInterrupt), ResultsWriter(path) as writer:
        writer.write(1, proposals(2))
        raise KeyboardInterrupt
    assert path.read_text() == "[]" and (tmp_path / "r.json.part").exists()


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}])
def test_reads_any_layout_of_json(tmp_path, layout, monkeypatch):
    monkeypatch.setattr(coco_results, "CHUNK", 13)
    entries = [{**ENTRY, "image_id": n, "extra": {"deep": [n, "é]}"]}} for n in range(5)]
    path = tmp_path / "r.json"
    path.write_text("  " + json.dumps(entries, ensure_ascii=False, **layout) + "\n", encoding="utf-8")
    assert list(read_results(path)) == entries


def without(key):
    return {k: v for k, v in ENTRY.items() if k != key}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a COCO results file"),
        ('{"annotations": []}', "not a COCO results file"),
        (json.dumps([ENTRY] * 3)[:-20], "entry 2 is truncated or not valid JSON"),
        (json.dumps([ENTRY])[:-1], "the list is not closed"),
        (json.dumps([ENTRY, without("score")]), "entry 1 has no score"),
        (json.dumps([without("image_id")]), "entry 0 has no image_id"),
        (json.dumps([ENTRY, without("segmentation")]), "entry 1 has no segmentation or bbox"),
        (json.dumps([{**ENTRY, "image_id": "7a"}]), "entry 0: image_id '7a' is not an integer"),
        (json.dumps([{**ENTRY, "score": "high"}]), "entry 0: score 'high' is not a finite number"),
        ('[{"image_id": 1, "score": NaN, "bbox": [1,2,3,4]}]', "entry 0: score nan is not a finite number"),
        (json.dumps([ENTRY, 4]), "entry 1 is int"),
    ],
)
def test_broken_files_are_named_in_one_line(tmp_path, text, message):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        list(read_results(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("image_id", "score"), [("7", 0.5), (7.0, "0.5"), (" 7", ".5"), ("7.0", 0.5)])
def test_numbers_in_other_forms(tmp_path, image_id, score):
    path = tmp_path / "r.json"
    path.write_text(json.dumps([{**ENTRY, "image_id": image_id, "score": score}]))
    assert list(read_results(path)) == [{**ENTRY, "image_id": 7, "score": 0.5}]


def test_endless_entries_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(coco_results, "CHUNK", 100)
    monkeypatch.setattr(coco_results, "LONGEST_ENTRY", 1000)
    path = tmp_path / "broken.json"
    path.write_text('[{"image_id": 1, oops ' + "x" * 10_000)
    with pytest.raises(ValueError, match="entry 0 is not valid JSON"):
        list(read_results(path))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such results file"):
        list(read_results(tmp_path / "nowhere.json"))

"""Records equal their COCO files; an interrupted build leaves nothing; readers in several processes."""

import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from pycocotools import mask as coco_mask

from fastmask_jax.apps.command_line.prepare import main
from fastmask_jax.configuration import run_command
from fastmask_jax.data import process_map
from fastmask_jax.data.coco import record_builder
from fastmask_jax.data.coco.instances import CocoSplit, read_instances
from fastmask_jax.data.coco.record_builder import build
from fastmask_jax.data.prepare import prepare_coco, prepare_coco_year
from fastmask_jax.data.process_map import map_in_order
from fastmask_jax.data.records import RecordSource
from fastmask_jax.data.shapes.dataset import ShapesSpec, write_split
from fastmask_jax.errors import WorkerDied
from tests.coco_mini import COCO_MINI, needs_coco_mini


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A folder with images/ and instances.json: 12 drawn images with a crowd, one image without objects, a PNG."""
    root = tmp_path_factory.mktemp("drawn")
    path = write_split(ShapesSpec(), root, "x", 12, (0,), 1, 0)
    content = json.loads(path.read_text())
    content["images"].reverse()  # records are to be sorted by id
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 4]
    content["annotations"][0]["iscrowd"] = 1
    next(e for e in content["images"] if e["id"] == 7)["file_name"] = "gray.png"
    gray = cv2.cvtColor(cv2.imread(str(root / "images" / "x_000006.jpg")), cv2.COLOR_BGR2GRAY)
    cv2.imwrite(str(root / "images" / "gray.png"), gray)
    (root / "instances.json").write_text(json.dumps(content))
    return root


def read(drawn: Path) -> CocoSplit:
    return read_instances(drawn / "instances.json", drawn / "images")


@pytest.fixture(scope="module")
def records(drawn, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("records") / "train"
    built = build(read(drawn), directory, split_name="train", workers=2)
    content = json.loads((drawn / "instances.json").read_text())
    assert (built.images, built.crowds) == (12, 1)
    assert built.objects == len(content["annotations"]) - 1
    return directory


def test_owners_without_a_name(drawn, tmp_path, monkeypatch):
    """As in a container whose user has a number but no name."""
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    monkeypatch.setattr("grp.getgrgid", {}.__getitem__)
    assert build(read(drawn), tmp_path / "train", split_name="train", workers=0).images == 12
    assert len(RecordSource(tmp_path / "train")[0].object_ids)


def assert_records_equal_source(source: RecordSource, annotations: Path, images: Path) -> None:
    content = json.loads(annotations.read_text())
    entries = sorted(content["images"], key=lambda e: e["id"])
    assert len(source) == len(entries)
    assert source.index.image_id.tolist() == [e["id"] for e in entries]
    for number, entry in enumerate(entries):
        record = source[number]
        expected = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
        assert (record.image_id, record.file_name) == (entry["id"], entry["file_name"])
        assert (record.height, record.width) == (entry["height"], entry["width"])
        assert record.image_bytes == (images / entry["file_name"]).read_bytes()
        assert record.object_ids.tolist() == [a["id"] for a in expected]
        assert record.crowd.tolist() == [bool(a["iscrowd"]) for a in expected]
        np.testing.assert_array_equal(record.areas, np.array([a["area"] for a in expected], np.float32))
        np.testing.assert_allclose(record.boxes, np.reshape([a["bbox"] for a in expected], (-1, 4)), atol=0.02)
        height, width = record.height, record.width
        for rle, a in zip(record.rles, expected, strict=True):
            segmentation = a["segmentation"]
            if isinstance(segmentation, list):
                segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
            elif isinstance(segmentation["counts"], list):
                segmentation = coco_mask.frPyObjects(segmentation, height, width)
            np.testing.assert_array_equal(coco_mask.decode(rle), coco_mask.decode(segmentation))
        index = [column[number] for column in source.index]
        assert index == [entry["id"], height, width, sum(not a["iscrowd"] for a in expected)]


def test_records_equal_their_source(drawn, records):
    assert_records_equal_source(RecordSource(records), drawn / "instances.json", drawn / "images")


def test_an_image_without_objects_keeps_its_record(records):
    record = RecordSource(records)[3]
    assert record.image_id == 4 and record.boxes.shape == (0, 4) and record.rles == []
    dtypes = [a.dtype for a in (record.object_ids, record.boxes, record.areas, record.crowd)]
    assert dtypes == [np.int64, np.float32, np.float32, np.bool_]


def test_several_shards_read_in_order(drawn, records, tmp_path, monkeypatch):
    monkeypatch.setattr(record_builder, "SHARD_BYTES", 60_000)
    build(read(drawn), tmp_path / "train", split_name="train", workers=0)
    assert 3 <= len(list((tmp_path / "train").glob("*.array_record-*"))) <= 10
    one, several = RecordSource(records), RecordSource(tmp_path / "train")
    assert [r.image_bytes for r in one] == [r.image_bytes for r in several]


def test_any_number_of_workers_writes_the_same_records(drawn, tmp_path, monkeypatch):
    """The files may differ: array_record's own threads pad them differently each time."""
    monkeypatch.setattr(record_builder, "SHARD_BYTES", 60_000)
    monkeypatch.setattr(process_map, "_CHUNK", 3)
    records = {}
    for workers in (0, 2):
        build(read(drawn), tmp_path / f"{workers}", split_name="train", workers=workers)
        shards = sorted((tmp_path / f"{workers}").glob("*.array_record-*"))
        records[workers] = {shard.name: ArrayRecordReader(str(shard)).read_all() for shard in shards}
    assert len(records[0]) > 2 and sum(map(len, records[0].values())) == 12
    assert records[0] == records[2]


def test_tfds_reads_the_directory_itself(records):
    info_builder = tfds.builder_from_directory(records)
    assert info_builder.info.full_name == "coco_instances/1.0.0"
    example = info_builder.as_data_source("train")[0]
    assert example["image"].dtype == np.uint8 and example["image"].ndim == 3


def image_ids(source: RecordSource) -> list[int]:
    return [record.image_id for record in source]


def test_source_goes_to_other_processes(records):
    source = RecordSource(records)
    expected = image_ids(source)  # opened here, and again in the other process
    assert image_ids(pickle.loads(pickle.dumps(source))) == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(image_ids, (source,)) == expected


def test_records_that_are_not_there(records, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none: no records.*prepare\.py"):
        RecordSource(tmp_path / "none")
    for number in (-1, np.int64(12)):
        with pytest.raises(IndexError, match="of 12"):
            RecordSource(records)[number]
    (tmp_path / "index.npz").write_bytes(b"PK broken")
    with pytest.raises(ValueError, match="damaged index"):
        RecordSource(tmp_path)
    for path in records.iterdir():
        if "array_record" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(FileNotFoundError, match="missing; build the records again"):
        RecordSource(tmp_path)[0]


def test_finished_records_need_overwrite(drawn, tmp_path):
    directory = tmp_path / "train"
    build(read(drawn), directory, split_name="train", workers=0)
    (directory / "mark").touch()
    with pytest.raises(FileExistsError, match="--overwrite"):
        build(read(drawn), directory, split_name="train", workers=0)
    assert (directory / "mark").exists()
    build(read(drawn), directory, split_name="train", workers=0, overwrite=True)
    assert not (directory / "mark").exists() and len(RecordSource(directory)) == 12
    assert [p.name for p in tmp_path.iterdir()] == ["train"]


def test_an_error_on_the_way_leaves_what_was_there(drawn, tmp_path, monkeypatch):
    directory = tmp_path / "train"
    build(read(drawn), directory, split_name="train", workers=0)

    def disk_full(*arguments, **arrays):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", disk_full)
    with pytest.raises(OSError, match="no space"):
        build(read(drawn), directory, split_name="train", workers=0, overwrite=True)
    assert len(RecordSource(directory)) == 12 and [p.name for p in tmp_path.iterdir()] == ["train"]


def test_no_usable_image_is_an_error(tmp_path):
    (tmp_path / "i.json").write_text('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}')
    with pytest.raises(ValueError, match=r"no usable image.*\n.*missing: a\.jpg"):
        prepare_coco(tmp_path / "i.json", tmp_path, tmp_path / "out", "train", workers=0)
    assert not (tmp_path / "out").exists()


def heed_interrupts() -> None:
    """Restores SIGINT: background jobs of a script ignore it, and so do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start_build_until(shown: str, drawn: Path, out: Path) -> subprocess.Popen:
    """Starts prepare.py on many copies of an image; returns when its progress bar matches `shown`."""
    entry = json.loads((drawn / "instances.json").read_text())["images"][0]
    content = {"images": [entry | {"id": n} for n in range(1, 2500)], "annotations": []}
    (out.parent / "many.json").write_text(json.dumps(content))
    command = [sys.executable, "prepare.py", "coco", "--annotations", str(out.parent / "many.json")]
    command += ["--images", str(drawn / "images"), "--out", str(out), "--workers", "1"]
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        command, cwd=root, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heed_interrupts
    )
    text = ""
    while not re.search(shown, text):
        text += (more := process.stderr.read1().decode())
        assert more, f"ended early: {text}"
    return process


@pytest.mark.parametrize("shown", [r"checking: +\d+%.* [1-9]\d*/", r"writing: +\d"])
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_build_cut_short_leaves_nothing_that_looks_finished(drawn, tmp_path, shown, stop):
    out = tmp_path / "out"
    process = start_build_until(shown, drawn, out)
    os.killpg(process.pid, stop)  # like Ctrl-C, which also reaches the workers
    errors = process.communicate(timeout=30)[1].decode()
    if stop == signal.SIGINT:
        assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
        assert not out.exists() or not list(out.iterdir())
    with pytest.raises(FileNotFoundError, match="no records"):
        RecordSource(out / "train")
    prepare_coco(drawn / "instances.json", drawn / "images", out, "train", workers=0)
    assert len(RecordSource(out / "train")) == 12


def test_a_kill_while_writing_is_cleared_away_by_the_next_build(drawn, tmp_path):
    left = tmp_path / ".train.partial" / "coco_instances" / "1.0.0.incompleteABC"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    build(read(drawn), tmp_path / "train", split_name="train", workers=0)
    assert [p.name for p in tmp_path.iterdir()] == ["train"]


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line():
    with pytest.raises(WorkerDied, match="worker process was killed"):
        list(map_in_order(die, range(3), 1, "dying"))


def square(number: int) -> int:
    time.sleep(0.002 * (number % 3))
    return number**2


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_order(workers):
    assert list(map_in_order(square, range(100), workers, "squares")) == [n**2 for n in range(100)]
    assert list(map_in_order(square, [], workers, "squares")) == []


def test_problems_are_shown_and_written(drawn, tmp_path, capsys):
    content = json.loads((drawn / "instances.json").read_text())
    content["images"].append({"id": 99, "file_name": "none.jpg"})
    content["annotations"][3]["segmentation"] = [[1, 2, 3, 4]]
    (tmp_path / "i.json").write_text(json.dumps(content))
    command = ["coco", "--annotations", str(tmp_path / "i.json"), "--images", str(drawn / "images")]
    assert main([*command, "--out", str(tmp_path / "out"), "--split", "val", "--workers", "0"]) == 0
    shown = capsys.readouterr().out
    assert "val: 12 images" in shown and "none.jpg" in shown and "degenerate polygon" in shown
    problems = json.loads((tmp_path / "out" / "val" / "problems.json").read_text())
    assert {kind: p["count"] for kind, p in problems.items()} == {"image_missing": 1, "polygon": 1}
    assert run_command(lambda: main([*command, "--out", str(tmp_path / "out"), "--split", "val"])) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_coco_years_by_their_official_names(drawn, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"http://images\.cocodataset\.org/zips/train2014\.zip"):
        prepare_coco_year(2014, tmp_path, tmp_path / "out", workers=0)
    (tmp_path / "annotations").mkdir()
    for name in ("train", "val"):
        (tmp_path / f"{name}2014").symlink_to(drawn / "images")
        (tmp_path / "annotations" / f"instances_{name}2014.json").symlink_to(drawn / "instances.json")
    assert main(["coco2014", "--root", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "0"]) == 0
    assert [len(RecordSource(tmp_path / "out" / name)) for name in ("train", "val")] == [12, 12]


@needs_coco_mini
@pytest.mark.coco
def test_real_images_round_trip(tmp_path):
    annotations = COCO_MINI / "annotations" / "instances_val.json"
    split = read_instances(annotations, COCO_MINI / "images")
    build(split, tmp_path / "val", split_name="val", workers=2)
    assert not split.report
    assert_records_equal_source(RecordSource(tmp_path / "val"), annotations, COCO_MINI / "images")

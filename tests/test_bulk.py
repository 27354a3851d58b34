"""fastmask propose-dataset on two simulated machines: the same proposals as predict.py, even if processes die."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

ray = pytest.importorskip("ray", reason="needs requirements-bulk.txt")
pq = pytest.importorskip("pyarrow.parquet")

from fsspec.implementations.local import LocalFileSystem  # noqa: E402

from fastmask_jax.apps.command_line import evaluate  # noqa: E402
from fastmask_jax.bulk.inputs import find_inputs  # noqa: E402
from fastmask_jax.bulk.plan import write_plan  # noqa: E402
from fastmask_jax.bulk.pool import Pool  # noqa: E402
from fastmask_jax.bulk.proposer import TRIES, Job, Proposer  # noqa: E402
from fastmask_jax.bulk.run import Request, propose_dataset  # noqa: E402
from fastmask_jax.bulk.storage import OutputFolder  # noqa: E402
from fastmask_jax.errors import ExistingFile, InvalidInput  # noqa: E402
from fastmask_jax.full_disk import DiskFull  # noqa: E402
from fastmask_jax.inference.options import ProposeOptions  # noqa: E402
from tests import caffe_network, tiny  # noqa: E402

IMAGES, BROKEN, SHARD = 14, 4, 2


# 2026-11, ray 2.60 warns about settings that it makes itself
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of the actors and of predict.py, with a shared compilation cache."""
    return tiny.environment(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def cluster(environment):
    """A head without cores and two machines with one core each, whose processes can import the package `tests`."""
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ.update(environment)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tiny.ROOT), before.get("PYTHONPATH", "")])
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20})
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=80 << 20)
    yield made
    made.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of random images of two shapes, one of them broken, and the weights of a small network."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (folder / "in").mkdir()
    for number in range(IMAGES):
        coarse = rng.uniform(0, 255, (9, 12, 3)).astype(np.float32)
        image = cv2.resize(coarse, (100, 75) if number % 3 else (67, 100)).astype(np.uint8)
        cv2.imwrite(str(folder / "in" / f"{number:03d}.png"), image)
    (folder / "in" / f"{BROKEN:03d}.png").write_bytes(b"broken")
    (folder / "net.caffemodel").write_bytes(caffe_network.net(caffe_network.random_network(rng)))
    return folder


def request(data, **changed):
    words = {
        "inputs": [str(data / "in")],
        "weights": str(data / "net.caffemodel"),
        "overrides": [word.removeprefix("--config.") for word in caffe_network.command_line()],
        "options": ProposeOptions(count=20),
        "shard_images": SHARD,
    }
    return Request(**words | changed)


def rows_of(out):
    """The rows of all shards in order."""
    return [row for path in sorted((out / "shards").iterdir()) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def plain(data, environment):
    """{name: (entries of predict.py's results, arrays of its file)}; made in a process like the actors'."""
    words = ["predict", str(data / "in"), "--weights", str(data / "net.caffemodel"), "--max_proposals", "20", "--npz"]
    words = [sys.executable, "-m", "fastmask_jax", *words, "--out", str(data / "out"), *caffe_network.command_line()]
    done = subprocess.run(words, env=environment, cwd=tiny.ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and "1 unreadable" in done.stdout, done.stderr
    names = {one["id"]: Path(one["file_name"]).name for one in json.loads((data / "out/images.json").read_text())}
    entries = {name: [] for name in names.values()}
    for entry in json.loads((data / "out/results.json").read_text()):
        entries[names[entry["image_id"]]].append(entry)
    return {name: (each, dict(np.load(data / "out/npz" / f"{name[:-4]}.npz"))) for name, each in entries.items()}


def check(out, plain):
    """Checks that every image occurs once, in order, with exactly the proposals of predict.py."""
    rows = rows_of(out)
    assert [row["image_id"] for row in rows] == [f"{n:03d}.png" for n in range(IMAGES)]
    for row in rows:
        if row["image_id"] not in plain:
            assert row["error"].startswith("an image of 6 bytes") and row["scores"] is row["height"] is None
            continue
        entries, arrays = plain[row["image_id"]]
        assert row["error"] is None and [row["height"], row["width"]] == arrays["image_size"].tolist()
        np.testing.assert_array_equal(np.array(row["scores"], np.float32), arrays["scores"])
        assert row["boxes"] == [entry["bbox"] for entry in entries]
        assert row["counts"] == [entry["segmentation"]["counts"] for entry in entries]
        assert len(entries) == 20
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] and manifest["images"] == IMAGES
    assert sum(one["images"] for one in manifest["files"]) == IMAGES
    assert not (out / "unfinished").exists()


def actors():
    """The processes of the pool's actors."""
    return [p for p in psutil.Process().children(recursive=True) if "Proposer" in " ".join(p.cmdline())]


def test_a_killed_actor_and_a_killed_machine_lose_nothing(cluster, data, plain, tmp_path):
    killed = []

    def kill(told):
        if told.done.images and len(killed) == 0:
            victim = actors()[0]
            killed.append(victim.pid)
            os.kill(victim.pid, signal.SIGKILL)
        elif told.done.images >= 3 * SHARD and len(killed) == 1:
            killed.append(next(iter(cluster.worker_nodes)))
            cluster.remove_node(killed[-1], allow_graceful=False)

    said = []
    done = propose_dataset(
        request(data), str(tmp_path / "out"), Pool(cluster.address), report=said.append, progress=kill
    )
    assert len(killed) == 2 and done.missing == 0
    assert done.totals.images == IMAGES and done.totals.errors == 1
    assert any("2 actors" in line for line in said)
    check(tmp_path / "out", plain)
    cluster.add_node(num_cpus=1, object_store_memory=80 << 20)


def test_a_restart_goes_on_and_refuses_other_settings(cluster, data, plain, tmp_path, capsys):
    out, pool = tmp_path / "out", Pool(cluster.address)

    def interrupt(told):
        if told.done.images:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        propose_dataset(request(data), str(out), pool, progress=interrupt)
    there = {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    assert 0 < len(there) < IMAGES // SHARD
    with pytest.raises(InvalidInput, match=r"begun with count=20, now 30"):
        propose_dataset(request(data, options=ProposeOptions(count=30)), str(out), pool)
    with pytest.raises(InvalidInput, match=r"shards are not there yet"):
        evaluate.main(["--results", str(out), "--annotations", str(annotations(data, tmp_path))])
    damaged = sorted(there)[0]
    (out / "shards" / damaged).write_bytes((out / "shards" / damaged).read_bytes()[:-9])
    said = []
    propose_dataset(request(data), str(out), pool, report=said.append)
    assert "going on" in said[0]
    check(out, plain)
    for name, changed in there.items():
        assert ((out / "shards" / name).stat().st_mtime_ns == changed) == (name != damaged)
    numbered = [entry | {"image_id": int(name[:3]) + 1} for name, (entries, _) in plain.items() for entry in entries]
    (tmp_path / "results.json").write_text(json.dumps(numbered))
    tables = []
    for path in (out, tmp_path / "results.json"):
        assert evaluate.main(["--results", str(path), "--annotations", str(annotations(data, tmp_path))]) == 0
        tables.append(capsys.readouterr().out.split("\n")[2].split("|")[2:])
    assert tables[0] == tables[1]


def annotations(data, folder):
    """A COCO file in which image n, counted from 1, has one object."""
    images, objects = [], []
    for number in range(IMAGES):
        height, width = (75, 100) if number % 3 else (100, 67)
        images.append({"id": number + 1, "file_name": f"photos/{number:03d}.png", "height": height, "width": width})
        box = [5, 5, 40, 40]
        polygon = [[5, 5, 45, 5, 45, 45, 5, 45]]
        entry = {"id": number + 1, "image_id": number + 1, "category_id": 1, "bbox": box, "area": 1600, "iscrowd": 0}
        objects.append(entry | {"segmentation": polygon})
    path = folder / "instances.json"
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "thing"}]}
    path.write_text(json.dumps(content))
    return path


def test_an_actor_writes_attention_and_refuses_other_weights(data, plain, tmp_path):
    """Calls an actor in this process: shard numbers in, files and reports out."""
    out = OutputFolder(str(tmp_path / "out"))
    chosen = request(data, inputs=[str(data / "in" / "000.png")])
    found = find_inputs(chosen.inputs, Counter())
    assert write_plan(found, out, 1) == (1, 1)
    job = Job(
        out=out,
        weights=chosen.weights,
        config=None,
        overrides=tuple(chosen.overrides),
        options=chosen.options,
        columns=chosen.columns,
        attention=True,
        batch_size=None,
        digest="",
        run="run",
        cores=0,
    )
    first = {"shard": np.array([0])}
    assert "give a folder that all machines share" in Proposer(job)(first)["problem"][0]
    with out.writing("manifest.json") as path:
        path.write_text("{}")
    done = Proposer(job)(first)
    assert (done["images"], done["errors"], done["proposals"], done["problem"]) == ([1], [0], [20], [""])
    (row,) = rows_of(tmp_path / "out")
    arrays = plain["000.png"][1]
    attention = np.array(row["attention"]).reshape(-1, 10, 10)
    np.testing.assert_allclose(attention, arrays["attention"], atol=1e-4)  # programs with another optimization level
    assert row["window_boxes"] == arrays["window_boxes"].tolist()

    assert "not the weights that" in Proposer(replace(job, digest="0" * 64))(first)["problem"][0]
    (problem,) = Proposer(replace(job, weights=str(data / "nowhere.safetensors")))(first)["problem"]
    assert "nowhere" in problem and "\n" not in problem


def test_tries_of_a_shard_are_counted(tmp_path):
    out = OutputFolder(str(tmp_path))
    for earlier in range(TRIES):
        with out.trying("run-7") as counted:
            assert counted == earlier
        (tmp_path / "unfinished" / f"try-run-7-{earlier}").touch()  # as a killed process leaves it
    with out.trying("run-7") as counted:
        assert counted == TRIES
    with out.trying("other_run-7") as counted:
        assert counted == 0


def test_a_full_disk_is_one_line_before_the_first_byte_too(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = OutputFolder(str(tmp_path))
    monkeypatch.setattr(LocalFileSystem, "pipe_file", full)
    with pytest.raises(DiskFull, match=r"unfinished: the disk is full .* free some space"), out.trying("run-7"):
        pass


def test_a_folder_with_other_things_is_refused(data):
    with pytest.raises(ExistingFile, match="choose a new folder"):
        propose_dataset(request(data), str(data), Pool())

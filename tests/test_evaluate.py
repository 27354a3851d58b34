"""evaluate.py on a tiny network: output files, other systems' results, unreadable images, one device and several."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from pycocotools.coco import COCO

from fastmask_jax.apps.command_line import evaluate, predict
from fastmask_jax.configuration import run_command
from fastmask_jax.masks.rle import ScoredMasks
from fastmask_jax.masks.suppression import reranked_scores
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.training.step import TrainState
from fastmask_jax.weights.checkpoints import Checkpoints, save_config
from tests import tiny

METRICS = {
    f"{kind}/{name}"
    for kind in ("segm", "bbox")
    for name in ("AR@10", "AR@100", "AR@1000", "AR_small@100", "AR_medium@100", "AR_large@100")
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.dataset(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def variables(data):
    """Random arrays, without compiling."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: initial_variables(build_model(tiny.config(data).model.to_dict()), 0))

    def draw(path, leaf):
        if path[-1].key == "var":
            return np.ones(leaf.shape, np.float32)
        return rng.normal(0, 1 / np.sqrt(max(np.prod(leaf.shape[:-1]), 1)), leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture
def workdir(tmp_path, data, variables):
    checkpoints = Checkpoints(tmp_path / "run", tiny.config(data).to_dict())
    checkpoints.save(TrainState(np.int32(3), **variables, opt_state=()))
    checkpoints.close()
    return tmp_path / "run"


def arguments(data, workdir, *more, **changed):
    return ["evaluate.py", "--config", tiny.CONFIG, "--workdir", str(workdir), *tiny.overrides(data, **changed), *more]


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", list(words))
    return run_command(evaluate.main)


def proposals(workdir):
    return json.loads((workdir / "proposals.json").read_text())


def without_time(workdir):
    return {k: v for k, v in json.loads((workdir / "metrics.json").read_text()).items() if k != "seconds_per_image"}


def refuse_nan(text):
    raise ValueError(text)


def test_files_and_devices(data, workdir, tmp_path_factory, monkeypatch, capsys):
    """The command on one device and this process on all devices give the same proposals and metrics."""
    environment = tiny.environment(tmp_path_factory.getbasetemp() / "compiled")
    words = [sys.executable, *arguments(data, workdir)]
    done = subprocess.run(words, cwd=tiny.ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower() and f"step 3 of {workdir}" in done.stderr
    assert "published" in done.stdout and "4 images, 0 unreadable" in done.stdout

    metrics = json.loads((workdir / "metrics.json").read_text(), parse_constant=refuse_nan)
    assert metrics.keys() == METRICS | {"images", "unreadable", "seconds_per_image"}
    assert metrics["images"] == tiny.VAL_IMAGES and metrics["seconds_per_image"] > 0
    truth = COCO(str(data / "annotations" / "instances_val.json"))
    found = truth.loadRes(str(workdir / "proposals.json"))
    assert sorted(found.getImgIds()) == sorted(truth.getImgIds())
    for entry in found.dataset["annotations"]:
        image = truth.imgs[entry["image_id"]]
        assert entry["segmentation"]["size"] == [image["height"], image["width"]] and 0 <= entry["score"] <= 1
    one_device, alone = proposals(workdir), without_time(workdir)

    assert command(monkeypatch, *arguments(data, workdir)) == 0
    assert without_time(workdir) == pytest.approx(alone, abs=1e-3, nan_ok=True)
    together = {(p["image_id"], p["segmentation"]["counts"]) for p in proposals(workdir)}
    assert len(together & {(p["image_id"], p["segmentation"]["counts"]) for p in one_device}) > 0.9 * len(together)
    capsys.readouterr()

    # Scoring the file as another system's gives the same metrics; nothing is written.
    before = (workdir / "metrics.json").read_text()
    scored = [
        "--results",
        str(workdir / "proposals.json"),
        "--annotations",
        tiny.settings(data)["evaluation.annotations"],
    ]
    assert command(monkeypatch, "evaluate.py", *scored) == 0
    table = capsys.readouterr().out
    assert f"{metrics['bbox/AR@100']:.3f}".lstrip("0") in table
    assert (workdir / "metrics.json").read_text() == before


def predicted(data, workdir, folder, monkeypatch, *words):
    """The entries that predict.py writes for the images of the split."""
    (folder / "images").mkdir()
    for image in json.loads((data / "annotations" / "instances_val.json").read_text())["images"]:
        named = folder / "images" / f"{image['id']:06}.jpg"
        named.write_bytes((data / "images" / image["file_name"]).read_bytes())
    save_config(workdir, tiny.config(data))
    paths = [str(folder / "images"), "--weights", str(workdir), "--out", str(folder / "out")]
    monkeypatch.setattr(sys, "argv", ["predict.py", *paths, "--count", "20", *words])
    assert run_command(predict.main) == 0
    return json.loads((folder / "out" / "results.json").read_text())


def test_predict_writes_what_evaluate_does(data, workdir, tmp_path, monkeypatch):
    """Both write the same entries, with several scales and re-ranking, so `--results` gives the same table."""
    changed = ["--config.evaluation.long_edges=72,96", "--config.evaluation.rerank_iou=0.5"]
    assert command(monkeypatch, *arguments(data, workdir, *changed)) == 0
    assert predicted(data, workdir, tmp_path, monkeypatch, *changed) == proposals(workdir)


def test_both_commands_take_tiles(data, workdir, tmp_path, monkeypatch):
    """The setting of evaluate.py and the option of predict.py give the same entries; those without tiles differ."""
    assert command(monkeypatch, *arguments(data, workdir)) == 0
    plain, whole = proposals(workdir), without_time(workdir)
    assert command(monkeypatch, *arguments(data, workdir, "--config.evaluation.tile=96")) == 0
    assert proposals(workdir) == plain, "an image that fits into a tile"
    tiles = ["--config.evaluation.tile=64", "--config.evaluation.tile_overlap=24"]
    assert command(monkeypatch, *arguments(data, workdir, *tiles)) == 0
    tiled = proposals(workdir)
    assert without_time(workdir).keys() == whole.keys() and tiled != plain
    counts = np.bincount([entry["image_id"] for entry in tiled])
    assert counts.max() <= 20
    assert tiled == predicted(data, workdir, tmp_path, monkeypatch, "--tile", "64", "--tile_overlap", "24")


def test_limit_takes_the_first_ids(data, workdir, monkeypatch, tmp_path):
    """Independent of the order in the file."""
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    content["images"] = content["images"][::-1]
    (tmp_path / "reversed.json").write_text(json.dumps(content))
    words = arguments(data, workdir, "--limit", "2", "--annotations", str(tmp_path / "reversed.json"))
    assert command(monkeypatch, *words) == 0
    assert {p["image_id"] for p in proposals(workdir)} == set(sorted(image["id"] for image in content["images"])[:2])
    assert json.loads((workdir / "metrics.json").read_text())["images"] == 2


def test_reranking_changes_only_scores(data, workdir, monkeypatch):
    assert command(monkeypatch, *arguments(data, workdir, "--limit", "1")) == 0
    plain = proposals(workdir)
    assert command(monkeypatch, *arguments(data, workdir, "--limit", "1", "--config.evaluation.rerank_iou=0.3")) == 0
    reranked = proposals(workdir)
    assert reranked == sorted(reranked, key=lambda p: -p["score"]) != plain
    place = {p["segmentation"]["counts"]: n for n, p in enumerate(plain)}
    assert len(place) == len(plain)
    demoted = sorted(reranked, key=lambda p: place[p["segmentation"]["counts"]])
    assert [{**p, "score": 0} for p in demoted] == [{**p, "score": 0} for p in plain]
    columns = [np.array([p[key] for p in plain], np.float32) for key in ("score", "bbox")]
    whole = ScoredMasks(*columns, [p["segmentation"] for p in plain], np.arange(len(plain)), 0)
    want = reranked_scores(whole, 0.3)
    np.testing.assert_allclose([p["score"] for p in demoted], want, rtol=1e-6)
    assert (want < columns[0]).any()


def test_broken_images_are_named_and_the_rest_is_kept(data, workdir, monkeypatch, tmp_path, capsys):
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    images = tmp_path / "images"
    images.mkdir()
    names = [image["file_name"] for image in content["images"]]
    for name in names[2:]:
        (images / name).write_bytes((data / "images" / name).read_bytes())
    (images / names[0]).write_bytes((data / "images" / names[0]).read_bytes()[:200])  # names[1] is missing
    assert command(monkeypatch, *arguments(data, workdir, "--images", str(images))) == 1
    out = capsys.readouterr().out
    assert all(name in out for name in names[:2]) and "2 images, 2 unreadable" in out
    assert {p["image_id"] for p in proposals(workdir)} == {image["id"] for image in content["images"][2:]}
    assert json.loads((workdir / "metrics.json").read_text())["unreadable"] == 2


def test_an_image_of_another_size_than_its_entry_is_named_and_the_rest_scored(
    data, workdir, monkeypatch, tmp_path, capsys
):
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    wrong = next(image for image in content["images"] if image["height"] != image["width"])
    wrong["height"], wrong["width"] = wrong["width"], wrong["height"]
    (tmp_path / "swapped.json").write_text(json.dumps(content))
    assert command(monkeypatch, *arguments(data, workdir, "--annotations", str(tmp_path / "swapped.json"))) == 1
    out = capsys.readouterr().out
    assert f"image {wrong['id']} skipped: {wrong['file_name']} (file 72x96, entry 96x72)" in out
    assert "3 images, 1 unreadable" in out and "published" in out
    assert wrong["id"] not in {p["image_id"] for p in proposals(workdir)}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--limit", "0"], "--limit: 0: expected an integer from 1"),
        (["--step", "7"], "no checkpoint of step 7; there are [3]"),
        (["--images", "nowhere"], "nowhere"),
        (["--annotations", "nowhere.json"], "nowhere.json"),
        (["--config.model.channels=6"], "does not fit the config: params/"),
        (["--workdir", "nowhere"], "no checkpoints in nowhere"),
        (["--results", "nowhere.json"], "--results needs --annotations"),
        (["--results", "nowhere.json", "--annotations", tiny.CONFIG], "shapes.py"),
    ],
)
def test_mistakes_get_a_line(data, workdir, monkeypatch, capsys, more, says):
    try:
        code = command(monkeypatch, *arguments(data, workdir, *more))
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not (workdir / "metrics.json").exists()

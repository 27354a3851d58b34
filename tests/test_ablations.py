"""benchmarks/ablations.py: one budget for all variants, nothing run twice, and a table by hand."""

import json
import sys

import pytest

from tests.tiny import ROOT

COCO_FEW = str(ROOT / "configs/coco_few.py")


@pytest.fixture
def ablations(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for name in ("ablations", "folds"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import ablations

    return ablations


def figures(hundred, seconds=0.5):
    names = ("AR@10", "AR@100", "AR@1000", "AR_small@100", "AR_medium@100", "AR_large@100")
    return {f"segm/{name}": hundred for name in names} | {"seconds_per_image": seconds}


def annotations(folder, images=10):
    coco = {
        "images": [{"id": n} for n in range(images)],
        "annotations": [{"id": n, "image_id": n // 2} for n in range(2 * images)],
        "categories": [],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(coco))
    return path


def test_every_variant_changes_something_and_only_that(ablations):
    """Each row of the list is a config that loads, with the common budget and settings that differ from the base."""
    budget = ablations.Budget(COCO_FEW, ("--config.train.batch_size=1",), None, 77)
    assert ablations.without_difference(ablations.VARIANTS, budget) == []
    for name, variant in ablations.VARIANTS.items():
        config = ablations.load_config(*ablations.settings_of(variant, 5, budget))
        assert (config.seed, config.train.images) == (5, 77), name


def test_a_variant_that_the_config_has_already_is_found(ablations):
    budget = ablations.Budget(str(ROOT / "configs/coco.py"), (), None, 5)
    rows = {name: ablations.VARIANTS[name] for name in ("no Dice loss", "max neck")}
    assert ablations.without_difference(rows, budget) == ["no Dice loss"]


def test_config_variants_are_joined(ablations):
    spec, texts = ablations.settings_of(
        ablations.Variant("max_neck", ("losses.dice=0.0",)),
        3,
        ablations.Budget("a.py:more", ("--config.x=1",), None, 9),
    )
    assert spec == "a.py:more,max_neck"
    assert {"--config.x=1", "--config.losses.dice=0.0", "--config.seed=3", "--config.train.images=9"} <= set(texts)
    assert ablations.settings_of(ablations.Variant(), 0, ablations.Budget("a.py", (), None, 9))[0] == "a.py"


def test_a_fold_splits_images_with_their_objects(ablations, tmp_path):
    train, held = ablations.split(annotations(tmp_path), 5, 1, tmp_path / "out")
    held, train = json.loads(held.read_text()), json.loads(train.read_text())
    assert [image["id"] for image in held["images"]] == [1, 6]
    assert {one["image_id"] for one in held["annotations"]} == {1, 6}
    assert len(train["images"]) == 8 and len(train["annotations"]) == 16


@pytest.fixture
def commands(ablations, monkeypatch):
    """Records the commands; training "diverges" for a Dice weight of 9, and evaluation gives .25."""
    seen = []

    def call(command, log):
        seen.append(command)
        log.write_text("lines\nthe last line")
        if command[0] == "evaluate":
            (log.parent / "metrics.json").write_text(json.dumps(figures(0.25)))
        return int("--config.losses.dice=9.0" in command)

    monkeypatch.setattr(ablations, "call", call)
    return seen


def test_finished_runs_are_not_run_again(ablations, commands, tmp_path):
    budget = ablations.Budget(COCO_FEW, (), "coco_few", 5)
    held = (tmp_path / "held.json", tmp_path)
    for _ in range(2):
        got = ablations.run(tmp_path / "a", ablations.Variant(), 0, budget, held)
        assert got == figures(0.25)
    assert [command[0] for command in commands] == ["train", "evaluate"]
    assert commands[0][-2:] == ["--weights", "coco_few"] and "--weights" not in commands[1]
    with pytest.raises(ValueError, match="holds a run with other settings"):
        ablations.run(tmp_path / "a", ablations.Variant(), 0, budget._replace(images=6), held)


def test_a_run_that_failed_is_named_and_tried_again(ablations, commands, tmp_path):
    budget, bad = ablations.Budget(COCO_FEW, (), None, 5), ablations.Variant(overrides=("losses.dice=9.0",))
    for _ in range(2):
        assert ablations.run(tmp_path / "a", bad, 0, budget, (tmp_path, tmp_path)) == {"failed": "train: the last line"}
    assert [command[0] for command in commands] == ["train", "train"]


def test_table_by_hand(ablations):
    rows = {
        "as configured": {0: figures(0.2), 1: figures(0.3)},
        "other": {0: figures(0.31), 1: {"failed": "train: NaN | broken"}},
        "nothing": {0: {"failed": "train: NaN | broken"}},
    }
    lines = ablations.table(rows).splitlines()
    assert lines[2] == "| as configured | " + "0.250 | " * 6 + " | 2 | 0.100 | 0.50 |"
    assert lines[3] == "| other | " + "0.310 | " * 6 + "+0.060 | 1 | – | 0.50 |"
    assert lines[4] == "| nothing (train: NaN / broken) | " + " | ".join("–" * 10) + " |"


def test_variants_of_a_file(ablations, tmp_path):
    path = tmp_path / "variants.json"
    path.write_text(json.dumps({"a": {}, "b": {"variant": "zoom", "overrides": ["seed=1"], "weights": "x"}}))
    assert ablations.read_variants(path) == {"a": ablations.Variant(), "b": ablations.Variant("zoom", ("seed=1",), "x")}
    path.write_text(json.dumps({"a": {"override": []}}))
    with pytest.raises(ValueError, match=r"variants.json: .*expected"):
        ablations.read_variants(path)

"""benchmarks/device.sh with fake commands: what it runs, on which devices, and that it reports every failure."""

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys

import pytest

from tests.docs_commands import commands
from tests.tiny import ROOT

STAND_IN = """#!{python}
import os, sys
if sys.argv[1] == "-c":
    print("{platform} 0.0 [one, two]")
    sys.exit({starts})
if sys.argv[1:3] == ["-m", "pytest"]:
    print("on", os.environ["JAX_PLATFORMS"])
print("did", *sys.argv[1:])
sys.exit(any(word in sys.argv[1:] for word in {failing}))
"""


def run(tmp_path, *arguments, platform="tpu", starts=0, failing=(), **environment):
    stand_in = tmp_path / "python"
    stand_in.write_text(STAND_IN.format(python=sys.executable, platform=platform, starts=starts, failing=list(failing)))
    stand_in.chmod(0o755)
    out = tmp_path / "out"
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "device.sh"), str(out), *map(str, arguments)],
        env=os.environ | {"PYTHON": str(stand_in)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done, out


def test_all_is_run_and_the_tests_on_the_device(tmp_path):
    done, out = run(tmp_path, tmp_path / "coco", platform="cuda")
    assert done.returncode == 0, done.stdout + done.stderr
    names = {path.stem for path in out.glob("*.txt")} - {"draw_shapes"}
    assert names == {
        *("summary", "tests", "benchmarks", "train_shapes", "evaluate_shapes"),
        *("records", "train_coco", "evaluate_coco"),
    }
    assert (out / "tests.txt").read_text().startswith("on cuda\n")
    assert (out / "summary.txt").read_text().startswith("cuda 0.0 [one, two]\n")
    tests = [word for word in (out / "tests.txt").read_text().split() if word.startswith("tests/")]
    assert len(tests) > 5 and all((ROOT / test).is_file() for test in tests)


def test_a_failure_is_the_exit_status_and_the_last_line(tmp_path):
    done, out = run(tmp_path, failing=["benchmarks/all.py", "train.py"])
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "failed: benchmarks train_shapes"
    assert (out / "evaluate_shapes.txt").is_file()  # the other steps still run


def test_chosen_steps_alone(tmp_path):
    done, out = run(tmp_path, ONLY="tests benchmarks")
    assert done.returncode == 0 and {path.stem for path in out.glob("*.txt")} == {"summary", "tests", "benchmarks"}


def test_all_benchmarks_become_markdown_and_json(tmp_path):
    """A real benchmark, one that fails, one that needs a file that is missing."""
    script = str(ROOT / "benchmarks" / "all.py")
    words = ["--out", str(tmp_path), "--rounds", "-1", "--only", "recall", "suppression", "pasting"]
    run = lambda *more: subprocess.run(  # noqa: E731
        [sys.executable, script, *words, *more],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    done = run()  # a negative number of rounds has no median
    assert done.returncode == 1, done.stdout + done.stderr
    assert "recall: left out, needs --annotations" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("failed: pasting, suppression;")
    done = run("--rounds", "1", "--only", "suppression")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "benchmarks.json").read_text())
    assert found["versions"]["jax"] == importlib.metadata.version("jax") and "cores" in found["device"]
    (rows,) = found["benchmarks"]["suppression"]["tables"]
    assert len(rows) == 3 and all(float(row["IoU 0.5"]) > 0 for row in rows)
    assert found["benchmarks"]["suppression"]["command"] in (tmp_path / "benchmarks.md").read_text()


def test_no_jax_is_one_line(tmp_path):
    done, _ = run(tmp_path, starts=1)
    assert done.returncode == 1 and done.stdout.startswith("JAX does not start") and done.stdout.count("\n") == 1


@pytest.mark.parametrize("name", ["records", "train_coco", "evaluate_coco", "train_shapes", "evaluate_shapes"])
def test_the_commands_exist(tmp_path, name, monkeypatch):
    """Each command is parsed by its own parser, then fails because files of docs/train_coco.md are missing."""
    _, out = run(tmp_path, tmp_path / "coco", ONLY=name)
    (script, *words) = commands((out / f"{name}.txt").read_text().removeprefix("did "))[0]
    command = importlib.import_module(f"fastmask_jax.apps.command_line.{script.removesuffix('.py')}")
    monkeypatch.chdir(ROOT)
    if script == "train.py":
        words.append(f"--config.data.records={tmp_path / 'records'}")
    with pytest.raises(FileNotFoundError) as caught:
        command.main(words)
    if name == "records":
        assert str(tmp_path / "coco" / "annotations" / "instances_train2014.json") in str(caught.value)

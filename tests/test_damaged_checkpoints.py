"""Damaged checkpoints: the previous one is used, wrong values are never used, and only damage is reported as damage."""

import errno
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from fastmask_jax.errors import InvalidInput
from fastmask_jax.weights.checkpoints import Checkpoints
from fastmask_jax.weights.damage import DamagedCheckpoint, naming_damage
from tests.test_checkpoints import CONFIG, assert_same, saved, state_at

TEMPLATE = jax.eval_shape(lambda: state_at(0))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with three checkpoints, all evaluated; the last one is the best."""
    workdir = tmp_path_factory.mktemp("whole")
    saved(workdir, (1, 0.1), (2, 0.2), (3, 0.3)).close()
    return workdir


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


DAMAGES = {
    "removed": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": flip,
    "overwritten": lambda path: path.write_bytes(np.random.default_rng(0).bytes(200)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_broken_file_gives_the_whole_state_or_the_one_before(whole, tmp_path, damage, caplog):
    """Training moves the damaged checkpoint aside and saves that step again; inference only reads."""
    files = [path.relative_to(whole) for path in sorted((whole / "checkpoints/3").rglob("*")) if path.is_file()]
    files = [path for path in files if "ocdbt.process_0" not in str(path)]  # copies that are never read
    assert len(files) > 8
    passed_over = 0
    for number, file in enumerate(files):
        run = shutil.copytree(whole, tmp_path / str(number))
        DAMAGES[damage](run / file)
        caplog.clear()
        reading = Checkpoints(run)
        step, state = reading.best_whole(lambda step, reading=reading: reading.restore(TEMPLATE, step))
        assert_same(state, state_at(step))
        said = "its metrics are broken" if "metrics" in str(file) else "not a whole"
        assert step == 3 or caplog.text.count(f"{run}/checkpoints/3: {said}") == 1, file
        writing = Checkpoints(run, CONFIG)
        resumed = writing.resume(TEMPLATE)
        assert_same(resumed.state, state_at(resumed.step))
        assert resumed.step in (2, 3) and step in (2, 3)
        if resumed.step == 2:
            passed_over += 1
            (line,) = resumed.passed_over
            assert line.startswith(f"{run}/checkpoints/3: not a whole checkpoint") and "\n" not in line, file
            assert (run / "damaged/3").is_dir() and writing.steps == [1, 2]
            writing.save(state_at(3))
            writing.wait()
            assert_same(writing.restore(TEMPLATE, 3), state_at(3))
        writing.close()
    assert passed_over > 3 or damage == "flipped"


def test_changed_values_are_found(tmp_path):
    """orbax has no checksum for incompressible arrays: a flipped bit would change a value."""
    values = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4096)), jnp.float32)
    checkpoints = Checkpoints(tmp_path, CONFIG)
    state = state_at(1).replace(frozen_stats={"m": values})
    checkpoints.save(state)
    checkpoints.close()
    flip(max((tmp_path / "checkpoints/1/state/d").iterdir(), key=lambda path: path.stat().st_size))
    with pytest.raises(DamagedCheckpoint, match=r"checkpoints/1: not a whole checkpoint \("):
        Checkpoints(tmp_path).restore(state, 1)


def test_a_changed_config_is_found(run):
    """Another digit of a setting is JSON as good as the right one."""
    path = run / "checkpoints/3/config/metadata"
    path.write_text(path.read_text().replace("12", "13"))
    reading = Checkpoints(run)
    with pytest.raises(DamagedCheckpoint, match=r"checkpoints/3: not a whole checkpoint \(its config has changed"):
        reading.config(3)
    assert reading.best_whole(lambda step: reading.restore(TEMPLATE, step))[0] == 2
    assert reading.latest_config() == reading.config(2)
    assert Checkpoints(run, CONFIG).resume(TEMPLATE).step == 2


def test_a_changed_metric_makes_no_checkpoint_the_best(run, caplog):
    path = run / "checkpoints/1/metrics/metrics"
    path.write_text(path.read_text().replace("0.1", "0.9"))
    assert Checkpoints(run).best == 3 and "checkpoints/1: its metrics are broken" in caplog.text


def test_an_empty_folder_is_passed_over(run, caplog):
    (run / "checkpoints/999").mkdir()
    assert Checkpoints(run).best == 3
    assert Checkpoints(run).best_whole(lambda step: step) == (3, 3)
    assert "checkpoints/999: not a whole checkpoint (it holds no state); step 3 is taken instead" in caplog.text
    assert Checkpoints(run).latest_config() == Checkpoints(run).config(3)
    resumed = Checkpoints(run, CONFIG).resume(TEMPLATE)
    assert resumed.step == 3 and (run / "damaged/999").is_dir()
    assert resumed.passed_over == [
        f"{run}/checkpoints/999: not a whole checkpoint (it holds no state); moved to {run}/damaged"
    ]


@pytest.mark.parametrize("metrics", ["{", "3", '{"segm/AR@100": "x"}'])
def test_broken_metrics_open_no_less(run, metrics, caplog):
    """orbax by itself cannot open a folder with such a file."""
    (run / "checkpoints/3/metrics/metrics").write_text(metrics)
    reading = Checkpoints(run)
    assert reading.best == 2
    assert reading.best_whole(lambda step: reading.restore(TEMPLATE, step))[0] == 2
    assert Checkpoints(run, CONFIG).resume(TEMPLATE).step == 3  # its arrays are whole
    assert caplog.text.count(f"{run}/checkpoints/3: its metrics are broken: it counts as not evaluated") == 1


@pytest.mark.parametrize("damage", [Path.mkdir, Path.touch])
def test_metrics_without_their_file_are_broken(run, damage, caplog):
    shutil.rmtree(run / "checkpoints/3/metrics")
    assert Checkpoints(run).best == 2 and not caplog.text  # not evaluated
    damage(run / "checkpoints/3/metrics")
    assert Checkpoints(run).best == 2 and "checkpoints/3: its metrics are broken" in caplog.text


@pytest.mark.parametrize("folder", ["", "metrics", "state"])
def test_a_closed_folder_is_no_damage(run, folder):
    closed = run / "checkpoints/3" / folder
    closed.chmod(0)
    try:
        if os.access(closed, os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(PermissionError, match="checkpoints/3"):
            reading = Checkpoints(run)
            reading.best_whole(lambda step: reading.restore(TEMPLATE, step))
    finally:
        closed.chmod(0o700)


def test_where_none_is_whole_nothing_is_moved_or_begun(run):
    for step in (1, 2, 3):
        (run / f"checkpoints/{step}/state/_METADATA").write_text("{")
    with pytest.raises(DamagedCheckpoint, match=r"are damaged, and there is no other: move .* away to begin anew"):
        Checkpoints(run, CONFIG).resume(TEMPLATE)
    assert Checkpoints(run).steps == [1, 2, 3] and not (run / "damaged").exists()
    with pytest.raises(DamagedCheckpoint, match="checkpoints/1: not a whole"):
        reading = Checkpoints(run)
        reading.best_whole(lambda step: reading.restore(TEMPLATE, step))


def test_a_checkpoint_of_before_without_checksums_is_read(run):
    for step in (1, 2, 3):
        shutil.rmtree(run / f"checkpoints/{step}/written")
        (run / f"checkpoints/{step}/metrics/metrics").write_text(json.dumps({"segm/AR@100": step / 10}))
    assert Checkpoints(run).best == 3
    assert_same(Checkpoints(run, CONFIG).resume(TEMPLATE).state, state_at(3))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        PermissionError(errno.EACCES, "Permission denied", "a"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ENOSPC, "No space left on device"),
        ImportError("no module"),
        RuntimeError("RESOURCE_EXHAUSTED: out of device memory"),
        ValueError("RESOURCE_EXHAUSTED: too many open files"),
        ValueError("UNAVAILABLE: the file system does not answer"),
    ],
)
def test_what_says_nothing_about_the_checkpoint_is_passed_on(run, error):
    with pytest.raises(type(error)) as caught, naming_damage(Path("c/5"), ocp.__version__):
        raise error
    assert caught.value is error
    with pytest.raises(type(error)) as caught, naming_damage(Path("c/5"), ocp.__version__):
        raise Exception("orbax says in which array") from error
    assert caught.value is error
    for checkpoints in (Checkpoints(run), Checkpoints(run, CONFIG)):

        def fail(*_, **__):
            raise error

        checkpoints._manager.restore = fail
        with pytest.raises(type(error)) as caught:
            checkpoints.restore(TEMPLATE, 3)
        assert caught.value is error
    assert Checkpoints(run).steps == [1, 2, 3] and not (run / "damaged").exists()


def test_a_forbidden_file_is_no_damage():
    with pytest.raises(PermissionError, match="c/5"), naming_damage(Path("c/5"), ocp.__version__):
        raise ValueError('PERMISSION_DENIED: Error opening "zarr" driver')  # as tensorstore says it


@pytest.mark.parametrize("written_by", [None, "0.0.1"])
def test_another_format_is_not_called_damage(written_by):
    for error in (KeyError("value_metadata"), AttributeError("param_name"), ValueError("an unknown layout")):
        with pytest.raises(InvalidInput, match="cannot read it") as caught, naming_damage(Path("c/5"), written_by):
            raise error
        assert not isinstance(caught.value, DamagedCheckpoint) and "or is damaged" in str(caught.value)
        with pytest.raises(DamagedCheckpoint), naming_damage(Path("c/5"), ocp.__version__):
            raise error


def test_what_is_written_names_the_writer_and_the_arrays(whole):
    written = json.loads((whole / "checkpoints/3/written/metadata").read_text())
    assert written["orbax"] == ocp.__version__
    assert {"step", "params/body/conv/kernel", "batch_stats/w"} <= written["crc32"].keys()

"""A full disk, simulated by /dev/full: nothing waits forever, and one line names the last safe checkpoint."""

import errno
import os
from functools import partial

import pytest
from tensorboardX.record_writer import RecordWriter

from fastmask_jax.errors import UserError
from fastmask_jax.full_disk import DiskFull, naming_full_disk
from fastmask_jax.training import tensorboard_file
from fastmask_jax.training.interruptions import what_is_safe
from fastmask_jax.training.reporting import Reporter
from fastmask_jax.weights.checkpoints import Checkpoints
from fastmask_jax.whole_file import whole_file
from tests.test_checkpoints import CONFIG, saved, state_at

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")


def test_tensorboard_on_a_full_disk_ends_the_run(tmp_path, monkeypatch):
    """tensorboardX's writer would lose its thread and wait forever after about eleven values."""
    monkeypatch.setattr(tensorboard_file, "RecordWriter", lambda path: RecordWriter("/dev/full"))
    with pytest.raises(OSError) as caught, Reporter(tmp_path, total_steps=9, batch_size=1, start_step=0) as reporter:
        for step in range(1, 1000):
            reporter.log(step, {"loss": 1.0})
    assert caught.value.errno == errno.ENOSPC
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_metrics_on_a_full_disk_end_the_run(tmp_path):
    with pytest.raises(OSError) as caught, Reporter(tmp_path, total_steps=9, batch_size=1, start_step=0) as reporter:
        reporter._lines.close()
        reporter._lines = open("/dev/full", "w", buffering=1)  # noqa: SIM115
        reporter.log(1, {"loss": 1.0})
    assert caught.value.errno == errno.ENOSPC


def test_checkpoints_on_a_full_disk(tmp_path):
    """tensorstore raises ValueError, in the call or in the next one; the run ends with a line all the same."""

    def full(*_, **__):
        raise ValueError('RESOURCE_EXHAUSTED: Error writing local file "x": No space left on device')

    checkpoints = Checkpoints(tmp_path, CONFIG)
    for name, call in (("save", lambda: checkpoints.save(state_at(1))), ("wait_until_finished", checkpoints.wait)):
        line = "the disk is full .No space left on device.; nothing is saved yet"
        with pytest.MonkeyPatch.context() as patched, pytest.raises(DiskFull, match=line):
            patched.setattr(checkpoints._manager, name, full)
            with naming_full_disk(tmp_path, partial(what_is_safe, tmp_path)):
                call()
    checkpoints.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_one_line_says_which_step_is_safe(tmp_path, number):
    saved(tmp_path, 1, 2).close()
    with pytest.raises(DiskFull) as caught, naming_full_disk(tmp_path, partial(what_is_safe, tmp_path)):
        raise OSError(number, os.strerror(number), "runs/x/metrics.jsonl")
    line = str(caught.value)
    assert line.startswith("runs/x/metrics.jsonl: the disk is full") and "the checkpoint of step 2 is safe" in line
    assert "\n" not in line and isinstance(caught.value, UserError)
    empty = tmp_path / "empty"
    with pytest.raises(DiskFull, match="nothing is saved yet"), naming_full_disk(empty, partial(what_is_safe, empty)):
        (empty / "checkpoints").mkdir(parents=True)
        raise OSError(number, os.strerror(number))
    with pytest.raises(PermissionError), naming_full_disk(tmp_path, ""):
        raise PermissionError(errno.EACCES, "denied")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EFBIG, os.strerror(errno.EFBIG)),  # of ulimit -f
        RuntimeError("INTERNAL: write() failed: No space left on device"),  # as C++ libraries say it
        ValueError("RESOURCE_EXHAUSTED: Disk quota exceeded"),
        OSError("Not enough disk space. Needed: Unknown size (download: Unknown size)"),  # of tfds
    ],
)
def test_other_words_for_it_are_understood(error):
    line = r"^out.npz: the disk is full \(.*\); try again$"
    with pytest.raises(DiskFull, match=line), naming_full_disk("out.npz", "try again"):
        raise error
    with pytest.raises(DiskFull, match=line), naming_full_disk("out.npz", "try again"):
        try:
            raise error
        except Exception as cause:
            raise KeyError("what a library makes of it") from cause


def test_a_file_is_whole_or_unchanged(tmp_path):
    path = tmp_path / "new/file"
    with whole_file(path) as part:
        part.write_text("first")
    with pytest.raises(OSError, match="No space"), whole_file(path) as part:
        part.write_text("sec")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_a_copy_names_the_file_that_is_written(tmp_path):
    """As shutil.copyfile raises it; its message, too, has both names."""
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/source", None, "/mnt/target")
    assert "'/tmp/source' -> '/mnt/target'" in str(error)
    with pytest.raises(DiskFull, match=r"^/mnt/target: the disk is full"), naming_full_disk(tmp_path, "go on"):
        raise error

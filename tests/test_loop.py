"""Whole runs: stopped and resumed, finished, diverged; in this process on all devices, and as a command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest
from filelock import FileLock

from fastmask_jax.apps.command_line import train
from fastmask_jax.configuration import run_command
from fastmask_jax.training import evaluation, loop
from fastmask_jax.training.reporting import Reporter
from fastmask_jax.training.run_lock import locked
from fastmask_jax.weights.checkpoints import BEST, Checkpoints
from tests import tiny

STEPS = 4
BATCH = 8


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    if BATCH % jax.local_device_count():
        pytest.skip(f"needs a number of devices that divides {BATCH}")
    folder = tmp_path_factory.getbasetemp() / "compiled"
    with tiny.compilations_kept(folder):
        yield folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.dataset(tmp_path_factory.getbasetemp())


def settings(data, **changed):
    """Returns the settings of a run of four steps that logs after three."""
    few = {"train__batch_size": BATCH, "train__images": STEPS * BATCH - 3, "train__log_every": 3}
    return tiny.config(data, **few | changed)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """(final state, workdir) of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("straight")
    outcome = loop.run(settings(data), workdir)
    assert outcome.stopped_by is None
    return jax.device_get(outcome.state), workdir


def stop_after(monkeypatch, step, number=signal.SIGTERM):
    """Sends the signal while the loop processes the step."""
    advance = Reporter.advance

    def and_stop(self, at):
        advance(self, at)
        if at == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Reporter, "advance", and_stop)


def history(workdir, kind="train"):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def assert_bit_equal(got, want):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def test_stopped_and_gone_on_is_bit_equal(data, straight, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        stop_after(patched, 2)
        outcome = loop.run(settings(data), tmp_path)
    assert outcome.stopped_by == signal.SIGTERM and int(outcome.state.step) == 2
    assert "stopped by SIGTERM after step 2, which is saved" in capsys.readouterr().out
    assert not history(tmp_path)  # the log after step 3 holds the means of all three
    outcome = loop.run(settings(data, data__workers=1), tmp_path)
    assert "resuming from step 2 of 4" in capsys.readouterr().out
    want, _ = straight
    assert int(outcome.state.step) == STEPS
    assert_bit_equal(outcome.state, want)
    momentum = jax.tree.leaves(outcome.state.opt_state[1:3])
    assert any(np.any(x) for x in momentum) and float(outcome.state.batch_stats["window_norm"]["weight"]) > 1


def test_a_run_reports_all_its_steps_and_saves_the_last(straight):
    state, workdir = straight
    lines = history(workdir)
    assert [line["step"] for line in lines] == [3, 4]  # the last log is of one step
    assert all(np.isfinite(line[key]) for line in lines for key in ("loss", "mask", "update_norm", "learning_rate"))
    assert lines[1]["images"] == STEPS * BATCH
    checkpoints = Checkpoints(workdir)
    assert checkpoints.steps == [STEPS]
    assert np.all(state.params["body"]["stem_norm"]["scale"] != 1)  # this config trains the body's norms
    assert_bit_equal(checkpoints.restore(state, STEPS), state)
    assert json.loads((workdir / "config.json").read_text())["train"]["batch_size"] == BATCH


def test_a_run_compiles_one_program_for_each_bucket(data, tmp_path, monkeypatch):
    """Nothing compiles after the first step of each bucket."""
    advance, seen = Reporter.advance, []
    with tiny.compilations() as compiled:

        def and_count(self, at):
            advance(self, at)
            seen.append(len(compiled))

        monkeypatch.setattr(Reporter, "advance", and_count)
        batch = jax.local_device_count()
        few = {"train__batch_size": batch, "train__images": 10 * batch, "train__log_every": 20}
        changed = settings(data, **few, data__buckets=((72, 96), (96, 96)))
        plan = loop.training_data(changed, batch)[2]
        loop.run(changed, tmp_path)
    of_step = [plan[step][0] for step in range(10)]
    first = [of_step.index(bucket) for bucket in set(of_step)]
    assert len(first) == 2 or batch > 1  # small sets of images fill only the larger bucket
    assert len(seen) == 10
    assert [n for n in range(1, 10) if seen[n] > seen[n - 1]] == [max(first)] * (len(first) - 1)


def test_a_finished_run_says_so(data, straight, capsys, monkeypatch):
    state, workdir = straight
    monkeypatch.setattr(loop, "map_over_devices", None)  # nothing is compiled for it
    outcome = loop.run(settings(data), workdir)
    assert "this run is finished" in capsys.readouterr().out
    assert outcome.stopped_by is None
    assert_bit_equal(outcome.state, state)


def command(monkeypatch, data, workdir, **changed):
    """Runs train.py in this process, where its programs are compiled already; returns the exit code."""
    few = {"train__batch_size": BATCH, "train__images": STEPS * BATCH - 3}
    arguments = ["train.py", "--config", tiny.CONFIG, "--workdir", str(workdir)]
    monkeypatch.setattr(sys, "argv", arguments + tiny.overrides(data, **few | changed))
    return run_command(train.main)


@pytest.mark.parametrize(("scaling", "rate"), [("linear", 0.05 * BATCH / 2), ("none", 0.05)])
def test_a_batch_that_the_devices_cannot_share_grows(data, tmp_path, capsys, monkeypatch, scaling, rate):
    """The learning rate follows, and a line says so; the run keeps that batch on other devices."""
    monkeypatch.setattr(jax, "device_count", lambda *_: BATCH)
    config = settings(data, train__batch_size=1, train__images=0, optimizer__batch_scaling=scaling)
    loop.run(config, tmp_path)
    line = f"a step takes {BATCH} images, 1 on each device, not train.batch_size=1; the learning rate is {rate:g}, not"
    assert line in capsys.readouterr().out
    assert json.loads((tmp_path / "config.json").read_text())["train"]["batch_size"] == BATCH
    assert config.train.batch_size == 1


def test_a_run_keeps_its_batch(data, straight, capsys, monkeypatch):
    _, workdir = straight
    loop.run(settings(data, train__batch_size=1), workdir)
    out = capsys.readouterr().out
    assert f"a step takes {BATCH} images" in out and "this run is finished" in out and "setting changed" not in out
    monkeypatch.setattr(jax, "device_count", lambda *_: 5)
    assert command(monkeypatch, data, workdir) == 2
    assert f"a batch of {BATCH} images, which 5 devices cannot share evenly" in capsys.readouterr().err


def test_a_damaged_checkpoint_costs_its_steps_alone(data, straight, tmp_path, capsys):
    """The run resumes from the previous checkpoint and ends with the same weights."""
    want, _ = straight
    loop.run(settings(data, train__checkpoint_every=2), tmp_path)
    (tmp_path / f"checkpoints/{STEPS}/state/_METADATA").write_text("{")
    capsys.readouterr()
    outcome = loop.run(settings(data, train__checkpoint_every=2), tmp_path)
    out = capsys.readouterr().out
    assert f"checkpoints/{STEPS}: not a whole checkpoint" in out and "resuming from step 2 of 4" in out
    assert_bit_equal(outcome.state, want)
    assert Checkpoints(tmp_path).steps == [2, STEPS] and (tmp_path / "damaged" / str(STEPS)).is_dir()


def test_another_network_is_refused_in_a_line(data, straight, capsys, monkeypatch):
    _, workdir = straight
    config = (workdir / "config.json").read_text()
    assert command(monkeypatch, data, workdir, model__channels=6) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "does not fit the config: params/" in error and "\n" not in error
    assert (workdir / "config.json").read_text() == config


def test_missing_files_are_named_before_anything_is_made(data, tmp_path, capsys, monkeypatch):
    for changed in ({"data__records": tmp_path}, {"train__evaluate_every": 5, "evaluation__annotations": "no.json"}):
        assert command(monkeypatch, data, tmp_path / "run", **changed) == 2
        error = capsys.readouterr().err.strip()
        assert str(next(reversed(changed.values()))) in error and "\n" not in error
    assert not (tmp_path / "run").exists()


def poisoned(monkeypatch, step):
    """Makes the objectness labels of one batch NaN."""
    batches = loop.train_batches

    def spoiled(*arguments, **options):
        for number, batch in enumerate(batches(*arguments, **options)):
            yield batch._replace(score_labels=batch.score_labels * np.float32("nan")) if number == step else batch

    monkeypatch.setattr(loop, "train_batches", spoiled)


def test_nan_stops_with_step_images_and_the_last_good_checkpoint(data, tmp_path, capsys, monkeypatch):
    numbers = [image["id"] for image in json.loads((data / "annotations/instances_train.json").read_text())["images"]]
    poisoned(monkeypatch, 2)
    assert command(monkeypatch, data, tmp_path, train__checkpoint_every=1) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: the loss is nan in step 3 (images [") and "\n" not in error
    assert all(int(n) in numbers for n in error.partition("[")[2].partition("]")[0].split(","))
    assert "the last checkpoint is step 2 (move it away to resume from step 1)" in error
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps == [1, 2]
    template = jax.eval_shape(lambda: straight_template(data))
    for step in checkpoints.steps:
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(checkpoints.restore(template, step)))


def test_nothing_is_deleted_after_nan(data, tmp_path, capsys, monkeypatch):
    """Not even the latest checkpoint, which may be the best one."""
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: {BEST: 0.5})
    poisoned(monkeypatch, 2)
    assert command(monkeypatch, data, tmp_path, train__evaluate_every=2, train__keep_checkpoints=1) == 1
    assert "the last checkpoint is step 2. Try a lower" in capsys.readouterr().err
    assert (Checkpoints(tmp_path).steps, Checkpoints(tmp_path).best) == ([2], 2)


def straight_template(data):
    config = settings(data)
    model = loop.build_model(config.model.to_dict())
    optimizer, _ = loop.build_optimizer(config.optimizer.to_dict(), BATCH, config.train.images)
    return loop.create_state(model, optimizer, 0)


@pytest.mark.parametrize("broken", ["loss", "gradient_norm", "update_norm"])
def test_any_reading_that_is_no_number_stops(tmp_path, broken):
    """With a finite loss and an infinite update, invalid weights would be saved."""
    metrics = {name: np.float32(1) for name in ("loss", "gradient_norm", "update_norm")} | {broken: np.float32("inf")}
    checkpoints = Checkpoints(tmp_path, {})
    with pytest.raises(loop.Diverged, match=rf"the {broken.replace('_', ' ')} is inf in step 1 .*nothing is saved yet"):
        loop._checked(loop._Pending(0, np.array([7]), metrics), checkpoints)
    checkpoints.close()


def test_the_best_evaluated_checkpoint_stays(data, tmp_path, monkeypatch):
    recalls = iter(figures := [0.1, 0.7, 0.3, 0.2])
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: {BEST: next(recalls)})
    loop.run(settings(data, train__evaluate_every=1, train__keep_checkpoints=1), tmp_path)
    checkpoints = Checkpoints(tmp_path)
    assert (checkpoints.steps, checkpoints.best, checkpoints.latest) == ([2, 4], 2, 4)
    assert [line[BEST] for line in history(tmp_path, "evaluation")] == figures


def test_a_signal_during_an_evaluation_does_not_wait_for_its_end(data, tmp_path, monkeypatch):
    def endless(generator, results, report, stop):
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop():
            pass

    monkeypatch.setattr(evaluation, "evaluate", endless)
    outcome = loop.run(settings(data, train__evaluate_every=3), tmp_path)
    assert outcome.stopped_by == signal.SIGTERM
    assert Checkpoints(tmp_path).steps == [3] and not history(tmp_path, "evaluation")


def reported(workdir):
    """What metrics.jsonl says of a run, without times and memory."""
    measured = {"time", "images_per_second", "seconds_left", "process_memory_bytes", "process_memory_peak_bytes"}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line.keys() - measured} for line in lines]


def test_a_resumed_run_reports_what_one_without_a_stop_does(data, straight, tmp_path, monkeypatch):
    """Stopped between two logs, stopped in evaluations, also in the last, and killed after the second step."""
    figures, calls = {}, iter(range(100))

    def evaluated(generator, results, report, stop):
        if patient or next(calls) % 2:
            bias = np.asarray(generator._model.variables["params"]["lateral"]["bias"])
            return {BEST: figures.setdefault(bias.tobytes(), float(len(figures)))}
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(evaluation, "evaluate", evaluated)
    every = {"train__evaluate_every": 2, "train__checkpoint_every": 1, "train__log_every": 3}
    patient = True
    loop.run(settings(data, **every), tmp_path / "straight")
    patient = False
    with monkeypatch.context() as patched:
        stop_after(patched, 1)
        assert loop.run(settings(data, **every), tmp_path / "run").stopped_by == signal.SIGTERM
    stops = 1
    while (outcome := loop.run(settings(data, **every), tmp_path / "run")).stopped_by:
        stops += 1
        assert stops < 9
    assert stops == 3 and int(outcome.state.step) == STEPS
    assert reported(tmp_path / "run") == reported(tmp_path / "straight")
    assert [line["step"] for line in history(tmp_path / "run")] == [3, 4]
    assert Checkpoints(tmp_path / "run").best == Checkpoints(tmp_path / "straight").best
    for step in (3, 4):  # as after a crash that cost them
        shutil.rmtree(tmp_path / f"run/checkpoints/{step}")
    patient = True
    loop.run(settings(data, **every), tmp_path / "run")
    assert reported(tmp_path / "run") == reported(tmp_path / "straight")


def start(data, workdir, folder, start_new_session=False, **changed):
    """Starts train.py for a thousand steps in a process of its own."""
    arguments = tiny.overrides(data, train__images=4000, train__batch_size=4, data__workers=1, **changed)
    return subprocess.Popen(
        [sys.executable, "train.py", "--config", tiny.CONFIG, "--workdir", str(workdir), *arguments],
        cwd=tiny.ROOT,
        env=tiny.environment(folder),
        start_new_session=start_new_session,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stopped(process, number):
    """Sends a signal after the first log; returns (exit code, later output, errors)."""
    try:
        for line in process.stdout:
            if line.startswith("step "):
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, line + out, err


def test_a_second_run_in_the_same_folder_is_refused(data, tmp_path, compiled_once):
    """A lock stands for the first run; the lock of a killed run is free."""
    with FileLock(tmp_path / "lock"):
        process = start(data, tmp_path, compiled_once)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err == f"error: {tmp_path}: another run is training there: stop it first, or give another --workdir\n"
    assert not (tmp_path / "checkpoints").exists() and (tmp_path / "lock").exists()
    with locked(tmp_path):
        pass


def test_the_command_stops_at_a_signal_and_goes_on(data, tmp_path, compiled_once):
    code, out, err = stopped(start(data, tmp_path, compiled_once), signal.SIGTERM)
    assert (code, err) == (143, "")
    saved = Checkpoints(tmp_path).latest
    assert f"stopped by SIGTERM after step {saved}, which is saved" in out
    code, out, err = stopped(start(data, tmp_path, compiled_once), signal.SIGINT)
    assert (code, err) == (130, "")
    later = Checkpoints(tmp_path).latest
    assert later > saved and f"stopped by SIGINT after step {later}, which is saved" in out
    assert [line["step"] for line in history(tmp_path)] == sorted({line["step"] for line in history(tmp_path)})


def shared_memory(process):
    """Files of /dev/shm that a process or its children have mapped; other tests have theirs at the same time."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    mapped = {Path(region.path) for one in family for region in one.memory_maps()}
    return {path for path in mapped if path.parent == Path("/dev/shm") and path.exists()}


@pytest.mark.skipif(sys.platform != "linux", reason="lists /dev/shm")
@pytest.mark.parametrize("whole_group", [True, False])
def test_killed_processes_leave_no_shared_memory(data, tmp_path, compiled_once, whole_group):
    """Not even if workers and all that shares their process group die at once."""
    process = start(data, tmp_path, compiled_once, start_new_session=True)
    for line in process.stdout:
        if line.startswith("step "):
            break
    own = shared_memory(process)
    assert own
    time.sleep(1)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    # A file that a worker has made, and not yet told the tracker of, stays: it is younger than a second.
    own = {path for path in own if path.exists() and path.stat().st_ctime < time.time() - 1}
    last = time.monotonic() + 30
    while (left := [path for path in own if path.exists()]) and time.monotonic() < last:
        time.sleep(0.1)
    assert not left


def test_a_dead_data_worker_is_a_line(data, tmp_path, compiled_once):
    process = start(data, tmp_path, compiled_once)
    for line in process.stdout:
        if line.startswith("step "):
            break
    (worker,) = [
        child for child in psutil.Process(process.pid).children() if "resource_tracker" not in " ".join(child.cmdline())
    ]
    worker.kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2, out + err
    assert err.startswith("error: a data worker process died") and err.count("\n") == 1


def test_signals_in_quick_succession_print_no_traceback(data, tmp_path, compiled_once):
    """To the whole group, as a terminal sends them when it is closed."""
    process = start(data, tmp_path, compiled_once, start_new_session=True)
    for line in process.stdout:
        if line.startswith("step "):
            break
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        os.killpg(process.pid, number)
    out, err = process.communicate(timeout=120)
    saved = Checkpoints(tmp_path).latest
    assert (process.returncode, err) == (128 + signal.SIGHUP, "")
    assert f"stopped by SIGHUP after step {saved}, which is saved" in out

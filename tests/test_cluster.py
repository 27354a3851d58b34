"""Commands run by two processes with two devices each, over loopback, compared with one process; and unit tests."""

import argparse
import itertools
import json
import signal
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmask_jax import cluster
from fastmask_jax.apps.command_line import main
from fastmask_jax.apps.command_line.cluster_flags import add_cluster_flags, check_cluster_flags
from fastmask_jax.errors import InvalidInput
from fastmask_jax.masks.coco_results import JsonListWriter
from fastmask_jax.training.interruptions import Stop
from fastmask_jax.weights.checkpoints import saved_steps
from tests import tiny
from tests.hosts import Hosts, train

LONG = {"train__images": 40_000, "optimizer__learning_rate": 1e-3}
# More images than a run reaches before it is stopped, and a rate at which rounding does not grow from step to step.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.dataset(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def run(data, compiled, tmp_path_factory):
    """(step, workdir) of a run of two processes, the second of which received SIGTERM."""
    workdir = tmp_path_factory.mktemp("hosts") / "run"
    with Hosts(2, 2, train(data, workdir, **LONG, train__evaluate_every=4), compiled) as hosts:
        hosts.wait_for("^step +5/")
        hosts.processes[1].send_signal(signal.SIGTERM)
        assert hosts.codes() == [128 + signal.SIGTERM] * 2, hosts.text()
        step = max(saved_steps(workdir))
        assert hosts.said(f"stopped by SIGTERM after step {step}, which is saved"), hosts.text()
    return step, workdir


def history(workdir, kind):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if line["kind"] == kind}


def test_one_process_takes_the_same_steps(data, run, compiled, tmp_path):
    step, workdir = run
    with Hosts(1, 2, train(data, tmp_path, **LONG), compiled) as host:
        host.wait_for(f"^step +{step}/")
        host.processes[0].terminate()
        assert host.codes() == [128 + signal.SIGTERM], host.text()
    ours, theirs = history(tmp_path, "train"), history(workdir, "train")
    assert list(theirs) == list(range(1, step + 1))
    for name in ("loss", "gradient_norm", "learning_rate"):  # accuracy counts windows, which rounding may flip
        np.testing.assert_allclose([theirs[n][name] for n in theirs], [ours[n][name] for n in theirs], rtol=1e-5)


def test_two_processes_evaluate_as_one(data, run, compiled):
    """Two processes cannot share the three images evenly; the file is the same, and no other files remain."""
    _, workdir = run
    words = ["evaluate.py", "--config", tiny.CONFIG, "--workdir", str(workdir), *tiny.overrides(data)]
    files = []
    for count in (2, 1):
        with Hosts(count, 2, [*words, "--limit", "3", "--step", "4"], compiled) as hosts:
            assert hosts.codes() == [0] * count, hosts.text()
            assert hosts.said("published") and not (count == 2 and hosts.said("published", 1))
        metrics = json.loads((workdir / "metrics.json").read_text()) | {"seconds_per_image": 0}
        files.append((metrics, (workdir / "proposals.json").read_bytes()))
    assert files[0] == files[1] and metrics["images"] == 3
    assert not list(workdir.glob("proposals.json.*"))
    assert list(history(workdir, "evaluation")) == [4] and history(workdir, "evaluation")[4]["images"] == 4


def test_an_absent_host_is_a_line(data, tmp_path, compiled):
    words = [*train(data, tmp_path / "run"), "--join_seconds", "2"]
    words += ["--coordinator", "127.0.0.1:1", "--processes", "2", "--process", "1"]
    with Hosts(1, 1, words, compiled) as hosts:
        assert hosts.codes() == [2]
        assert hosts.lines == [[hosts.said("^error: process 1 of 2 waited 2 s for the others at 127.0.0.1:1: ")]]
    assert not (tmp_path / "run").exists()


@given(st.lists(st.integers()), st.integers(1, 9))
def test_shares_are_disjoint_complete_and_even(items, count):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cluster, "processes", lambda: count)
        shares = []
        for number in range(count):
            patched.setattr(cluster, "process", lambda number=number: number)
            shares.append(cluster.share(items))
    assert [item for one in shares for item in one] == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.lists(st.lists(st.fixed_dictionaries({"a": st.text(), "b": st.floats(allow_nan=False)}), max_size=3)))
def test_lists_written_in_parts_are_joined_to_the_same_bytes(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("parts")
    for number, part in enumerate([*parts, list(itertools.chain(*parts))]):
        with JsonListWriter(folder / f"{number}") as writer:
            for entry in part:
                writer.append(entry)
    with JsonListWriter(folder / "joined") as writer:
        for number in range(len(parts)):
            writer.append_all(folder / f"{number}")
    assert (folder / "joined").read_bytes() == (folder / f"{len(parts)}").read_bytes()


def test_a_stop_is_what_all_have_read(monkeypatch):
    stop = Stop()
    stop.caught = signal.SIGTERM
    assert stop.agreed == signal.SIGTERM
    monkeypatch.setattr(cluster, "processes", lambda: 2)
    assert stop.agreed is None
    stop.agree(0)
    assert stop.agreed is None
    stop.agree(signal.SIGHUP)
    stop.agree(signal.SIGTERM)
    assert stop.agreed == signal.SIGHUP


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--coordinator a:1", "belong together"),
        ("--processes 2 --process 0", "belong together"),
        ("--coordinator a --processes 2 --process 0", "expected HOST:PORT"),
        ("--coordinator a:0 --processes 2 --process 0", "expected HOST:PORT"),
        ("--coordinator a:1 --processes 2 --process 2", "--process 2 of --processes 2"),
        ("--coordinator a:1 --processes 2 --process -1", "--process: -1: expected an integer from 0"),
        ("--coordinator a:1 --processes 2 --process 1 --join_seconds 0", "--join_seconds: 0: expected"),
    ],
)
def test_wrong_flags_get_a_line(words, says, capsys):
    parser = argparse.ArgumentParser()
    add_cluster_flags(parser)
    with pytest.raises(SystemExit):
        check_cluster_flags(parser, parser.parse_args(words.split()))
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_a_step_of_one_task_is_no_cluster(monkeypatch):
    """JAX by default would use only one of the node's devices."""
    slurm = {"JOB_ID": "7", "STEP_NODELIST": "node[1-2]", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert cluster._surrounding_processes() == 1
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert cluster._surrounding_processes() == 2
    assert not main._in_cluster()


def test_a_jax_that_does_not_tell_of_clusters(monkeypatch):
    """A job of several processes must not become as many runs of one process."""
    monkeypatch.setitem(sys.modules, "jax._src.clusters", None)
    for name in cluster._SIZES:
        monkeypatch.delenv(name, raising=False)
    assert cluster._surrounding_processes() == 1
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(InvalidInput, match="pass --coordinator"):
        cluster._surrounding_processes()

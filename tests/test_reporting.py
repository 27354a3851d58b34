"""Reports of a run: figures by hand with a fake clock, files read back by other readers."""

import io
import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from fastmask_jax.training.reporting import Pace, Reporter, Stopwatch, cut_history, duration

METRICS = {
    "loss": 2.07,
    "objectness": 0.69,
    "mask": 0.7,
    "attention": 0.68,
    "accuracy": 0.5,
    "iou": 0.1,
    "gradient_norm": 3.25,
    "learning_rate": 1e-3,
}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def reporter(workdir: Path, **changes: object) -> Reporter:
    return Reporter(workdir, **{"total_steps": 100, "batch_size": 4, "start_step": 0, **changes})


def read_lines(workdir: Path) -> list[dict]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def read_events(workdir: Path) -> list[Event]:
    """TFRecords: length, checksum, bytes, checksum."""
    events = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def scalars(workdir: Path) -> dict[tuple[str, int], float]:
    return {
        (value.tag, event.step): value.simple_value
        for event in read_events(workdir)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def test_pace_and_time_left_by_hand(tmp_path, capsys):
    clock = Clock()
    with reporter(tmp_path, clock=clock) as report:
        clock.now += 60  # compiling
        report.advance(1)
        clock.now += 9
        report.advance(10)
        report.log(10, METRICS)  # 9 steps in 9 s
        with report.pause():
            clock.now += 500
            with report.pause():
                clock.now += 70
        clock.now += 20
        report.log(20, METRICS)  # 10 steps in 20 s
        clock.now += 30
        report.log(30, METRICS)  # 10 steps in 30 s
    lines = read_lines(tmp_path)
    assert [line["images_per_second"] for line in lines] == [4.0, 2.0, pytest.approx(4 / 3)]
    assert [line["seconds_left"] for line in lines] == [90.0, 80.0, 140.0]  # at 1, 1 and 2 s a step
    assert [line["images"] for line in lines] == [40, 80, 120]
    out = capsys.readouterr().out.splitlines()
    assert "4 images/s | ETA 0:01:30" in out[0]
    assert "2 images/s | ETA 0:01:20" in out[1]


def test_a_log_after_one_step_has_no_pace(tmp_path, capsys):
    with reporter(tmp_path) as report:
        report.advance(1)
        report.log(1, METRICS)
    assert read_lines(tmp_path)[0]["images_per_second"] is None
    assert "ETA unknown" in capsys.readouterr().out


def test_one_slow_stretch_does_not_spoil_the_time_left():
    pace = Pace(1000)
    pace.begin(0, 0.0)
    at = 0.0
    for step, seconds in ((10, 300), (20, 10), (30, 10), (40, 300), (50, 10)):
        at += seconds
        pace.lap(step, at)
    assert pace.left(50) == 950
    assert pace.left(2000) == 0


def test_a_pause_that_ends_by_an_error_is_over():
    clock = Clock()
    watch = Stopwatch(clock)
    begin = watch.seconds
    with pytest.raises(KeyError), watch.pause():
        clock.now += 5
        raise KeyError
    clock.now += 2
    assert watch.seconds - begin == 2


def test_metrics_reach_console_jsonl_and_tensorboard(tmp_path, capsys):
    with reporter(tmp_path) as report:
        report.advance(1)
        report.log(50, METRICS)
        report.evaluation(50, {"segm/AR@100": 0.31, "segm/AR_small@100": float("nan"), "bbox/AR@100": 0.4, "images": 5})
    trained, evaluated = read_lines(tmp_path)
    assert trained["step"] == 50 and trained["kind"] == "train"
    assert {key: trained[key] for key in METRICS} == METRICS
    assert evaluated["kind"] == "evaluation" and evaluated["segm/AR@100"] == 0.31
    assert evaluated["segm/AR_small@100"] is None
    seen = scalars(tmp_path)
    assert seen["train/loss", 50] == pytest.approx(2.07)
    assert seen["train/learning_rate", 50] == pytest.approx(1e-3)
    assert seen["evaluation/segm/AR_100", 50] == pytest.approx(0.31)
    assert ("evaluation/segm/AR_small_100", 50) not in seen
    out = capsys.readouterr().out
    assert "step  50/100 | loss 2.0700 (objectness 0.6900, mask 0.7000, attention 0.6800)" in out
    assert "accuracy 0.5000, IoU 0.1000, gradient 3.2500, rate 0.001 |" in out
    assert "bbox | AR@100 0.4000" in out and "segm | AR@100 0.3100" in out


def test_memory_is_the_devices_where_it_tells_and_else_the_processes(tmp_path, capsys, monkeypatch):
    with reporter(tmp_path) as report:
        report.log(1, METRICS)
        stats = {"bytes_in_use": 3 << 30, "peak_bytes_in_use": 5 << 30}
        monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: stats)])
        report.log(2, METRICS)
    process, device = read_lines(tmp_path)
    assert 0 < process["process_memory_bytes"] <= process["process_memory_peak_bytes"]
    assert (device["device_memory_bytes"], device["device_memory_peak_bytes"]) == (3 << 30, 5 << 30)
    out = capsys.readouterr().out.splitlines()
    assert "process memory" in out[0] and "device memory 3.00 GiB (peak 5.00)" in out[1]


def test_a_resumed_run_drops_what_lies_beyond_its_step(tmp_path, capsys):
    with reporter(tmp_path) as report:
        for step in (10, 20, 30):
            report.log(step, METRICS)
        report.evaluation(30, {"segm/AR@100": 0.2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "lo')  # a crash in the middle of a line
    capsys.readouterr()
    with reporter(tmp_path, start_step=20) as report:
        report.log(25, METRICS)
    assert [line["step"] for line in read_lines(tmp_path)] == [10, 20, 25]
    assert "3 line(s)" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]
    assert any(event.session_log.status for event in read_events(tmp_path) if event.step == 21)


def test_a_consistent_history_is_not_rewritten(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert cut_history(path, 5) == 0
    path.write_text('{"step": 5}\n')
    before = path.stat().st_ino
    assert cut_history(path, 5) == 0
    assert path.stat().st_ino == before


def test_a_bar_on_a_terminal_leaves_console_lines_whole(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    with reporter(tmp_path, start_step=40) as report:
        for step in (41, 42):
            report.advance(step)
        report.say("a line for the reader")
        report.log(42, METRICS)
    shown = terminal.getvalue()
    assert "40/100 steps" in shown and "42/100 steps" in shown and "ETA" in shown
    assert any(line.split("\r")[-1] == "a line for the reader" for line in shown.split("\n"))


def test_nothing_but_lines_where_there_is_no_terminal(tmp_path, capsys):
    with reporter(tmp_path) as report:
        report.advance(1)
        report.say("a line")
    assert capsys.readouterr() == ("a line\n", "")


def test_a_quiet_reporter_writes_and_prints_nothing(tmp_path, capsys):
    with reporter(tmp_path / "run", quiet=True) as report:
        report.advance(1)
        report.say("a line")
        report.log(1, METRICS)
        report.evaluation(1, {"segm/AR@100": 0.5})
        report.pictures(1, {"labels": np.zeros((4, 4, 3), np.uint8)})
        with report.pause():
            pass
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def test_pictures_become_files_and_events(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    with reporter(tmp_path) as report:
        report.pictures(7, {"labels/12": picture})
    stored = cv2.imread(str(tmp_path / "pictures" / "labels" / "12" / "7.png"))[..., ::-1]
    np.testing.assert_array_equal(stored, picture)
    (value,) = (v for event in read_events(tmp_path) for v in event.summary.value if v.tag == "labels/12")
    decoded = cv2.imdecode(np.frombuffer(value.image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decoded, picture)


def test_closing_twice_is_no_error(tmp_path):
    report = reporter(tmp_path)
    report.close()
    report.close()


@pytest.mark.parametrize(
    "seconds, text", [(None, "unknown"), (0.4, "0:00:00"), (3723.2, "1:02:03"), (90000.0, "1 day, 1:00:00")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text

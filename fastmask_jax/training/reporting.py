"""Reports a training run: console, progress bar, metrics.jsonl, TensorBoard, pictures."""

import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from statistics import median_low
from types import TracebackType
from typing import Any

import jax
import numpy as np
import psutil
from jaxtyping import UInt8
from tqdm import tqdm

from fastmask_jax.masks.drawing import write_png
from fastmask_jax.training.tensorboard_file import TensorBoardFile
from fastmask_jax.whole_file import whole_file

METRICS = "metrics.jsonl"
LOSS_PARTS = ("objectness", "mask", "attention", "objectness_attention")
SHOWN_METRICS = {
    "accuracy": "accuracy",
    "iou": "IoU",
    "gradient_norm": "gradient",
    "learning_rate": "rate",
}  # on the console
PACES = 9  # the time left uses the median pace of this many logs, so a slow one, such as during compilation, is ignored
GIB = 1 << 30


class Stopwatch:
    """Measures the time between two readings, excluding time inside `pause`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._idle = 0.0
        self._pauses = 0

    @property
    def seconds(self) -> float:
        """Returns seconds; only differences between readings are meaningful."""
        return self._clock() - self._idle

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time inside the block; pauses may be nested."""
        self._pauses += 1
        begin = self._clock()
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._idle += self._clock() - begin


class Pace:
    """Estimates the pace of steps from readings at some of them."""

    def __init__(self, total_steps: int) -> None:
        self._total_steps = total_steps
        self._last: tuple[int, float] | None = None
        self._seconds_per_step: deque[float] = deque(maxlen=PACES)

    def begin(self, step: int, seconds: float) -> None:
        """Sets the first reading, if there is none yet."""
        self._last = self._last or (step, seconds)

    def lap(self, step: int, seconds: float) -> float | None:
        """Returns steps per second since the last reading; None if no step or no time has passed."""
        self.begin(step, seconds)
        steps, passed = step - self._last[0], seconds - self._last[1]
        self._last = step, seconds
        if steps <= 0 or passed <= 0:
            return None
        self._seconds_per_step.append(passed / steps)
        return steps / passed

    def left(self, step: int) -> float | None:
        """Returns the seconds left at the median pace of the last readings; None before the first pace."""
        if not self._seconds_per_step:
            return None
        return max(self._total_steps - step, 0) * median_low(self._seconds_per_step)


class Reporter:
    """Reports a run of `total_steps` steps into its working directory; use it as a context manager.

    On resume from `start_step`, later entries are removed from metrics.jsonl (and hidden in TensorBoard), so that the
    file is one history. The first step, which compiles, is excluded from images/s.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        total_steps: int,
        batch_size: int,
        start_step: int,
        evaluation_due: bool = False,
        quiet: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """
        Args:
          workdir: receives metrics.jsonl, tensorboard/ and pictures/; created if missing.
          batch_size: images per step, over all processes.
          start_step: steps done before.
          evaluation_due: the evaluation after these steps is still to come.
          quiet: write and print nothing, because only one of several processes reports.
          clock: returns seconds since any fixed time.
        """
        self._workdir, self._quiet = Path(workdir), quiet
        self._total_steps, self._batch_size = total_steps, batch_size
        self._stopwatch = Stopwatch(clock)
        self._pace = Pace(total_steps)
        self._open = not quiet
        if quiet:
            return
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps{postfix}",
        )
        dropped = cut_history(self._workdir / METRICS, start_step, evaluation_due)
        if dropped:
            self.say(f"{self._workdir / METRICS}: {dropped} line(s) of an earlier run beyond step {start_step} dropped")
        self._lines = (self._workdir / METRICS).open("a", encoding="utf-8", buffering=1)
        self._tensorboard = TensorBoardFile(self._workdir / "tensorboard", purge_step=start_step + 1)

    def log(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Writes one line to the console and to metrics.jsonl, and TensorBoard scalars.

        Args:
          step: steps done.
          metrics: means since the last log: `loss`, its parts (see LOSS_PARTS), and any others, of which the console
            shows SHOWN_METRICS.
        """
        steps_per_second = self._pace.lap(step, self._stopwatch.seconds)
        if not self._open:
            return
        rate = None if steps_per_second is None else steps_per_second * self._batch_size
        left = self._pace.left(step)
        where, in_use, peak = memory()
        self._record(
            step,
            "train",
            {
                **metrics,
                "images_per_second": rate,
                "seconds_left": left,
                f"{where}_memory_bytes": in_use,
                f"{where}_memory_peak_bytes": peak,
            },
        )
        parts = ", ".join(f"{name} {metrics[name]:.4f}" for name in LOSS_PARTS if name in metrics)
        shown = [f"{word} {_number(metrics[name])}" for name, word in SHOWN_METRICS.items() if name in metrics]
        pieces = [
            f"step {step:{len(str(self._total_steps))}}/{self._total_steps}",
            f"loss {metrics['loss']:.4f} ({parts})",
            *([", ".join(shown)] if shown else []),
            "–" if rate is None else f"{rate:.3g} images/s",
            f"ETA {duration(left)}",
            f"{where} memory {in_use / GIB:.2f} GiB (peak {peak / GIB:.2f})",
        ]
        self.say(" | ".join(pieces))
        self._bar.set_postfix_str(f"loss {metrics['loss']:.4f}, ETA {duration(left)}")

    def advance(self, step: int) -> None:
        """Advances the progress bar; call it after each step."""
        self._pace.begin(step, self._stopwatch.seconds)
        if self._open:
            self._bar.update(step - self._bar.n)

    def evaluation(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Reports metrics such as "segm/AR@100": one console line per group before the slash, jsonl, TensorBoard."""
        if not self._open:
            return
        self._record(step, "evaluation", metrics)
        for group, named in groupby(sorted(metrics, key=_group), _group):
            values = "  ".join(f"{name.removeprefix(group + '/')} {_number(metrics[name])}" for name in named)
            self.say(f"step {step} evaluation | {group + ' | ' if group else ''}{values}")

    def pictures(self, step: int, pictures: Mapping[str, UInt8[np.ndarray, "_H _W 3"]]) -> None:
        """Writes RGB pictures by tag to TensorBoard and to <workdir>/pictures/<tag>/<step>.png."""
        if not self._open:
            return
        for tag, picture in pictures.items():
            path = self._workdir / "pictures" / tag / f"{step}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            png = write_png(path, picture)
            self._tensorboard.picture(tag, png, picture.shape[:2], step)
        self._tensorboard.flush()

    def say(self, line: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if not self._quiet:
            with tqdm.external_write_mode(sys.stdout):
                print(line, flush=True)

    def pause(self) -> AbstractContextManager[None]:
        """Excludes the time of the block from images/s and time left: evaluation, pictures, checkpoints."""
        return self._stopwatch.pause()

    def close(self) -> None:
        """Flushes and closes all outputs; a second call does nothing."""
        if self._open:
            self._open = False
            with ExitStack() as stack:  # closes each even if closing another fails
                stack.callback(self._tensorboard.close)
                stack.callback(self._lines.close)
                self._bar.close()

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError) if error else nullcontext():  # a full disk is reported once
            self.close()

    def _record(self, step: int, kind: str, values: Mapping[str, float | int | None]) -> None:
        """Records values; nonfinite values become null in JSON, which has no NaN, and are omitted in TensorBoard."""
        finite = {name: v if v is not None and math.isfinite(v) else None for name, v in values.items()}
        line = {"step": step, "kind": kind, "images": step * self._batch_size, "time": round(time.time(), 3), **finite}
        self._lines.write(json.dumps(line) + "\n")
        for name, value in finite.items():
            if value is not None:
                self._tensorboard.scalar(f"{kind}/{name.replace('@', '_')}", value, step)
        self._tensorboard.flush()


def cut_history(path: Path, step: int, evaluation_due: bool = False) -> int:
    """Removes lines of a metrics.jsonl for steps beyond `step`, and lines that a crash left incomplete.

    The file is replaced atomically. With `evaluation_due`, evaluations after `step` are removed, too.

    Returns:
      The number of removed lines.
    """
    if not path.exists():
        return 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _belongs(line, step, evaluation_due)]
    if len(kept) < len(lines):
        with whole_file(path) as part:
            part.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    return len(lines) - len(kept)


def _belongs(line: str, step: int, evaluation_due: bool) -> bool:
    try:
        entry = json.loads(line)
        return entry["step"] < step or (
            entry["step"] == step and not (evaluation_due and entry.get("kind") == "evaluation")
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def memory() -> tuple[str, int, int]:
    """Returns ("device" or "process", bytes in use, peak bytes in use).

    The memory of the first local device if the backend reports it; otherwise the host memory of this process.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_in_use" in stats:
        return "device", stats["bytes_in_use"], stats.get("peak_bytes_in_use", stats["bytes_in_use"])
    info = psutil.Process().memory_info()
    return "process", info.rss, max(info.rss, _peak_rss(info))


def _peak_rss(info: Any) -> int:
    if hasattr(info, "peak_wset"):  # Windows
        return info.peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def duration(seconds: float | None) -> str:
    """Formats seconds as 1:02:03, "2 days, 1:02:03", or "unknown"."""
    return "unknown" if seconds is None else str(timedelta(seconds=round(seconds)))


def _group(name: str) -> str:
    return name.rpartition("/")[0]


def _number(value: float | int) -> str:
    """Formats a number with four digits, without trailing zeros."""
    if float(value).is_integer() and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.4f}" if 1e-2 <= abs(value) < 1e4 else f"{value:.3g}"

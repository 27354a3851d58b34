"""Measures medians of alternating runs and formats them as tables."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def device_name() -> str:
    """Returns the accelerator, or the processor and the number of cores that JAX may use."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    try:
        with open("/proc/cpuinfo") as info:
            model = next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {cores()} cores"


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def medians(calls: Mapping[str, tuple[Callable, tuple[Any, ...]]], rounds: int) -> dict[str, float]:
    """Returns the median milliseconds of each {name: (function, arguments)}.

    Every round runs all functions; an additional first round compiles them.
    """
    for function, arguments in calls.values():
        jax.block_until_ready(function(*arguments))
    taken = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (function, arguments) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in taken.items()}


def table(first: str, rows: Mapping[str, float | Mapping[str, float]]) -> str:
    """Formats a Markdown table of milliseconds, with one or several columns."""
    rows = {name: row if isinstance(row, Mapping) else {"ms": row} for name, row in rows.items()}
    columns = list(next(iter(rows.values())))
    lines = [f"| {first} | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    lines += [f"| {name} | {' | '.join(f'{row[c]:.2f}' for c in columns)} |" for name, row in rows.items()]
    return "\n".join(lines)

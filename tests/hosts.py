"""Runs commands as several processes, as on several hosts: with simulated devices, over loopback."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests import tiny


class Hosts:
    """`count` processes of one command with `devices` devices each, which are killed at the end of the `with` block.

    Attributes:
      processes: the processes, in order.
      lines: the output of each process so far, from both streams.
    """

    def __init__(
        self, count: int, devices: int, words: Sequence[str], compiled: Path, own: Sequence[Sequence[str]] = ()
    ) -> None:
        """
        Args:
          words: command and arguments, without the flags of the cluster.
          compiled: folder of the compilation cache.
          own: additional arguments of each process.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.lines: list[list[str]] = [[] for _ in range(count)]
        self.processes = []
        for number in range(count):
            flags = ["--coordinator", address, "--processes", f"{count}", "--process", f"{number}"] * (count > 1)
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, *words, *flags, *(own[number] if own else ())],
                    cwd=tiny.ROOT,
                    env=tiny.environment(compiled, devices),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,
                )
            )
        self._readers = [threading.Thread(target=self._read, args=(number,)) for number in range(count)]
        for reader in self._readers:
            reader.start()

    def _read(self, number: int) -> None:
        for line in self.processes[number].stdout:
            self.lines[number].append(line.rstrip("\n"))

    def said(self, pattern: str, number: int = 0) -> str | None:
        """Returns the first line of a process that matches the pattern."""
        return next((line for line in list(self.lines[number]) if re.search(pattern, line)), None)

    def wait_for(self, pattern: str, number: int = 0, seconds: float = 240) -> str:
        """Waits until a process writes a matching line."""
        last = time.monotonic() + seconds
        while not (line := self.said(pattern, number)):
            assert self.processes[number].poll() is None and time.monotonic() < last, self.text()
            time.sleep(0.05)
        return line

    def codes(self, seconds: float = 240) -> list[int]:
        """Waits for all processes and returns their exit codes."""
        codes = [process.wait(timeout=seconds) for process in self.processes]
        for reader in self._readers:
            reader.join(timeout=10)
        return codes

    def text(self) -> str:
        """Returns the output of all processes, for messages."""
        ended = f"exit codes {[process.poll() for process in self.processes]}\n"
        return ended + "\n".join(f"{number}: {line}" for number, lines in enumerate(self.lines) for line in lines[-30:])

    def __enter__(self) -> "Hosts":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        self.codes()
        for process in self.processes:
            process.stdout.close()


def train(data: Path, workdir: Path, **changed: object) -> list[str]:
    """Returns the words of a train.py command with the tiny config, for `Hosts`."""
    few = {"train__batch_size": 4, "train__images": 16, "train__log_every": 1, "data__workers": 0}
    return ["train.py", "--config", tiny.CONFIG, "--workdir", str(workdir), *tiny.overrides(data, **few | changed)]

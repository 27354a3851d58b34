"""Writes TensorBoard's event file in the calling thread.

tensorboardX's writer passes events to a thread. If that thread dies, for example because the disk is full, its queue
fills up and the run waits forever.
"""

import socket
import time
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter


class TensorBoardFile:
    """Appends scalars and pictures to a new event file.

    Failed writes raise OSError, at the latest in `flush`.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        """
        Args:
          folder: folder of the run's event files; created if missing.
          purge_step: TensorBoard hides entries of earlier files from this step on.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._file = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns() // 10**9}.{socket.gethostname()}"))
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def scalar(self, tag: str, value: float | int, step: int) -> None:
        """Adds a number."""
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))

    def picture(self, tag: str, png: bytes, size: tuple[int, int], step: int) -> None:
        """Adds an RGB picture of (height, width), encoded as PNG."""
        image = Summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=png)
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)])))

    def flush(self) -> None:
        """Returns when everything is on disk."""
        self._file.flush()

    def close(self) -> None:
        """Writes the remaining events and closes the file, even if writing fails."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._file.write(event.SerializeToString())

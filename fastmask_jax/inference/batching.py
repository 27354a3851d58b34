"""Batches images by padded shape and returns their proposals in order."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from fastmask_jax.data.batches import pack_inference_batch
from fastmask_jax.inference.assembly import Assembler, ImagePart
from fastmask_jax.inference.device_model import DeviceModel
from fastmask_jax.inference.proposals import Proposals
from fastmask_jax.inference.views import View
from fastmask_jax.models.fastmask import Decoded

AHEAD = 4  # batches of images that may be in flight
LADDER = (100, 300, 1000)  # compiled numbers of windows; larger ones are multiples of the last

Row = tuple["_Image", int]  # an image and the number of one of its views


class _Image:
    """An image or tile that has been read and not yet returned."""

    def __init__(self, part: ImagePart | None, views: list[View], problem: Exception | None = None) -> None:
        self.part = part
        self.views = views
        self.problem = problem
        self.decoded: list[Decoded | None] = [None] * len(views)
        self.proposals: Future[Proposals] | None = None


class Batcher:
    """Runs images in batches of one padded shape each and returns their proposals in the images' order.

    A batch starts when it is full, or when its first image delays too many others. While the devices compute, threads
    assemble the proposals of the previous batch.
    """

    def __init__(self, model: DeviceModel, assembler: Assembler, threads: ThreadPoolExecutor) -> None:
        self._model, self._assembler, self._threads = model, assembler, threads
        self._rows = assembler.options.batch_size * model.devices
        self._count = decoded_windows(assembler.options.candidates)
        self._order: deque[_Image] = deque()
        self._waiting: dict[tuple[int, int], list[Row]] = {}  # by padded shape
        self._running: tuple[list[Row], Decoded] | None = None

    def add(self, part: ImagePart, views: list[View]) -> None:
        """Adds an image or tile; starts its batch if it is full."""
        image = _Image(part, views)
        self._order.append(image)
        for number, view in enumerate(views):
            waiting = self._waiting.setdefault(view.bucket, [])
            waiting.append((image, number))
            if len(waiting) == self._rows:
                self._start(view.bucket)

    def add_problem(self, problem: Exception) -> None:
        """Adds an image that could not be read; the problem is returned in its place."""
        self._order.append(_Image(None, [], problem))

    def ready(self) -> Iterator[Proposals | Exception]:
        """Yields finished images; waits while too many images are pending."""
        while self._order:
            first = self._order[0]
            if first.problem is None and (first.proposals is None or not first.proposals.done()):
                if len(self._order) <= AHEAD * self._rows:
                    return
                self._hurry(first)
            yield self._next()

    def rest(self) -> Iterator[Proposals | Exception]:
        """Yields all remaining images; no image may be added afterwards."""
        for bucket in list(self._waiting):
            self._start(bucket)
        self._collect()
        while self._order:
            yield self._next()

    def _next(self) -> Proposals | Exception:
        image = self._order.popleft()
        return image.problem or image.proposals.result()

    def _hurry(self, image: _Image) -> None:
        for number, view in enumerate(image.views):
            if (image, number) in self._waiting.get(view.bucket, []):
                self._start(view.bucket)
        if image.proposals is None:
            self._collect()

    def _start(self, bucket: tuple[int, int]) -> None:
        rows = self._waiting.pop(bucket)
        batch = pack_inference_batch([image.views[number].image for image, number in rows], bucket, self._rows)
        running = rows, self._model(batch, self._count)
        self._collect()
        self._running = running

    def _collect(self) -> None:
        """Waits for the running batch and hands its images to the threads."""
        if self._running is None:
            return
        (rows, decoded), self._running = self._running, None
        decoded = jax.device_get(decoded)
        for row, (image, number) in enumerate(rows):
            image.decoded[number] = Decoded(*(part[row] for part in decoded))
            if all(each is not None for each in image.decoded):
                image.proposals = self._threads.submit(self._assembler, image.part, image.views, image.decoded)


def decoded_windows(candidates: int) -> int:
    """Returns how many windows the compiled program decodes when `candidates` are needed."""
    step = LADDER[-1]
    return next((rung for rung in LADDER if rung >= candidates), -(-candidates // step) * step)

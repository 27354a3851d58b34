"""Proposals of any images: read, batched by shape, run on all local devices, and brought back in order."""

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from fastmask_jax.data.augment import resize_for_inference
from fastmask_jax.data.batches import InferenceBatch, InferenceImage, pack_inference_batch
from fastmask_jax.errors import InvalidInput
from fastmask_jax.geometry import choose_bucket, original_window_boxes, resized_size
from fastmask_jax.inference.image_input import AnyImage, is_image, read_image
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.inference.proposals import ObjectProposals, merged, mirrored_boxes
from fastmask_jax.inference.proposer import Proposer
from fastmask_jax.masks.rle import masks_to_results
from fastmask_jax.models.fastmask import Decoded, FastMask
from fastmask_jax.weights.mapping import LoadReport

READING_THREADS = 2
PASTING_THREADS = 2
AHEAD = 4  # batches' worth of images that may be under way
PAD = 64  # sides of padded images that no bucket holds are multiples of this: few shapes, each of which is compiled
LADDER = (100, 300, 1000)  # numbers of windows to decode, each of which is compiled; beyond, multiples of the last
QUIET_SECONDS = 2.0  # a pause for compiling that is longer than this is explained

Report = Callable[[str], None]


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Prepared(NamedTuple):
    """An image before the network."""

    pixels: UInt8[np.ndarray, "H W 3"]
    views: list[InferenceImage]  # as it is, and with `flip` the mirror image
    bucket: tuple[int, int]


class ProposalGenerator:
    """A network in use, on all local devices. Thread-safe: any number of threads may call it at the same time.

    A program is compiled for each padded shape, batch size and step of the number of windows, when it is first needed.

    Attributes:
      config: the config whose `evaluation` section gives the defaults of the options; locked.
      strides: of the network's levels, in pixels of the resized image.
      loaded: what became of the arrays of the weights' source, where it is known.
    """

    def __init__(
        self,
        model: FastMask,
        variables: Any,
        config: ConfigDict,
        *,
        loaded: LoadReport | None = None,
        report: Report = to_stderr,
    ) -> None:
        """
        Args:
          model: the network.
          variables: its weights and statistics.
          config: its config.
          loaded: kept as an attribute.
          report: gets the line that explains a pause for compiling, from another thread.
        """
        self.config = config.copy_and_resolve_references().lock()
        self.loaded = loaded
        self._evaluation = self.config.evaluation
        self._proposer = Proposer(model, variables, LADDER[0])
        self._report = report
        self._compiled: set[tuple[int, ...]] = set()
        self._compiling = threading.Lock()
        self.strides = self._proposer.strides

    def propose(
        self, images: AnyImage | Iterable[AnyImage], options: ProposeOptions | None = None, **changes: Any
    ) -> ObjectProposals | list[ObjectProposals]:
        """Proposals of one image; or of several, as a list in their order.

        Args:
          images: a path, a PIL image or a uint8 RGB array (see `images.read_image`); or several, of any sizes.
          options: see `ProposeOptions`, None for the defaults.
          changes: options by name, which come before those of `options`: `count=200, nms_iou=0.8`.

        Errors:
          FileNotFoundError, ValueError: an image that cannot be read, or an option out of its range; one line.
        """
        if is_image(images):
            return next(self.propose_iter([images], options, **changes))
        return list(self.propose_iter(images, options, **changes))

    def propose_iter(
        self,
        images: Iterable[AnyImage],
        options: ProposeOptions | None = None,
        *,
        on_problem: Report | None = None,
        **changes: Any,
    ) -> Iterator[ObjectProposals | None]:
        """Proposals of each image in the images' order, as they are made; memory does not grow with their number.

        A few batches of images are read ahead of the one whose proposals come next.

        Args:
          images, options, changes: as of `propose`.
          on_problem: gets the line about an image that cannot be read, in whose place comes None; without it, that is
            an error.

        Errors:
          FileNotFoundError, ValueError: as of `propose`; those of options at once.
        """
        if is_image(images):
            raise InvalidInput("propose_iter wants several images: give one to propose, or put it in a list")
        if not isinstance(images, Iterable):
            read_image(images)  # says what an image is
        if not isinstance(options, ProposeOptions | None):
            raise InvalidInput(
                f"options={options!r}: ProposeOptions are wanted; options by name as in count=50; several images go in "
                "a list"
            )
        chosen = (options or ProposeOptions()).changed(**changes)
        return self._stream(iter(images), chosen, on_problem)

    def _stream(
        self, images: Iterator[AnyImage], options: ProposeOptions, on_problem: Report | None
    ) -> Iterator[ObjectProposals | None]:
        with ThreadPoolExecutor(READING_THREADS) as readers, ThreadPoolExecutor(PASTING_THREADS) as pasters:
            flow = _Flow(self, options, pasters)
            for prepared in _ahead(readers, lambda image: self._prepare(image, options), images):
                try:
                    flow.add(prepared.result())
                except (OSError, ValueError) as error:
                    if on_problem is None:
                        raise
                    on_problem(str(error))
                    flow.add(None)
                yield from flow.ready()
            flow.finish()
            yield from flow.ready()

    def _prepare(self, image: AnyImage, options: ProposeOptions) -> _Prepared:
        pixels = read_image(image)
        size = pixels.shape[:2]
        long_edge = options.long_edge or self._evaluation.long_edge
        resized = resize_for_inference(pixels, resized_size(*size, long_edge))
        views = [InferenceImage(resized, size, 0)]
        if options.flip:
            views.append(InferenceImage(cv2.flip(resized, 1), size, 0))
        return _Prepared(pixels, views, self._bucket(size, long_edge))

    def _bucket(self, size: tuple[int, int], long_edge: int) -> tuple[int, int]:
        """Padded (height, width) for an image: one of the config's at its scale, where one holds it."""
        need = resized_size(*size, long_edge)
        buckets = [tuple(bucket) for bucket in self._evaluation.buckets]
        holds = any(bucket[0] >= need[0] and bucket[1] >= need[1] for bucket in buckets)
        if long_edge == self._evaluation.long_edge and holds:
            return buckets[choose_bucket(*size, long_edge, buckets)]
        return tuple(-(-side // PAD) * PAD for side in need)

    def _run(self, batch: InferenceBatch, count: int) -> Decoded:
        """Begins to work on a batch; the first time for its shape, compiles, and other threads that need it wait."""
        program = (*batch.image.shape[:3], count)
        if program in self._compiled:
            return self._proposer(batch, count)
        with self._compiling, _explained(self._report, *batch.image.shape[1:3]):
            decoded = self._proposer(batch, count)
            self._compiled.add(program)
        return decoded

    def _candidates(self, options: ProposeOptions) -> int:
        if options.candidates is not None:
            return options.candidates
        filters = options.nms_iou < 1 or options.min_area > 0
        return max(options.count, self._evaluation.proposals) if filters else options.count

    def _found(self, image: _Prepared, decoded: list[Decoded], options: ProposeOptions) -> ObjectProposals:
        """Proposals from the windows of each view of an image; runs in a thread."""
        parts = [self._pasted(image, *each, options) for each in zip(decoded, (False, True), strict=False)]
        found = (merged(parts) if len(parts) > 1 else parts[0])[: self._candidates(options)]
        return found.filtered(
            count=options.count,
            score_threshold=options.score_threshold,
            nms_iou=options.nms_iou,
            min_area=options.min_area,
        )

    def _pasted(
        self, image: _Prepared, decoded: Decoded, from_mirror: bool, options: ProposeOptions
    ) -> ObjectProposals:
        resized, original = image.views[0].image.shape[:2], image.pixels.shape[:2]
        good = decoded.scores[: self._candidates(options)] >= options.score_threshold
        scores, windows, logits, attention = (part[: len(good)][good] for part in decoded)
        threshold = options.mask_threshold
        masks = masks_to_results(
            scores,
            windows,
            logits,
            strides=self.strides,
            resized=resized,
            original=original,
            threshold=self._evaluation.mask_threshold if threshold is None else threshold,
            from_mirror=from_mirror,
        )
        windows = windows[masks.kept]
        boxes = original_window_boxes(windows, self.strides, resized, original)
        return ObjectProposals(
            scores=masks.scores,
            boxes=masks.boxes,
            rles=masks.segmentations,
            windows=windows,
            mirrored=np.full(len(windows), from_mirror),
            window_boxes=mirrored_boxes(boxes, original[1]) if from_mirror else boxes,
            attention=attention[masks.kept][:, :, :: -1 if from_mirror else 1],
            image=image.pixels,
            empty=masks.empty,
        )


class _UnderWay:
    """An image that has been read, and not yet been given out."""

    def __init__(self, prepared: _Prepared | None) -> None:
        self.prepared = prepared
        self.decoded: list[Decoded | None] = [None] * len(prepared.views) if prepared else []
        self.found: Future[ObjectProposals] | None = None


class _Flow:
    """Images on their way through the network: batches of one shape each, results in the order of the images.

    A batch starts when it is full, or when its first image holds up too many others. While the devices work on it,
    threads write the masks of the one before.
    """

    def __init__(self, generator: ProposalGenerator, options: ProposeOptions, pasters: ThreadPoolExecutor) -> None:
        self._generator, self._options, self._pasters = generator, options, pasters
        self._rows = options.batch_size * generator._proposer.devices
        candidates = generator._candidates(options)
        step = LADDER[-1]
        self._count = next((rung for rung in LADDER if rung >= candidates), -(-candidates // step) * step)
        self._order: deque[_UnderWay] = deque()
        self._waiting: dict[tuple[int, int], list[tuple[_UnderWay, int]]] = {}  # by bucket: image, number of its view
        self._started: tuple[list[tuple[_UnderWay, int]], Decoded] | None = None

    def add(self, prepared: _Prepared | None) -> None:
        image = _UnderWay(prepared)
        self._order.append(image)
        for view in range(len(image.decoded)):
            waiting = self._waiting.setdefault(prepared.bucket, [])
            waiting.append((image, view))
            if len(waiting) == self._rows:
                self._start(prepared.bucket)

    def ready(self) -> Iterator[ObjectProposals | None]:
        """What can be given out; where too many images are under way, waits until there are fewer."""
        while self._order:
            first = self._order[0]
            if first.prepared is not None and (first.found is None or not first.found.done()):
                if len(self._order) <= AHEAD * self._rows:
                    return
                self._bring(first)
            self._order.popleft()
            yield first.found.result() if first.found else None

    def finish(self) -> None:
        """No image will be added: starts and ends all that waits."""
        for bucket in list(self._waiting):
            self._start(bucket)
        self._collect()
        for image in self._order:
            if image.found:
                image.found.exception()  # waits; an error is raised where the result is

    def _bring(self, image: _UnderWay) -> None:
        if image.prepared.bucket in self._waiting and None in image.decoded:
            self._start(image.prepared.bucket)
        if image.found is None:
            self._collect()

    def _start(self, bucket: tuple[int, int]) -> None:
        rows = self._waiting.pop(bucket)
        views = [image.prepared.views[view]._replace(image_id=row) for row, (image, view) in enumerate(rows)]
        started = rows, self._generator._run(pack_inference_batch(views, bucket, self._rows), self._count)
        self._collect()
        self._started = started

    def _collect(self) -> None:
        """Waits for the batch that was started last, and hands its masks to the threads."""
        if self._started is None:
            return
        (rows, decoded), self._started = self._started, None
        decoded = jax.device_get(decoded)
        for row, (image, view) in enumerate(rows):
            image.decoded[view] = Decoded(*(part[row] for part in decoded))
            if None not in image.decoded:
                image.found = self._pasters.submit(self._generator._found, image.prepared, image.decoded, self._options)


def _ahead(
    readers: ThreadPoolExecutor, prepare: Callable[[AnyImage], _Prepared], images: Iterator[AnyImage]
) -> Iterator["Future[_Prepared]"]:
    """Images in preparation, in order, a few ahead of the one that is wanted."""
    pending: deque[Future[_Prepared]] = deque()
    try:
        for image in images:
            pending.append(readers.submit(prepare, image))
            if len(pending) > READING_THREADS:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        for future in pending:
            future.cancel()


@contextmanager
def _explained(report: Report, height: int, width: int) -> Iterator[None]:
    """Says why nothing happens, if it takes so long that somebody may ask."""
    kept = jax.config.jax_compilation_cache_dir if jax.config.jax_enable_compilation_cache else None
    where = f"kept in {kept}" if kept else "in this process"
    line = f"compiling for {height} x {width} images ... once; {where}"
    timer = threading.Timer(QUIET_SECONDS, report, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

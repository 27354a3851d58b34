"""Generates proposals: reads images, batches them by shape, runs them on all local devices, returns them in order."""

import copy
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack, cast, overload

from ml_collections import ConfigDict

from fastmask_jax.errors import InvalidInput
from fastmask_jax.inference.assembly import Assembler, ImagePart
from fastmask_jax.inference.batching import Batcher
from fastmask_jax.inference.device_model import DeviceModel, Report
from fastmask_jax.inference.image_input import AnyImage, is_image, read_image
from fastmask_jax.inference.image_parts import Job, reading_jobs
from fastmask_jax.inference.options import OptionsByName, ProposeOptions
from fastmask_jax.inference.ordered_map import ordered_map
from fastmask_jax.inference.proposals import Proposals
from fastmask_jax.inference.tile_merging import TileMerger
from fastmask_jax.inference.views import Buckets, View, views_of
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.weights.digest import sha256_of
from fastmask_jax.weights.mapping import LoadReport

THREADS = min(os.cpu_count() or 1, 8)  # threads for reading images, and as many for masks


def to_stderr(line: str) -> None:
    """Prints a line to stderr."""
    print(line, file=sys.stderr, flush=True)


class ProposalGenerator:
    """A network ready for inference on all local devices. Thread-safe.

    A program is compiled for each padded shape, batch size and number of windows, when it is first needed.

    Attributes:
      config: the config; its `evaluation` section holds the defaults of the options; locked.
      strides: strides of the levels, in pixels of the resized image.
      loaded: report of the loaded weights, if known.
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
          loaded: report of the loaded weights.
          report: called from another thread with a line of text if compilation takes long.
        """
        self.config = config.copy_and_resolve_references().lock()
        self.loaded = loaded
        self.strides = tuple(model.strides)
        self._buckets = Buckets(self.config.evaluation.buckets, max(self.config.evaluation.long_edges))
        self._model = DeviceModel(model, variables, report, self.config.evaluation.precision)

    def with_variables(self, variables: Any) -> "ProposalGenerator":
        """Returns a generator with other weights of the same network; compiled programs are shared."""
        other = copy.copy(self)
        other._model = self._model.with_variables(variables)
        return other

    @property
    def compile_seconds(self) -> float:
        """Time spent compiling so far."""
        return self._model.compile_seconds

    def digest(self) -> str:
        """Returns a SHA-256 digest of the weights, which is the same on every machine."""
        return sha256_of(self._model.variables)

    @overload
    def propose(  # type: ignore[overload-overlap]  # a path or an array is one image, although it can be iterated
        self, images: AnyImage, options: ProposeOptions | None = None, **changes: Unpack[OptionsByName]
    ) -> Proposals: ...

    @overload
    def propose(
        self, images: Iterable[AnyImage], options: ProposeOptions | None = None, **changes: Unpack[OptionsByName]
    ) -> list[Proposals]: ...

    def propose(
        self,
        images: AnyImage | Iterable[AnyImage],
        options: ProposeOptions | None = None,
        **changes: Unpack[OptionsByName],
    ) -> Proposals | list[Proposals]:
        """Returns the proposals of one image, or of several as a list in their order.

        Args:
          images: a path, a PIL image or a uint8 RGB array (see `image_input.read_image`); or several, of any sizes.
          options: see `ProposeOptions`; None: the defaults.
          changes: options by name, which override those of `options`: `count=200, nms_iou=0.8`.

        Raises:
          FileNotFoundError, ValueError: an image cannot be read, or an option is out of range; one line.
        """
        several = [images] if is_image(images) else cast(Iterable[AnyImage], images)
        found = cast(list[Proposals], list(self.propose_iter(several, options, **changes)))
        return found[0] if is_image(images) else found

    def propose_iter(
        self,
        images: Iterable[AnyImage],
        options: ProposeOptions | None = None,
        *,
        on_problem: Callable[[str], None] | None = None,
        **changes: Unpack[OptionsByName],
    ) -> Iterator[Proposals | None]:
        """Yields the proposals of each image, in the images' order; memory does not grow with their number.

        Reads a few batches of images ahead.

        Args:
          images, options, changes: see `propose`.
          on_problem: called with the message of an unreadable image, before None is yielded in its place; without it,
            an unreadable image is an error.

        Raises:
          FileNotFoundError, ValueError: see `propose`; wrong options raise at once.
        """
        if is_image(images):
            raise InvalidInput("propose_iter takes several images: pass one to propose, or put it in a list")
        if not isinstance(images, Iterable):
            read_image(images)  # raises an error that says what an image is
        if not isinstance(options, ProposeOptions | None):
            raise InvalidInput(
                f"options={options!r}: expected ProposeOptions; pass options by name as in count=50, and several "
                "images in a list"
            )
        chosen = (options or ProposeOptions()).changed(**changes).with_defaults(self.config.evaluation.to_dict())
        return self._stream(images, chosen, on_problem)

    def _stream(
        self, images: Iterable[AnyImage], options: ProposeOptions, on_problem: Callable[[str], None] | None
    ) -> Iterator[Proposals | None]:
        assembler = Assembler(options, self.strides)
        parts: deque[ImagePart] = deque()  # in flight
        long_edges = cast(Sequence[int], options.long_edges)  # options have their defaults

        def read(job: Job) -> tuple[ImagePart, list[View]] | Exception:
            try:
                part, pixels = job()
            except (OSError, ValueError) as error:
                return error
            original = part.box[3] - part.box[1], part.box[2] - part.box[0]
            return part, views_of(pixels, self._buckets, long_edges, options.flip, original)

        with ThreadPoolExecutor(THREADS) as threads:
            batcher = Batcher(self._model, assembler, threads)

            def in_order() -> Iterator[Proposals | Exception]:
                for was_read in ordered_map(read, reading_jobs(images, options), THREADS):
                    if isinstance(was_read, Exception):
                        batcher.add_problem(was_read)
                    else:
                        parts.append(was_read[0])
                        batcher.add(*was_read)
                    yield from batcher.ready()
                yield from batcher.rest()

            tiles: TileMerger | None = None
            for found in in_order():
                if isinstance(found, Exception):
                    if on_problem is None:
                        raise found
                    on_problem(str(found))
                    yield None
                    continue
                part = parts.popleft()
                if part.grid is None:
                    yield found
                elif part.tile is None:
                    tiles = TileMerger(part.grid, options, found)
                else:
                    assert tiles is not None  # the whole image comes before its tiles
                    tiles.add(part.tile, found)
                    if part.grid.is_last(part.tile):
                        yield assembler.finished(tiles.merged())

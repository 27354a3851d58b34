"""Answers the events of the page. Methods map values of components to those of others; `View` is a visitor's state."""

import html
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from jaxtyping import UInt8

from fastmask_jax.allocator import return_freed_memory
from fastmask_jax.apps.page.downloads import DOWNLOADS, file_of
from fastmask_jax.apps.page.picture_cache import bound
from fastmask_jax.apps.page.uploads import read_upload
from fastmask_jax.apps.page.visitor_view import Sliders, View
from fastmask_jax.data.shapes.dataset import ShapesSpec, draw
from fastmask_jax.errors import InvalidInput
from fastmask_jax.inference.generator import ProposalGenerator

EXAMPLES = ShapesSpec(objects=(4, 6), side=(70.0, 200.0), small_share=0.0)
EXAMPLE_SEED = 20170726
SHOWN = 8 + len(DOWNLOADS)  # values of `Session._shown`

INVITATION = "Drop an image, or draw an example."
WORKING = "Looking for objects … (the first image of its shape takes longer: the network is compiled for it)"
CLICKED_NONE = "Nothing is proposed where you clicked."
Number = float | int  # of a slider: browsers send whole ones as integers


@dataclass
class Wanted:
    """What a visitor asked for last; one of these is kept for each visitor.

    Attributes:
      key: of the image, and of the tiles when these were changed; None: nothing.
    """

    key: Hashable = None


class Session:
    """Handles the events of all visitors; `tile` is a value of the option of `ProposeOptions`, as text.

    Each computation is begun by another event, which says what is wanted now. What is not wanted any more by the time
    its turn comes is not computed, and if it is computed already, it is not shown. Requests that are not the page's may
    have values of any kind in the arguments that are `Any`.
    """

    def __init__(self, generator: ProposalGenerator) -> None:
        self._generator = generator

    def begin(self, image: Any, wanted: Wanted) -> list[Any]:
        """Returns what is shown while an upload, gradio's record of the file, is processed, or after its removal."""
        wanted.key = _path(image)
        return self._nothing(INVITATION if wanted.key is None else WORKING)

    def upload(self, image: Any, wanted: Wanted, tile: Any, *sliders: Any) -> list[Any]:
        """Returns upload and what is shown."""
        path = _path(image)
        if path is None or wanted.key != path:
            return [gr.skip()] * (1 + SHOWN)
        try:
            pixels = read_upload(_uploaded(path))
        except ValueError as error:
            line = html.escape(str(error))
            gr.Warning(line)
            return [None, *self._nothing(line)]
        view = self._propose(Path(path).stem, pixels, tile, sliders)
        return [gr.skip(), *(self._shown(view) if wanted.key == path else [gr.skip()] * SHOWN)]

    def begin_example(self, number: int, wanted: Wanted) -> list[Any]:
        """Returns upload and what is shown while example `number` is processed."""
        wanted.key = number
        return [_example(number), *self._nothing(WORKING)]

    def example(self, number: int, wanted: Wanted, tile: Any, *sliders: Any) -> list[Any]:
        """Returns the number of the next example and what is shown."""
        if wanted.key != number:
            return [gr.skip()] * (1 + SHOWN)
        view = self._propose(f"example_{number}", _example(number), tile, sliders)
        return [number + 1, *self._shown(view)] if wanted.key == number else [gr.skip()] * (1 + SHOWN)

    def begin_tiles(self, view: View | None, wanted: Wanted, tile: Any) -> Any:
        """Returns the status while the image is processed again with other tiles."""
        if view is None:
            return gr.skip()
        wanted.key = (view.name, tile)
        return WORKING

    def tiles(self, view: View | None, wanted: Wanted, tile: Any, *sliders: Any) -> list[Any]:
        """Returns what is shown after the network has run with other tiles."""
        if view is None or wanted.key != (view.name, tile):
            return [gr.skip()] * SHOWN
        again = self._propose(view.name, view.found.image, tile, sliders)
        return self._shown(again) if wanted.key == (view.name, tile) else [gr.skip()] * SHOWN

    def slide(self, view: View | None, *sliders: Any) -> list[Any]:
        """Returns what is shown; without a view, as while one is computed, or with the same values, it stays."""
        if view is None or view.sliders == (chosen := _sliders(sliders)):
            return [gr.skip()] * SHOWN
        return self._shown(view.with_sliders(chosen))

    def settle(self, view: View | None, *sliders: Any) -> list[Any]:
        """Returns what is shown, after a computation: by the sliders as they are now. Memory goes to the system."""
        return_freed_memory()
        return self.slide(view, *sliders)

    def click(self, view: View | None, event: gr.EventData) -> list[Any]:
        """Returns what is shown after a click into the picture."""
        try:
            x, y = (int(place) for place in event._data["index"])
        except (TypeError, ValueError, KeyError):  # as only a forged request has it
            return [gr.skip()] * SHOWN
        return self._shown(view.clicked(x, y)) if view else [gr.skip()] * SHOWN

    def choose(self, view: View | None, k: Any) -> list[Any]:
        """Returns what is shown after proposal k is selected in the list, which stays."""
        if view is None or not isinstance(k, int):
            return [gr.skip()] * SHOWN
        shown = self._shown(view.selected(k))
        shown[4] = gr.skip()  # the list: it keeps the keyboard
        return shown

    def download(self, view: View | None, kind: str) -> dict[str, str] | None:
        """Returns a file of the shown proposals, for the browser to save; `kind` is a key of `DOWNLOADS`."""
        return file_of(view, kind) if view else None

    def _propose(self, name: str, pixels: Any, tile: str, sliders: tuple[Number, ...]) -> View:
        found = self._generator.propose(pixels, count=self._generator.config.evaluation.proposals, tile=tile)
        return View.of(name, found, _sliders(sliders))

    def _nothing(self, line: str) -> list[Any]:
        none = gr.update(choices=[], value=None)
        return [None, line, None, "", none, None, None, "", *[gr.update(interactive=False)] * len(DOWNLOADS)]

    def _shown(self, view: View) -> list[Any]:
        """Returns the values of view, status, overview, outlines, list, window, attention, description, downloads."""
        bound(Path(get_upload_folder()))
        choices = [(row, k) for k, row in enumerate(view.rows())]
        return [
            view,
            view.summary(),
            view.picture(),
            view.outlines(),
            gr.update(choices=choices, value=view.chosen),
            *(view.closeup() or (None, None)),
            view.description() or CLICKED_NONE,
            *[gr.update(interactive=True)] * len(DOWNLOADS),
        ]


def _path(image: Any) -> str | None:
    """Returns the path in gradio's record of an uploaded file; None without one."""
    path = image.get("path") if isinstance(image, dict) else None
    return path if isinstance(path, str) and path else None


def _uploaded(path: str) -> str:
    """Returns the path; raises ValueError if it is not an uploaded file, which only a forged request can cause."""
    if "\0" in path or not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise InvalidInput(f"{Path(path).name} was not uploaded")
    return path


def _sliders(values: tuple[Number, ...]) -> Sliders:
    score_threshold, nms_iou, count = values
    return Sliders(float(score_threshold), float(nms_iou), int(count))


def _example(number: int) -> UInt8[np.ndarray, "H W 3"]:
    return draw(EXAMPLES, (EXAMPLE_SEED, number)).image

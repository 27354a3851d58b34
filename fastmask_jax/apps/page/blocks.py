"""Builds the demo page with gradio: layout and events. Nothing leaves the machine."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from fastmask_jax.allocator import return_freed_memory
from fastmask_jax.apps.page.downloads import DOWNLOADS
from fastmask_jax.apps.page.forged_requests import Page
from fastmask_jax.apps.page.session import INVITATION, Session, Wanted
from fastmask_jax.config_schema import AUTO, OFF
from fastmask_jax.inference.generator import ProposalGenerator

MOST_SHOWN = 100
TILES = {"Whole image only": OFF, "Automatic": AUTO, **{f"{side} pixels": str(side) for side in (2048, 1024, 512)}}
KEPT_SECONDS = 3600  # what a visitor does not look at for so long is removed
SCRIPT = Path(__file__).with_name("page.js")
_SAVE = """(file) => {
    if (!file) return;
    const bytes = Uint8Array.from(atob(file.base64), (character) => character.charCodeAt(0));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes], {type: file.type}));
    link.download = file.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}"""


def build_page(generator: ProposalGenerator, network: str) -> gr.Blocks:
    """Builds the page without serving it.

    Args:
      generator: network; `evaluation.proposals` of its config are decoded per image, and the sliders filter them.
      network: description of the network, a line of Markdown.
    """
    with Page(
        title="Object proposals", fill_width=True, analytics_enabled=False, delete_cache=(600, KEPT_SECONDS)
    ) as page:
        gr.Markdown(
            "# Object proposals\nMasks of whole objects of any kind, best first. Scores rank the masks; they are not "
            f"calibrated. {network}"
        )
        with gr.Row(elem_id="columns"):
            controls, results = _controls(str(generator.config.evaluation.get("tile", OFF))), _results()
        _connect(Session(generator), controls, results)
        page.load(js=SCRIPT.read_text(encoding="utf-8"))
    return page


class _Controls(NamedTuple):
    """The left column."""

    upload: gr.Image
    example: gr.Button
    tile: gr.Dropdown
    sliders: list[gr.Slider]
    downloads: list[gr.Button]


class _Results(NamedTuple):
    """The right column."""

    status: gr.Markdown
    overview: gr.Image
    outlines: gr.HTML
    description: gr.Markdown
    list: gr.Radio
    closeups: list[gr.Image]


def _controls(tile: str) -> _Controls:
    choices = TILES if tile in TILES.values() else {f"{tile} pixels": tile, **TILES}
    with gr.Column(scale=2, min_width=300, elem_id="controls"):
        return _Controls(
            upload=gr.Image(label="Image", sources=["upload", "clipboard"], height=280, buttons=[], elem_id="upload"),
            example=gr.Button("Draw an example", size="md", elem_id="example"),
            tile=gr.Dropdown(
                list(choices.items()),
                value=tile,
                label="Tiles",
                info="Smaller tiles find smaller objects of large images, and take longer.",
                filterable=False,
                elem_id="tile",
            ),
            sliders=[
                gr.Slider(0, 1, 0, step=0.01, label="Score threshold", elem_id="score"),
                gr.Slider(0, 1, 0.3, step=0.01, label="Overlap allowed (NMS)", elem_id="nms"),
                gr.Slider(1, MOST_SHOWN, 6, step=1, label="Count, at most", elem_id="count"),
            ],
            downloads=[
                gr.Button(one.text, size="md", interactive=False, elem_id=kind) for kind, one in DOWNLOADS.items()
            ],
        )


def _results() -> _Results:
    with gr.Column(scale=5, min_width=400, elem_id="results"):
        status = gr.Markdown(INVITATION, elem_id="status")
        overview = gr.Image(
            label="Proposals: click one to look into it",
            format="png",
            height=520,
            interactive=False,
            buttons=["download", "fullscreen"],
            elem_id="overview",
        )
        outlines = gr.HTML(elem_id="outlines", visible="hidden")
        description = gr.Markdown(elem_id="description")
        with gr.Row():
            rows = gr.Radio([], label="Rank · score · box", interactive=True, elem_id="list", scale=1, min_width=190)
            closeups = [
                gr.Image(
                    label=label,
                    format="png",
                    height=320,
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id=name,
                    scale=2,
                    min_width=200,
                )
                for name, label in (("window", "Its window"), ("attention", "Attention: dark 0, yellow 1"))
            ]
    return _Results(status, overview, outlines, description, rows, closeups)


def _connect(session: Session, controls: _Controls, results: _Results) -> None:
    """Connects what the user does to the session."""
    upload, example, tile, sliders, downloads = controls
    view = gr.State(time_to_live=KEPT_SECONDS, delete_callback=lambda _: return_freed_memory())
    wanted, example_number, saved = gr.State(Wanted()), gr.State(1), gr.JSON(visible=False)
    shown = [view, results.status, results.overview, results.outlines, results.list]
    shown += [*results.closeups, results.description, *downloads]
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    busy = quiet | {"show_progress": "full", "show_progress_on": results.overview, "trigger_mode": "multiple"}

    # What is wrong with a file, `read_upload` says better than gradio: no preprocessing.
    upload_begins = upload.input(session.begin, [upload, wanted], shown, preprocess=False, **quiet)
    example_begins = example.click(session.begin_example, [example_number, wanted], [upload, *shown], **quiet)
    tiles_begin = tile.input(session.begin_tiles, [view, wanted, tile], results.status, **quiet)
    chosen = [wanted, tile, *sliders]
    computations = [
        upload_begins.then(session.upload, [upload, *chosen], [upload, *shown], preprocess=False, **busy),
        example_begins.then(session.example, [example_number, *chosen], [example_number, *shown], **busy),
        tiles_begin.then(session.tiles, [view, *chosen], shown, **busy),
    ]
    for computation in computations:
        computation.then(session.settle, [view, *sliders], shown, **quiet)

    moved = [slider.input for slider in sliders]
    gr.on(moved, session.slide, [view, *sliders], shown, trigger_mode="always_last", **quiet)
    results.overview.select(session.click, view, shown, **quiet)
    results.list.input(session.choose, [view, results.list], shown, trigger_mode="always_last", **quiet)
    for button, kind in zip(downloads, DOWNLOADS, strict=True):
        made: Any = button.click(partial(session.download, kind=kind), view, saved, **quiet)
        made.then(None, saved, None, js=_SAVE, **quiet)

"""Builds and serves the demo page with gradio: layout and events. Nothing leaves the machine."""

import html
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fastmask_jax.errors import InvalidInput

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read while gradio is imported, and later

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from jaxtyping import UInt8
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from fastmask_jax.apps.page.uploads import MOST_BYTES, read_upload
from fastmask_jax.apps.page.views import View
from fastmask_jax.apps.predict.formats.annotated_image import AnnotatedImage
from fastmask_jax.apps.predict.formats.table import open_formats
from fastmask_jax.apps.predict.input_files import image_ids
from fastmask_jax.data.shapes.dataset import ShapesSpec, draw
from fastmask_jax.inference.generator import ProposalGenerator
from fastmask_jax.masks.coco_results import JsonListWriter
from fastmask_jax.masks.polygons import TOLERANCE

MOST_SHOWN = 100
DOWNLOADS = {"download": "Download JSON", "polygons": "Download polygons", "labels": "Download label map"}
SHOWN = 6 + len(DOWNLOADS)  # values of `_Session._shown`
EXAMPLES = ShapesSpec(objects=(4, 6), side=(70.0, 200.0), small_share=0.0)
EXAMPLE_SEED = 20170726
KEPT_SECONDS = 3600  # a visitor's files are removed after this time without access

INVITATION = "Drop an image, or draw an example."
WORKING = "Looking for objects … (the first image of its shape takes longer: the network is compiled for it)"
CLICKED_NONE = "Nothing is proposed where you clicked."
NAME_PICTURES = """() => {
    const alts = {upload: "The image", overview: "The image with its proposals", window:
        "The selected proposal in its window", attention: "Attention in the window"};
    const name = () => Object.entries(alts).forEach(([id, alt]) =>
        document.querySelectorAll(`#${id} img`).forEach(picture => { if (picture.alt !== alt) picture.alt = alt; }));
    new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
    name();
}"""  # gradio's pictures have no alternative texts
FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]  # those of the visitor's machine: none is fetched
CSS = """
.gradio-container { width: 100% !important; max-width: 1360px !important; margin: 0 auto !important }
#overview img { cursor: crosshair }
#overview, #window, #attention, #upload { background: var(--background-fill-secondary) }
/* Labels and buttons lie above the pictures, not on them. */
#overview .image-frame, #window .image-frame, #attention .image-frame { padding-top: 30px }
/* On a phone: image, proposals, the one that is looked at, sliders, its window; each near what changes it. */
@media (max-width: 800px) {
  #columns { flex-direction: column; flex-wrap: nowrap }
  #controls, #results { display: contents }
  #overview { height: auto !important }
  #overview img { max-height: 70vh; object-fit: contain }
  #status, #overview, #description { order: 1 }
  #controls > :not(#upload, #example) { order: 2 }
  #results > :not(#status, #overview, #description) { order: 3 }
}
"""


class _Session:
    """Handles the events of the page. Methods map component values; `View` is the state of a visitor."""

    def __init__(self, generator: ProposalGenerator, folder: Path) -> None:
        self._generator = generator
        self._folder = folder

    def begin(self) -> list[Any]:
        """Returns the view and what is shown while an upload is processed."""
        return self._shown(None, WORKING)

    def upload(self, image: dict[str, Any] | None, *sliders: float | int) -> list[Any]:
        """Returns upload, view and what is shown. `image` is gradio's record of the file, which is not decoded yet."""
        if image is None:
            return [gr.skip(), *self._shown(None, INVITATION)]
        try:
            pixels = read_upload(_uploaded(image["path"]))
        except ValueError as error:
            line = html.escape(str(error))
            gr.Warning(line)
            return [None, *self._shown(None, line)]
        return [gr.skip(), *self._shown(self._propose(Path(image["path"]).stem, pixels, sliders))]

    def begin_example(self, number: int) -> list[Any]:
        """Returns upload, view and what is shown while example `number` is processed."""
        return [_example(number), *self._shown(None, WORKING)]

    def example(self, number: int, *sliders: float | int) -> list[Any]:
        """Returns the number of the next example, the view and what is shown."""
        return [number + 1, *self._shown(self._propose(f"example_{number}", _example(number), sliders))]

    def slide(self, view: View | None, *sliders: float | int) -> list[Any]:
        """Returns the view and what is shown; without a view, or while one is computed, what is shown stays."""
        if view is None:
            return [gr.skip()] * SHOWN
        return self._shown(view.with_sliders(*_numbers(*sliders)))

    def click(self, view: View | None, event: gr.SelectData) -> list[Any]:
        """Returns the view and what is shown."""
        return self._shown(view.clicked(*event.index)) if view else [gr.skip()] * SHOWN

    def step(self, view: View | None, forward: bool) -> list[Any]:
        """Returns the view and what is shown, with the next or the previous proposal selected."""
        return self._shown(view.stepped(1 if forward else -1)) if view else [gr.skip()] * SHOWN

    def _propose(self, name: str, pixels: Any, sliders: tuple[float | int, ...]) -> View:
        found = self._generator.propose(pixels, count=self._generator.config.evaluation.proposals)
        results = Path(tempfile.mkdtemp(dir=self._folder)) / f"{name}_proposals.json"
        return View(name, results, found, found).with_sliders(*_numbers(*sliders))

    def _shown(self, view: View | None, line: str | None = None) -> list[Any]:
        """Returns the values of view, status, overview, window, attention, description and downloads."""
        if view is None:
            return [None, line, None, None, None, "", *[gr.update(value=None, interactive=False)] * len(DOWNLOADS)]
        window, attention = view.closeup() or (None, None)
        files = [gr.update(value=str(path), interactive=True) for path in (self._json(view), *_other_formats(view))]
        return [view, view.summary(), view.picture(), window, attention, view.description() or CLICKED_NONE, *files]

    def _json(self, view: View) -> Path:
        """Writes the shown proposals as a COCO results file, which gradio copies for download."""
        image_id = image_ids([Path(view.name)])[0]
        with JsonListWriter(view.results) as file:
            for entry in view.shown.to_results(image_id):
                file.append(entry)
        return view.results


def _other_formats(view: View) -> tuple[Path, Path]:
    """Writes the shown proposals as a COCO dataset of polygons and as a label map."""
    folder, stem = view.results.parent, Path(view.name)
    with open_formats(["coco", "labels"], folder, TOLERANCE) as write:
        write(AnnotatedImage(image_ids([stem])[0], stem, view.name, view.shown))
    polygons, labels = (folder / f"{view.name}_{end}" for end in ("polygons.json", "labels.png"))
    (folder / "coco" / "annotations.json").replace(polygons)
    (folder / "labels" / f"{view.name}.png").replace(labels)
    return polygons, labels


def _uploaded(path: str) -> str:
    """Returns the path; raises ValueError if it is not an uploaded file, which happens only in forged requests."""
    if not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise InvalidInput(f"{Path(path).name} was not uploaded")
    return path


def _numbers(score_threshold: float | int, nms_iou: float | int, count: float | int) -> tuple[float, float, int]:
    """Converts slider values; the browser sends whole numbers as integers."""
    return float(score_threshold), float(nms_iou), int(count)


def _example(number: int) -> UInt8[np.ndarray, "H W 3"]:
    return draw(EXAMPLES, (EXAMPLE_SEED, number)).image


def build_page(generator: ProposalGenerator, network: str, folder: Path) -> gr.Blocks:
    """Builds the page without serving it.

    Args:
      generator: network; `evaluation.proposals` of its config are decoded per image, and the sliders filter them.
      network: description of the network, a line of Markdown.
      folder: folder of the files for download.
    """
    with gr.Blocks(
        title="Object proposals", fill_width=True, analytics_enabled=False, delete_cache=(600, KEPT_SECONDS)
    ) as page:
        gr.Markdown(
            "# Object proposals\nMasks of whole objects of any kind, best first. Scores rank the masks; they are not "
            f"calibrated. {network}"
        )
        with gr.Row(elem_id="columns"):
            controls, results = _controls(), _results()
        _connect(_Session(generator, folder), controls, results)
        page.load(js=NAME_PICTURES)
    return page


class _Controls(NamedTuple):
    """The left column."""

    upload: gr.Image
    example: gr.Button
    sliders: list[gr.Slider]
    downloads: list[gr.DownloadButton]


class _Results(NamedTuple):
    """The right column."""

    status: gr.Markdown
    overview: gr.Image
    steps: list[gr.Button]
    description: gr.Markdown
    closeups: list[gr.Image]


def _controls() -> _Controls:
    with gr.Column(scale=2, min_width=300, elem_id="controls"):
        return _Controls(
            upload=gr.Image(label="Image", sources=["upload", "clipboard"], height=280, buttons=[], elem_id="upload"),
            example=gr.Button("Draw an example", size="md", elem_id="example"),
            sliders=[
                gr.Slider(0, 1, 0, step=0.01, label="Score threshold", elem_id="score"),
                gr.Slider(0, 1, 0.3, step=0.01, label="Overlap allowed (NMS)", elem_id="nms"),
                gr.Slider(1, MOST_SHOWN, 6, step=1, label="Count, at most", elem_id="count"),
            ],
            downloads=[
                gr.DownloadButton(text, size="md", interactive=False, elem_id=name) for name, text in DOWNLOADS.items()
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
        with gr.Row():
            steps = [gr.Button(f"{word} proposal", size="sm", elem_id=word.lower()) for word in ("Previous", "Next")]
        description = gr.Markdown(elem_id="description")
        with gr.Row():
            closeups = [
                gr.Image(
                    label=label,
                    format="png",
                    height=320,
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id=name,
                    min_width=200,
                )
                for name, label in (("window", "Its window"), ("attention", "Attention: dark 0, yellow 1"))
            ]
    return _Results(status, overview, steps, description, closeups)


def _connect(session: _Session, controls: _Controls, results: _Results) -> None:
    """Connects what the user does to the session."""
    upload, example, sliders, downloads = controls
    view, example_number = gr.State(time_to_live=KEPT_SECONDS), gr.State(1)
    shown = [view, results.status, results.overview, *results.closeups, results.description, *downloads]
    private = {"api_visibility": "private"}
    upload.input(session.begin, None, shown, show_progress="hidden", **private).then(
        session.upload,
        [upload, *sliders],
        [upload, *shown],
        preprocess=False,  # `read_upload` explains invalid files better than gradio
        show_progress_on=results.overview,
        **private,
    )
    example.click(session.begin_example, example_number, [upload, *shown], show_progress="hidden", **private).then(
        session.example,
        [example_number, *sliders],
        [example_number, *shown],
        show_progress_on=results.overview,
        **private,
    )
    gr.on(
        [slider.input for slider in sliders],
        session.slide,
        [view, *sliders],
        shown,
        show_progress="hidden",
        trigger_mode="always_last",
        **private,
    )
    results.overview.select(session.click, view, shown, show_progress="hidden", **private)
    for button, forward in zip(results.steps, (False, True), strict=True):
        button.click(partial(session.step, forward=forward), view, shown, show_progress="hidden", **private)


@contextmanager
def _without_proxy(hosts: Sequence[str]) -> Iterator[None]:
    """Keeps gradio's check of its own address from going through a proxy."""
    before = {name: os.environ.get(name) for name in ("no_proxy", "NO_PROXY")}
    for name, value in before.items():
        os.environ[name] = ",".join([*filter(None, [value]), *hosts])
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(page: gr.Blocks, host: str, port: int) -> str:
    """Serves a page from threads of this process until `page.close()`; returns its address.

    Raises:
      ValueError: the address cannot be bound; one line.
    """
    own = ["127.0.0.1", "localhost", "::1", host]
    hosts = [host, "127.0.0.1", "localhost"] if host in own[:3] else ["*"]  # other names of this machine are unknown
    try:
        with _without_proxy(own):
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]},
                max_file_size=MOST_BYTES,
                theme=gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=["ui-monospace", "monospace"]),
                css=CSS,
            )
    except OSError as error:
        raise InvalidInput(
            f"--host {host} --port {port}: cannot be served there; another --port may be free"
        ) from error
    return address

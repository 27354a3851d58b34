"""Makes the files that the page gives for download, in memory: nothing is left on the disk."""

import base64
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

from fastmask_jax.apps.page.visitor_view import View
from fastmask_jax.apps.predict.formats.annotated_image import AnnotatedImage
from fastmask_jax.apps.predict.formats.table import open_formats
from fastmask_jax.apps.predict.input_files import image_ids
from fastmask_jax.masks.polygons import TOLERANCE


class Download(NamedTuple):
    """A file that the page gives.

    Attributes:
      text: on its button.
      ending: of the file's name, behind that of the image.
      media_type: of the content.
      written: format of `predict.py --format`, and the path of its file, {} for the image's name; none: COCO results.
    """

    text: str
    ending: str
    media_type: str
    written: tuple[str, str] | None = None


DOWNLOADS = {
    "download": Download("Download JSON", "_proposals.json", "application/json"),
    "polygons": Download("Download polygons", "_polygons.json", "application/json", ("coco", "annotations.json")),
    "labels": Download("Download label map", "_labels.png", "image/png", ("labels", "{}.png")),
}


def file_of(view: View, kind: str) -> dict[str, str]:
    """Returns name, media type and content (base64) of a file of the shown proposals, for the browser to save.

    Args:
      view: of the visitor.
      kind: key of `DOWNLOADS`.
    """
    one = DOWNLOADS[kind]
    stem = Path(view.name)
    image_id = image_ids([stem])[0]
    if one.written is None:
        content = json.dumps(view.shown.to_results(image_id)).encode()
    else:
        name, path = one.written
        with tempfile.TemporaryDirectory() as folder:
            with open_formats([name], Path(folder), TOLERANCE) as write:
                write(AnnotatedImage(image_id, stem, view.name, view.shown))
            content = (Path(folder) / name / path.format(view.name)).read_bytes()
    text = base64.b64encode(content).decode()
    return {"name": f"{view.name}{one.ending}", "type": one.media_type, "base64": text}

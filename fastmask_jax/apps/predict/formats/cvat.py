"""CVAT for images 1.1: FOLDER/annotations.xml with a polygon for each part of a mask."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import quoteattr

from fastmask_jax.apps.predict.formats.annotated_image import LABEL, AnnotatedImage, Write
from fastmask_jax.apps.predict.formats.whole_text_file import whole_text_file
from fastmask_jax.masks.polygons import keyholed

_HEAD = f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <labels>
        <label>
          <name>{LABEL}</name>
          <attributes>
            <attribute>
              <name>score</name>
              <mutable>False</mutable>
              <input_type>text</input_type>
              <default_value></default_value>
              <values></values>
            </attribute>
          </attributes>
        </label>
      </labels>
    </task>
  </meta>
"""


@contextmanager
def cvat(folder: Path, tolerance: float) -> Iterator[Write]:
    """Writes polygons with their score as an attribute, the best on top; the parts of a proposal share a group."""
    images = 0
    with whole_text_file(folder / "annotations.xml") as file:
        file.write(_HEAD)

        def write(image: AnnotatedImage) -> None:
            nonlocal images
            found = image.proposals
            height, width = found.image_size
            name = quoteattr(image.file_name)
            file.write(f'  <image id="{images}" name={name} width="{width}" height="{height}">\n')
            for k, (parts, score) in enumerate(zip(found.polygons(tolerance), found.scores.tolist(), strict=True)):
                group = k + 1 if len(parts) > 1 else 0
                for part in parts:
                    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in keyholed(part).tolist())
                    file.write(
                        f'    <polygon label="{LABEL}" source="auto" occluded="0" points="{points}" '
                        f'z_order="{len(found) - 1 - k}" group_id="{group}">'
                        f'<attribute name="score">{score:.4f}</attribute></polygon>\n'
                    )
            file.write("  </image>\n")
            images += 1

        yield write
        file.write("</annotations>\n")

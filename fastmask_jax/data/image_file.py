"""Image files as bytes → RGB pixels."""

import cv2
import numpy as np
from jaxtyping import UInt8

from fastmask_jax.errors import InvalidInput

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def decode_image(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes JPEG, PNG and what else OpenCV reads to RGB: gray, CMYK, palette, alpha and 16-bit files too.

    Pixels are taken as stored, without the EXIF orientation: COCO's annotations are made so.

    Errors:
      ValueError: the bytes are no whole image.
    """
    # Some versions of OpenCV fill up a truncated JPEG with gray; a whole one has its end marker after its last scan.
    truncated = data.startswith(_JPEG_START) and data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN)
    image = None
    if data and not truncated:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:  # such as too many pixels
            image = None
    if image is None:
        raise InvalidInput(f"an image of {len(data)} bytes is truncated or of no format that OpenCV decodes")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

"""Which layouts of TIFF files OpenCV decodes to wrong pixels without an error."""

from PIL.TiffImagePlugin import COMPRESSION_INFO

from fastmask_jax.data.image_header import TiffTags

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_SEPARATE = 2


def needs_gdal(tags: TiffTags) -> str:
    """Names what OpenCV does not decode in a TIFF with these tags; "" for nothing."""
    if tags.compression not in COMPRESSION_INFO:
        return f"compression {tags.compression}"
    if _is_deep(tags) and tags.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        return f"photometric interpretation {tags.photometric} of more than 8 bits"
    if _is_deep(tags) and tags.planar == _SEPARATE and tags.channels > 1:
        return "separate planes of more than 8 bits"
    if tags.photometric == _WHITE_IS_ZERO and tags.bits > 16:
        return "white as 0 of more than 16 bits"
    return ""


def is_negative(tags: TiffTags) -> bool:
    """Returns whether 0 is white, and OpenCV and Pillow do not invert the values."""
    return _is_deep(tags) and tags.photometric == _WHITE_IS_ZERO


def _is_deep(tags: TiffTags) -> bool:
    return tags.bits > 8

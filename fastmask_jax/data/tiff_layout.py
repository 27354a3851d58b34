"""Which layouts of TIFF files OpenCV decodes to wrong pixels without an error."""

from collections.abc import Mapping
from typing import Any

from PIL.TiffImagePlugin import COMPRESSION_INFO

_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANAR = 258, 259, 262, 284  # tags
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_SEPARATE = 2


def needs_gdal(directory: Mapping[int, Any]) -> str:
    """Names what OpenCV does not decode in a TIFF with these tags (`image_header.tiff_directory`); "" for nothing."""
    compression, photometric = directory.get(_COMPRESSION, 1), directory.get(_PHOTOMETRIC, _BLACK_IS_ZERO)
    if compression not in COMPRESSION_INFO:
        return f"compression {compression}"
    if _is_deep(directory) and photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        return f"photometric interpretation {photometric} of more than 8 bits"
    if _is_deep(directory) and directory.get(_PLANAR, 1) == _SEPARATE and len(directory[_BITS]) > 1:
        return "separate planes of more than 8 bits"
    if photometric == _WHITE_IS_ZERO and max(directory.get(_BITS, (1,))) > 16:
        return "white as 0 of more than 16 bits"
    return ""


def is_negative(directory: Mapping[int, Any]) -> bool:
    """Returns whether 0 is white, and OpenCV does not invert the values."""
    return _is_deep(directory) and directory.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _is_deep(directory: Mapping[int, Any]) -> bool:
    return max(directory.get(_BITS, (1,))) > 8

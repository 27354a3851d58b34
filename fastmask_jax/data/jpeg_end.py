"""Distinguishes complete from truncated JPEGs, regardless of other data after them."""

import re

START = b"\xff\xd8"
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)  # FF00 is a data byte; more FFs before a marker are fill bytes
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)  # restart markers belong to the scan
_END, _SCAN = 0xD9, 0xDA
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


def has_jpeg_end(data: bytes) -> bool:
    """Returns whether the data of a JPEG is complete, by following its segments to the end-of-image marker.

    Markers inside a segment, such as in an EXIF thumbnail, or after the end, such as in the video of a motion photo, do
    not count (ITU-T T.81, B.1.1).

    Args:
      data: bytes that begin with `START`.
    """
    at, marker = len(START), _MARKER
    while found := marker.search(data, at):
        code, at, marker = data[found.start() + 1], found.end(), _MARKER
        if code == _END:
            return True
        if code in _WITHOUT_LENGTH:
            continue
        at += max(int.from_bytes(data[at : at + 2], "big"), 2)  # the length includes its own two bytes
        if code == _SCAN:
            marker = _MARKER_AFTER_SCAN
    return False

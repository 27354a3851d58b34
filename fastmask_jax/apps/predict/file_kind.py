"""Detects images and videos by their content, or else by their suffix."""

from pathlib import Path
from typing import Literal

from fastmask_jax.data.image_file import SUFFIXES as IMAGES

Kind = Literal["image", "video"]

VIDEOS = {
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".vob", ".wmv", ".asf", ".flv", ".ts"),
    *(".mts", ".m2ts", ".3gp", ".3g2", ".ogv", ".ogm", ".qt", ".f4v", ".divx", ".rm", ".rmvb", ".mxf", ".dv", ".wtv"),
    *(".m1v", ".mpe", ".m2p", ".mod", ".tod", ".trp", ".y4m", ".ivf", ".nut", ".h264", ".264", ".h265", ".265"),
    *(".hevc", ".mjpeg", ".mjpg"),
}
_MOTION_JPEG = {".mjpeg", ".mjpg"}  # whose content begins as that of an image
# Suffixes of other files whose content looks like an image or a video.
_SOUND = {".m4a", ".m4b", ".mka", ".weba", ".wma", ".oga", ".ogg", ".opus"}
_RAW = {".cr2", ".nef", ".nrw", ".arw", ".sr2", ".dng", ".orf", ".rw2", ".pef", ".srw", ".3fr", ".iiq", ".erf", ".kdc"}

_HEAD = 1024
_IMAGE_STARTS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"#?RADIANCE", b"#?RGBE"),
)
_VIDEO_STARTS = (
    *(b"\x1aE\xdf\xa3", b"FLV\x01", b"0&\xb2u\x8ef\xcf\x11", b"\0\0\x01\xba", b"\0\0\x01\xb3"),
    *(b"\x06\x0e+4\x02\x05\x01\x01\x0d\x01\x02", b"\xb7\xd8\0 7I\xda\x11", b"YUV4MPEG2 ", b"DKIF\0\0"),
    *(b"nut/multimedia", b".RMF"),
    *(b"\0\0\0\x01\x67", b"\0\0\0\x01\x27", b"\0\0\0\x01\x09", b"\0\0\0\x01\x40\x01"),  # H.264 and H.265 alone
)
_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_OTHER_BRANDS = (b"M4A ", b"M4B ", b"M4P ", b"crx ")  # sound, and Canon's raw files
_BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # sizes in bytes
_PACKETS = ((0, 188), (4, 192))  # transport streams: offset of the first packet's marker, and packet size


def kind_of(path: Path) -> Kind | None:
    """Returns the kind of a file by its first bytes; by its suffix if they are unknown or cannot be read."""
    suffix = path.suffix.lower()
    if suffix in _SOUND | _RAW:
        return None
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        head = b""
    by_suffix: Kind | None = "image" if suffix in IMAGES else "video" if suffix in VIDEOS else None
    return by_suffix if suffix in _MOTION_JPEG else _by_content(head) or by_suffix


def _by_content(head: bytes) -> Kind | None:
    if head.startswith(_IMAGE_STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BITMAP_HEADERS:
        return "image"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace() and head[3:4] in b"#0123456789":
        return "image"
    if head[4:8] == b"ftyp" and head[8:12] not in _OTHER_BRANDS:
        return "image" if head[8:12] in _IMAGE_BRANDS else "video"
    if head.startswith(_VIDEO_STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return "video"
    if head[4:8] in (b"moov", b"mdat", b"wide") or (head[:4] == b"OggS" and b"theora" in head):
        return "video"
    if any(len(head) > 4 * step and set(head[at::step][:4]) == {0x47} for at, step in _PACKETS):
        return "video"
    return None

"""Detection of images and videos by content, on files written by PIL, OpenCV and PyAV."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from fastmask_jax.apps.predict.file_kind import kind_of

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("name", ["a", "a.txt", "a.mp4", "a.jpg"])
def test_images_of_any_name(tmp_path, kind, name):
    Image.fromarray(PIXELS).save(tmp_path / name, kind)
    assert kind_of(tmp_path / name) == "image"


def test_radiance_files(tmp_path):
    (tmp_path / "light").write_bytes(cv2.imencode(".hdr", PIXELS.astype(np.float32))[1].tobytes())
    assert kind_of(tmp_path / "light") == "image"


CODECS = {
    **dict.fromkeys(["mp4", "mov", "matroska", "flv", "mpegts", "3gp", "h264"], "libx264"),
    **{"webm": "libvpx", "ivf": "libvpx", "mpeg": "mpeg1video", "asf": "mpeg4", "avi": "mpeg4", "nut": "ffv1"},
    **{"yuv4mpegpipe": "wrapped_avframe", "rm": "rv10", "mpeg2video": "mpeg2video", "hevc": "libx265"},
    **dict.fromkeys(["mxf", "wtv"], "mpeg2video"),
}


@pytest.mark.parametrize("container", CODECS)
@pytest.mark.parametrize("name", ["v", "v.txt", "v.jpg", "v.MTS"])
def test_videos_of_any_name(tmp_path, container, name):
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format=container) as video:
        quiet = {"x265-params": "log-level=none"} if container == "hevc" else {}
        stream = video.add_stream(CODECS[container], rate=25, options=quiet)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(8):
            picture = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        video.mux(stream.encode(None))
    (tmp_path / name).write_bytes(file.getvalue())
    assert kind_of(tmp_path / name) == "video"


def test_cameras_transport_streams_have_four_bytes_more(tmp_path):
    packet = bytes(4) + b"G" + bytes(range(187))
    (tmp_path / "00001").write_bytes(packet * 6)
    assert kind_of(tmp_path / "00001") == "video"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.JPG", b"", "image"),  # broken: reported when it is read
        ("a.avif", b"?", "image"),
        ("a.jfif", b"?", "image"),
        ("v.3gp", b"", "video"),
        ("v.m2ts", b"", "video"),
        ("v.MJPEG", b"\xff\xd8\xff\xe0", "video"),
        ("v.dv", b"\x1f\x07\0", "video"),
        ("notes.txt", b"BMW and more text that is no bitmap", None),
        ("notes.txt", b"P3 is a group of patients", None),
        ("notes.txt", b"GGGGGGGGGGGG", None),
        ("data.json", b"{}", None),
        ("song.m4a", b"\0\0\0\x20ftypM4A \0\0\0\0", None),
        ("song", b"\0\0\0\x20ftypM4A \0\0\0\0", None),
        ("raw.CR2", b"II*\0\x10\0\0\0CR", None),
        ("raw.dng", b"II*\0", None),
        ("photo", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "image"),
        ("sound.wav", b"RIFF\x24\0\0\0WAVEfmt ", None),
    ],
)
def test_other_content(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    assert kind_of(tmp_path / name) == kind


def test_what_cannot_be_read_is_told_by_its_suffix(tmp_path):
    assert kind_of(tmp_path / "gone.png") == "image" and kind_of(tmp_path / "gone") is None

"""Writes COCO instances as array_record shards with a tensorflow-datasets builder, without TensorFlow.

    coco_instances-<split>.array_record-…    the records, with tfds' own dataset_info.json and features.json:
                                             `tfds.builder_from_directory(directory)` reads them too
    index.npz                                of every record: image_id, height, width, objects (crowds not counted)
    problems.json                            what was skipped and why

Records are sorted by image id. Worker processes serialize them and this process writes them, because tfds' own builders
do both in one process and hold the examples of a shard, or of a split, in memory.
"""

import contextlib
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.writer import ExampleWriter

from fastmask_jax.data.atomic_directory import appearing_whole, refuse_existing
from fastmask_jax.data.coco.image_check import CheckedImage, check
from fastmask_jax.data.coco.instances import CocoSplit
from fastmask_jax.data.exif import UPRIGHT, Exif
from fastmask_jax.data.image_file import decode_image
from fastmask_jax.data.image_header import MAX_PIXELS
from fastmask_jax.data.process_map import map_in_order
from fastmask_jax.data.records import INDEX, RecordIndex
from fastmask_jax.errors import InvalidInput

PROBLEMS = "problems.json"
QUALITY = 95  # JPEG quality of images that are encoded again
SHARD_BYTES = 128 << 20  # of image files


@cache
def _features() -> tfds.features.FeaturesDict:
    objects = {
        "id": np.int64,
        "bbox": tfds.features.Tensor(shape=(4,), dtype=np.float32),  # x, y, w, h in pixels of the file
        "area": np.float32,
        "is_crowd": np.bool_,
        "counts": tfds.features.Text(),
    }
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "image/id": np.int64,
        "image/filename": tfds.features.Text(),
        "image/height": np.int64,
        "image/width": np.int64,
        "objects": tfds.features.Sequence(objects),
    }
    return tfds.features.FeaturesDict(features)


@cache
def _serializer() -> ExampleSerializer:
    return ExampleSerializer(_features().get_serialized_info())


class CocoInstances(FileReaderBuilder):
    """COCO instances: unchanged image files, boxes, areas, crowd flags, masks as compressed RLE."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Masks as compressed COCO run lengths at the image's size."}  # noqa: RUF012
    # Set because tfds' own search needs importlib_resources, which its wheel does not require.
    pkg_dir_path = Path(__file__).parent
    code_path = Path(__file__)

    def __init__(self, *, data_dir: Path, split_name: str, images: Sequence[CheckedImage], workers: int) -> None:
        """Creates a builder of the records of `split_name` below `data_dir`, serialized by `workers` processes."""
        self._split_name = split_name
        self._images = images
        self._workers = workers
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=_features(), homepage="https://cocodataset.org", disable_shuffling=True
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        lengths = self._shard_lengths()
        template = self._get_filename_template(split_name=self._split_name)
        names = [template.sharded_filepath(shard_index=n, num_shards=len(lengths)) for n in range(len(lengths))]
        records = map_in_order(_record, self._images, self._workers, "writing")
        with contextlib.closing(records):
            for name, length in zip(names, lengths, strict=True):
                ExampleWriter(self.info.file_format).write(name, enumerate(itertools.islice(records, length)))
        written = sum(name.stat().length for name in names)
        split = tfds.core.SplitInfo(
            name=self._split_name, shard_lengths=lengths, num_bytes=written, filename_template=template
        )
        self.info.set_splits(tfds.core.SplitDict([split]))

    def _shard_lengths(self) -> list[int]:
        """Returns the number of images of each shard: an image is in the shard of its last byte."""
        ends = np.cumsum([image.file_bytes for image in self._images])
        shard = (ends - 1) // SHARD_BYTES
        bounds = [0, *(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(self._images)]
        return [b - a for a, b in itertools.pairwise(bounds)]


def _record(checked: CheckedImage) -> bytes:
    example = _serializer().get_tf_example(_features().encode_example(_example(checked)))
    return example.SerializeToString(deterministic=True)  # otherwise the order of the features varies


def _example(checked: CheckedImage) -> dict[str, Any]:
    return {
        "image": _upright_file(checked.image.path.read_bytes(), checked.orientation),
        "image/id": checked.image.image_id,
        "image/filename": checked.image.file_name,
        "image/height": checked.size[0],
        "image/width": checked.size[1],
        "objects": [
            {
                "id": o.object_id,
                "bbox": np.array(o.box, np.float32),
                "area": o.area,
                "is_crowd": o.crowd,
                "counts": o.counts,
            }
            for o in checked.objects
        ],
    }


def _upright_file(data: bytes, orientation: int) -> bytes:
    """Returns the file unchanged or, if its pixels must be rotated, a JPEG of quality 95 without an orientation."""
    if orientation == UPRIGHT:
        return data
    image = decode_image(data, "apply", max_pixels=None)[:, :, ::-1]  # checked before
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY, *sampling])[1].tobytes()


@dataclass(frozen=True)
class Built:
    """Summary of the written records."""

    images: int
    turned: int  # images that were turned upright
    without_objects: int  # images without objects, or with crowds only
    objects: int
    crowds: int


def build(
    split: CocoSplit,
    directory: Path,
    *,
    split_name: str,
    workers: int,
    overwrite: bool = False,
    exif: Exif = "ignore",
    max_pixels: int = MAX_PIXELS,
) -> Built:
    """Checks the images of a split and writes them as records, atomically.

    Args:
      split: from `read_instances`, with an image folder; problems are added to its report.
      directory: output directory; its parent is created, too.
      split_name: name of the tfds split, such as "train".
      workers: processes that check images and serialize records; 0: none. The files do not depend on it.
      overwrite: replace existing records.
      exif: whether masks refer to the pixels as stored or to the upright image. Records store the pixels that the
        masks refer to: with "apply", images with an orientation are turned and encoded again.
      max_pixels: larger images are skipped, without being decoded.

    Raises:
      FileExistsError: `directory` exists and does not contain records, or `overwrite` is not set.
      ValueError: no image is usable, or a worker died.
    """
    refuse_existing(directory, INDEX, overwrite)
    images = check(split, workers, exif, max_pixels)
    if not images:
        raise InvalidInput(f"{directory}: no usable image; nothing was written\n{split.report.summary()}".rstrip())
    with appearing_whole(directory) as new:
        _write_records(images, new.parent, split_name, workers).rename(new)
        np.savez(new / INDEX, **_index(images)._asdict())
        split.report.write(new / PROBLEMS)
    objects = [o for checked in images for o in checked.objects]
    crowds = sum(o.crowd for o in objects)
    without = sum(all(o.crowd for o in checked.objects) for checked in images)
    turned = sum(checked.orientation != UPRIGHT for checked in images)
    return Built(len(images), turned, without, len(objects) - crowds, crowds)


def _write_records(images: Sequence[CheckedImage], folder: Path, split_name: str, workers: int) -> Path:
    """Runs the builder below `folder`; returns the directory it wrote."""
    builder = CocoInstances(data_dir=folder, split_name=split_name, images=images, workers=workers)
    with contextlib.redirect_stdout(io.StringIO()):  # tfds prints messages about downloads
        builder.download_and_prepare()
    return Path(builder.data_dir)


def _index(images: Sequence[CheckedImage]) -> RecordIndex:
    return RecordIndex(
        image_id=np.array([c.image.image_id for c in images], np.int64),
        height=np.array([c.size[0] for c in images], np.int32),
        width=np.array([c.size[1] for c in images], np.int32),
        objects=np.array([sum(not o.crowd for o in c.objects) for c in images], np.int32),
    )

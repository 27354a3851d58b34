"""Runs a dataset through an actor pool of Ray Data, and resumes earlier runs."""

import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from fastmask_jax.bulk.inputs import find_inputs
from fastmask_jax.bulk.manifest import Manifest, read_manifest
from fastmask_jax.bulk.plan import write_plan
from fastmask_jax.bulk.pool import Pool, computed, ray_of
from fastmask_jax.bulk.proposer import Job
from fastmask_jax.bulk.reading import Columns
from fastmask_jax.bulk.storage import OutputFolder, absolute
from fastmask_jax.errors import InvalidInput, MissingFile
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.masks.parquet_results import SHARDS, Counts, shard_name

_MANIFEST_EVERY = 100  # shards; the manifest is only informative: finished shards are found in the folder


@dataclass(frozen=True)
class Request:
    """What to compute; the same for all runs in a folder.

    Attributes:
      inputs: addresses of folders and files, and @LISTs (see `inputs.find_inputs`).
      weights, config, overrides: arguments of `fastmask_jax.load`.
      options: options of `propose`; `batch_size` is ignored.
      columns: columns of Parquet input.
      attention: whether to write attention maps and their windows.
      shard_images: maximum number of images per result file.
    """

    inputs: Sequence[str]
    weights: str
    config: str | None = None
    overrides: Sequence[str] = ()
    options: ProposeOptions = field(default_factory=ProposeOptions)
    columns: Columns = field(default_factory=Columns)
    attention: bool = False
    shard_images: int = 1000

    def settings(self) -> dict[str, Any]:
        """Returns all fields in the form stored in the manifest."""
        options = {name: value for name, value in asdict(self.options).items() if name != "batch_size"}
        return {
            "inputs": [f"@{absolute(word[1:])}" if word.startswith("@") else absolute(word) for word in self.inputs],
            "weights": self.weights,
            "config": self.config,
            "overrides": list(self.overrides),
            **options,
            "image_column": self.columns.image,
            "id_column": self.columns.image_id,
            "attention": self.attention,
            "shard_images": self.shard_images,
        }


class Progress(NamedTuple):
    """The argument of the progress callback."""

    done: Counts  # over all runs
    images: int | None  # number of images in the dataset, if known


class Done(NamedTuple):
    """The state of the folder at the end."""

    totals: Counts
    shards: int
    missing: int  # number of shards whose actors died repeatedly
    skipped: Counter[str]


def propose_dataset(
    request: Request,
    out: str,
    pool: Pool,
    *,
    retry_errors: bool = False,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[Progress], object] = lambda told: None,
) -> Done:
    """Writes the proposals of all images to Parquet files below `out`; resumes if some exist.

    The plan, which divides the images into shards, is made once. Each shard is one file, written atomically, and
    computing it again replaces it. So no image is lost or duplicated if actors or machines die.

    Args:
      request: what to compute.
      out: address of the folder, which all machines must share.
      pool: where to compute.
      retry_errors: whether to compute shards with unreadable images again.
      report: called with messages about the run.
      progress: called after every shard.

    Raises:
      FileNotFoundError, FileExistsError, ValueError: invalid input, or other settings than those of earlier runs in
        the folder; one line.
    """
    folder = OutputFolder(out)
    settings = request.settings()
    manifest = read_manifest(folder, settings)
    if manifest is None:
        manifest = _planned(request, settings, folder, report)
    elif manifest.done:
        report(f"{folder}: going on; {len(manifest.done)} of {manifest.shards} shards are done")
    if retry_errors:
        for number in [number for number, counts in manifest.done.items() if counts.errors]:
            folder.remove(f"{SHARDS}/{shard_name(number)}")
            del manifest.done[number]
    pending = [number for number in range(manifest.shards) if number not in manifest.done]
    if pending:
        progress(Progress(manifest.totals, manifest.images))
        with ray_of(pool):
            job = Job(
                out=folder,
                weights=request.weights,
                config=request.config,
                overrides=tuple(request.overrides),
                options=request.options,
                columns=request.columns,
                attention=request.attention,
                batch_size=pool.batch_size,
                digest=manifest.weights,
                run=uuid.uuid4().hex[:8],
                cores=0,
            )
            try:
                for row in computed(job, pending, pool, report):
                    if row["given_up"]:
                        continue
                    _note(manifest, row, folder)
                    progress(Progress(manifest.totals, manifest.images))
                    if len(manifest.done) % _MANIFEST_EVERY == 0:
                        manifest.write(folder)
            finally:
                manifest.write(folder)
    missing = manifest.shards - len(manifest.done)
    if not missing:
        manifest.write(folder)
        folder.remove_unfinished()
    return Done(manifest.totals, manifest.shards, missing, Counter(manifest.skipped))


def _planned(
    request: Request, settings: dict[str, Any], folder: OutputFolder, report: Callable[[str], None]
) -> Manifest:
    skipped: Counter[str] = Counter()
    planned = write_plan(find_inputs(request.inputs, skipped), folder, request.shard_images)
    if not planned.shards:
        others = ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common(5))
        raise MissingFile(f"{', '.join(request.inputs)}: no images there" + (f", but {others}" if others else ""))
    manifest = Manifest(settings, planned.shards, planned.images, dict(skipped.most_common()))
    manifest.write(folder)
    images = f"{planned.images} images" if planned.images is not None else "images of tars, not counted yet,"
    report(f"{folder}: {images} in {planned.shards} shards")
    return manifest


def _note(manifest: Manifest, row: dict[str, Any], folder: OutputFolder) -> None:
    """Adds an actor's report to the manifest; raises its error, if any."""
    if row["problem"]:
        if "\n" in row["problem"]:
            raise RuntimeError(f"an actor of the pool failed:\n{row['problem']}")
        raise InvalidInput(row["problem"])
    if manifest.weights and row["weights"] != manifest.weights:
        raise InvalidInput(
            f"{folder}: shard {row['shard']} was made with other weights than the rest ({manifest.settings['weights']} "
            "is not the same on all machines); remove that shard"
        )
    manifest.weights = row["weights"]
    manifest.done[int(row["shard"])] = Counts(*(int(row[name]) for name in Counts._fields))

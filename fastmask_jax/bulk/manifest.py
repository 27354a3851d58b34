"""The manifest of a results folder: what was requested, and what is done."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fastmask_jax import __version__
from fastmask_jax.bulk.storage import OutputFolder
from fastmask_jax.errors import ExistingFile, InvalidInput
from fastmask_jax.foreign_json import decoded
from fastmask_jax.masks.parquet_results import MANIFEST, SHARDS, VERSION, Counts, read_note, shard_name, totals_of

_THREADS = 32  # threads that read the metadata of finished shards
_OURS = ("plan", "unfinished")  # what remains of a process that was killed before it wrote the manifest


@dataclass
class Manifest:
    """Content of `manifest.json`.

    Attributes:
      settings: all settings that determine the results.
      shards: number of result files.
      images: number of images; None until all tars have been read.
      skipped: number of files without images in the input folders, by suffix.
      weights: digest of the network's weights; "" before the first shard.
      done: totals of each finished shard, by number.
    """

    settings: dict[str, Any]
    shards: int
    images: int | None
    skipped: dict[str, int]
    weights: str = ""
    done: dict[int, Counts] = field(default_factory=dict)

    @property
    def totals(self) -> Counts:
        """Returns the totals over all finished shards."""
        total = Counts()
        for counts in self.done.values():
            total = total.plus(counts)
        return total

    def write(self, out: OutputFolder) -> None:
        """Replaces the manifest in the folder."""
        files = [{"file": f"{SHARDS}/{shard_name(n)}", **self.done[n]._asdict()} for n in sorted(self.done)]
        content = {
            "format": "fastmask_jax proposals",
            "version": VERSION,
            "written_by": f"fastmask_jax {__version__}",
            "settings": self.settings,
            "weights_sha256": self.weights,
            "shards": self.shards,
            "images": self.totals.images if len(self.done) == self.shards else self.images,
            "skipped": self.skipped,
            "complete": len(self.done) == self.shards,
            "files": files,
        }
        with out.writing(MANIFEST) as path:
            path.write_text(json.dumps(content, indent=2) + "\n")


def read_manifest(out: OutputFolder, settings: dict[str, Any]) -> Manifest | None:
    """Reads the manifest of an earlier run; None if the folder is new.

    The list of finished shards comes from the shards themselves, because the manifest may be outdated. A damaged shard
    counts as not done.

    Raises:
      FileExistsError: the folder contains other files.
      ValueError: the run had other settings; one line.
    """
    there = out.names()
    if MANIFEST not in there:
        others = [name for name in there if name not in _OURS]
        if others:
            raise ExistingFile(f"{out}: holds {others[0]}, but no {MANIFEST}; choose a new folder for --out")
        return None
    try:
        content = decoded(out.read(MANIFEST), out.path(MANIFEST))
        totals_of(content, out.path(MANIFEST))
        found = Manifest(*(content[name] for name in ("settings", "shards", "images", "skipped", "weights_sha256")))
        version = content["version"]
        if not isinstance(found.settings, dict) or not isinstance(found.skipped, dict):
            raise KeyError("settings")
    except KeyError as error:
        raise InvalidInput(f"{out.path(MANIFEST)}: has no {error}; choose a new folder for --out") from None
    if version != VERSION:
        raise InvalidInput(f"{out.path(MANIFEST)}: of version {version}; this program writes {VERSION}")
    for name, value in json.loads(json.dumps(settings)).items():
        if found.settings.get(name) != value:
            before, now = json.dumps(found.settings.get(name)), json.dumps(value)
            raise InvalidInput(
                f"{out}: begun with {name}={before}, now {now}; go on with the same settings, or use another --out"
            )
    names = {shard_name(number): number for number in range(found.shards)}
    there = [name for name in out.names(SHARDS) if name in names]
    with ThreadPoolExecutor(_THREADS) as threads:
        for name, note in zip(there, threads.map(lambda name: _note(out, name), there), strict=True):
            if note is not None:
                found.done[names[name]] = Counts(*(note[key] for key in Counts._fields))
                found.weights = found.weights or note["weights"]
    return found


def _note(out: OutputFolder, name: str) -> dict[str, Any] | None:
    try:
        with out.open(f"{SHARDS}/{name}") as file:
            return read_note(file)
    except InvalidInput:
        return None

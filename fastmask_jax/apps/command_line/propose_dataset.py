"""fastmask propose-dataset: proposals of any number of images, as Parquet files."""

import argparse
import sys
from collections.abc import Sequence

from tqdm import tqdm

from fastmask_jax.apps.command_line.interrupts import INTERRUPTED
from fastmask_jax.apps.command_line.number_flags import integer
from fastmask_jax.apps.command_line.proposal_options import (
    add_network_options,
    add_proposal_options,
    proposal_options,
)
from fastmask_jax.bulk.pool import OBJECT_STORE_MB, Pool
from fastmask_jax.bulk.reading import Columns
from fastmask_jax.bulk.run import Progress, Request, propose_dataset
from fastmask_jax.config_schema import MOST_WORKERS
from fastmask_jax.configuration import parse_command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 if an image was unreadable or a shard is missing, otherwise 0."""
    words, overrides = parse_command_line(_parser(), arguments)
    request = Request(
        inputs=words.inputs,
        weights=words.weights,
        config=words.config,
        overrides=overrides,
        options=proposal_options(words),
        columns=Columns(words.image_column, words.id_column),
        attention=words.attention,
        shard_images=words.shard_images,
    )
    pool = Pool(words.address, words.actors_per_machine, words.batch_size, words.object_store_mb)
    with tqdm(unit="image", disable=None) as bar:

        def told(progress: Progress) -> None:
            if bar.total is None and progress.images is not None:
                bar.reset(progress.images)
                bar.initial = progress.done.images  # done in earlier runs: they do not count for the rate
            bar.n = progress.done.images
            bar.set_postfix(errors=progress.done.errors, refresh=False)
            bar.refresh()

        try:
            done = propose_dataset(
                request, words.out, pool, retry_errors=words.retry_errors, report=_say, progress=told
            )
        except KeyboardInterrupt:
            _say(f"interrupted: finished shards stay in {words.out}, and the same command resumes")
            return INTERRUPTED
    if done.skipped:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in done.skipped.most_common(8))
        _say(f"skipped, no images, Parquet or tar files: {kinds}")
    totals = done.totals
    read = totals.images - totals.errors
    print(
        f"{words.out}: {totals.proposals} proposals of {read} images; {totals.errors} unreadable; {done.shards} files"
    )
    if done.missing:
        _say(
            f"{done.missing} shards are missing: their actors died several times, possibly out of memory; run the same "
            "command again, with fewer --actors_per_machine"
        )
    return 1 if totals.errors or done.missing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastmask propose-dataset",
        description="Writes object proposals of any number of images to Parquet files in OUT/shards, with "
        "OUT/manifest.json. An image that cannot be read becomes a row with its error. The same command resumes an "
        "interrupted run. docs/bulk.md describes the files.",
        epilog="Any setting of the config: --config.section.key=value, as in --config.evaluation.long_edges=1300",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="a folder (with subfolders), an image, a Parquet file, a WebDataset tar, or @LIST, a file with one of "
        "these files per line; local paths or addresses that fsspec knows, such as s3://bucket/photos",
    )
    parser.add_argument(
        "--out", required=True, metavar="OUT", help="output folder, local or s3://…; all machines see it"
    )
    add_network_options(parser)
    add_proposal_options(parser)

    files = parser.add_argument_group("files")
    files.add_argument(
        "--attention", action="store_true", help="also write each proposal's attention map and the box of its window"
    )
    files.add_argument(
        "--shard_images", type=integer(1), default=1000, metavar="N", help="images per output file (default: 1000)"
    )
    files.add_argument(
        "--image_column",
        default="image",
        metavar="NAME",
        help="of Parquet input: encoded images, their addresses, or a struct of bytes and path (default: image)",
    )
    files.add_argument("--id_column", metavar="NAME", help="of Parquet input: image ids (default: file and row)")
    files.add_argument(
        "--retry_errors", action="store_true", help="compute the files again in which an image could not be read"
    )

    machines = parser.add_argument_group("machines")
    machines.add_argument(
        "--address",
        metavar="ADDRESS",
        help="join this Ray cluster, such as auto or ray://head:10001 (default: start Ray)",
    )
    machines.add_argument(
        "--actors_per_machine",
        type=integer(1, MOST_WORKERS),
        default=1,
        metavar="N",
        help="without GPUs: networks per machine, which share its cores (default: 1); each GPU has one",
    )
    machines.add_argument(
        "--object_store_mb",
        type=integer(80),  # Ray needs as much
        default=OBJECT_STORE_MB,
        metavar="MB",
        help=f"shared memory of Ray, if it is started here (default: {OBJECT_STORE_MB}; images do not pass through it)",
    )
    return parser


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)

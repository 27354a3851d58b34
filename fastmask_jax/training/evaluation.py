"""The evaluation of a network while it is trained."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from fastmask_jax.errors import MissingFile
from fastmask_jax.evaluation.evaluate import evaluate
from fastmask_jax.inference.proposer import Proposer
from fastmask_jax.inference.proposing import ImageProposals
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.training.reporting import Reporter
from fastmask_jax.training.step import TrainState


class _Stopped(Exception):
    """A signal came during an evaluation."""


def check_evaluation(config: ConfigDict) -> None:
    """Looks for the files of an evaluation: that they are missing should be known before hours of training.

    Errors:
      FileNotFoundError: annotations or images are not there; one line.
    """
    if config.train.evaluate_every > 0:
        for key, exists in (("annotations", Path.is_file), ("images", Path.is_dir)):
            if not exists(Path(config.evaluation[key])):
                raise MissingFile(
                    f"evaluation.{key}={config.evaluation[key]} is not there; train.evaluate_every=0 trains without"
                )


def evaluate_state(
    config: ConfigDict, model: FastMask, state: TrainState, workdir: Path, reporter: Reporter, stop: Sequence[object]
) -> dict[str, float] | None:
    """Evaluates a state on the config's split.

    Args:
      config: the whole config.
      model: the network.
      state: of training; its averaged weights are evaluated where it keeps them.
      workdir: of the run; the proposals are written into it.
      reporter: gets a line for each image that cannot be read.
      stop: as soon as it is not empty the evaluation ends: whoever sent a signal will not wait for long.

    Returns:
      The metrics, or None if it was stopped.
    """

    def watch(proposals: Iterable[ImageProposals], _: int) -> Iterator[ImageProposals]:
        for one in proposals:
            if stop:
                raise _Stopped
            yield one

    proposer = Proposer(model, state.averaged_variables, config.evaluation.proposals)
    results = workdir / "evaluation" / "proposals.json"
    try:
        return evaluate(proposer, config.evaluation.to_dict(), results, reporter.say, watch)
    except _Stopped:
        return None

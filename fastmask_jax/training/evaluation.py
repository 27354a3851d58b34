"""Evaluates average recall during training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fastmask_jax.errors import MissingFile
from fastmask_jax.evaluation.evaluate import evaluate
from fastmask_jax.inference.generator import ProposalGenerator
from fastmask_jax.models.fastmask import FastMask


class Evaluation:
    """Evaluates successive weights of one network; its programs are compiled once."""

    def __init__(self, model: FastMask, config: ConfigDict, workdir: Path, report: Callable[[str], None]) -> None:
        self._model, self._config, self._report = model, config, report
        self._results = workdir / "evaluation" / "proposals.json"
        self._generator: ProposalGenerator | None = None

    def __call__(self, variables: Any, stop: Callable[[], bool]) -> dict[str, float] | None:
        """Returns the metrics of the config's split, or None if `stop` is true in any process after an image.

        The evaluation is abandoned after a signal, because the process may be killed soon.
        """
        if self._generator is None:
            self._generator = ProposalGenerator(self._model, variables, self._config, report=self._report)
        else:
            self._generator = self._generator.with_variables(variables)
        return evaluate(self._generator, self._results, self._report, stop=stop)


def check_evaluation(config: ConfigDict) -> None:
    """Checks before training that the files of the evaluation exist.

    Raises:
      FileNotFoundError: a file is missing; one line.
    """
    if config.train.evaluate_every > 0:
        for key, exists in (("annotations", Path.is_file), ("images", Path.is_dir)):
            if not exists(Path(config.evaluation[key])):
                raise MissingFile(
                    f"evaluation.{key}={config.evaluation[key]} does not exist; set train.evaluate_every=0"
                )

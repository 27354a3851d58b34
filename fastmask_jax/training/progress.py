"""What a checkpoint keeps beside the state, so that a resumed run reports what a run without a stop would."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Progress:
    """What a run has done after a step but not yet reported.

    Attributes:
      unlogged_steps: number of steps since the last log.
      sums: sums of their metrics.
      evaluation_due: the evaluation after this step was abandoned at a signal.
    """

    unlogged_steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    evaluation_due: bool = False

    def add(self, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step."""
        self.unlogged_steps += 1
        self.sums = {key: self.sums.get(key, 0.0) + value for key, value in metrics.items()}

    def take_means(self) -> dict[str, float]:
        """Returns the means of the metrics of unlogged steps, empty if there are none; then they count as logged."""
        means = {key: total / self.unlogged_steps for key, total in self.sums.items()}
        self.unlogged_steps, self.sums = 0, {}
        return means

    def to_json(self) -> dict[str, Any]:
        """Returns a copy as JSON holds it, for `Progress(**copy)`."""
        return asdict(self)

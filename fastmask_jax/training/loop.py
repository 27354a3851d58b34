"""Runs training: from a config and a working directory to trained weights."""

import json
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from fastmask_jax import cluster
from fastmask_jax.config_schema import check_config
from fastmask_jax.data.batch_plan import BatchPlan
from fastmask_jax.data.batches import TrainBatch
from fastmask_jax.data.fit_check import check_objects_fit
from fastmask_jax.data.labels import LabelSpec
from fastmask_jax.data.pipeline import TrainSpec, train_batches
from fastmask_jax.data.records import MixedRecords, RecordSet, RecordSource
from fastmask_jax.errors import UserError
from fastmask_jax.full_disk import naming_full_disk
from fastmask_jax.models.build import build_model
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.training.devices import (
    AXIS,
    check_batch_size,
    map_over_devices,
    one_copy,
    replicate,
    shared_batch_size,
    split,
)
from fastmask_jax.training.evaluation import Evaluation, check_evaluation
from fastmask_jax.training.interruptions import SIGNAL, Stop, signals, what_is_safe
from fastmask_jax.training.losses import LossSpec
from fastmask_jax.training.optimizer import build_optimizer, peak_learning_rate
from fastmask_jax.training.progress import Progress
from fastmask_jax.training.progress_pictures import TrainingPictures
from fastmask_jax.training.reporting import Reporter
from fastmask_jax.training.run_lock import locked
from fastmask_jax.training.step import TrainState, calibrate_frozen_stats, create_state, make_step, on_device
from fastmask_jax.weights.checkpoints import Checkpoints, Resumed, save_config
from fastmask_jax.weights.sources import load_weights

IN_FLIGHT = 2  # steps whose losses are not read yet; reading them earlier would make the host wait for the devices


class Diverged(UserError, RuntimeError):
    """Training diverged: the loss or the gradient is NaN or infinite."""


TrainingData = tuple[MixedRecords, TrainSpec, BatchPlan]


class Outcome(NamedTuple):
    """How a run ended."""

    state: TrainState
    stopped_by: signal.Signals | None  # None: the run is complete


class _Pending(NamedTuple):
    step: int
    image_ids: np.ndarray
    metrics: Mapping[str, jax.Array]


def training_data(config: ConfigDict, batch_size: int) -> TrainingData:
    """Returns a config's records, its training specification, and its batch plan."""
    others = [
        RecordSet(RecordSource(one.records), one.weight, one.partly_labeled)
        for _, one in sorted(config.data.extra.items())
    ]
    source = MixedRecords([RecordSet(RecordSource(config.data.records), 1.0, False), *others])
    smallest, largest = config.data.long_edges
    spec = TrainSpec(
        strides=tuple(config.model.strides),
        long_edges=tuple(range(smallest, largest + 1)),
        labels=LabelSpec(**config.labels),
        random_crop=config.data.random_crop,
        color_jitter=config.data.color_jitter,
        copy_paste=config.data.copy_paste,
        objectness_attention=config.model.objectness_attention_width > 0,
    )
    plan = BatchPlan(
        source.index.height,
        source.index.width,
        source.index.objects > 0,
        batch_size=batch_size,
        buckets=config.data.buckets,
        long_edge_max=min(largest, *map(max, config.data.buckets)) if config.data.random_crop else largest,
        seed=config.seed,
        weights=source.weights,
    )
    return source, spec, plan


def run(config: ConfigDict, workdir: Path, weights: str | None = None) -> Outcome:
    """Trains until `train.images` images have been shown, resuming from the latest undamaged checkpoint, if any.

    The state after a step depends only on config, seed and weights, regardless of interruptions. A run keeps its
    initial batch size; it can resume on other devices if they can share that batch evenly. Only one run at a time may
    use `workdir`.

    Args:
      config: the whole config.
      workdir: working directory of the run.
      weights: source of the initial weights of a new run (see weights.sources); None: random.

    Raises:
      ValueError, FileNotFoundError: config, records or checkpoint do not fit; one line.
      Diverged: the loss became NaN or infinite; names the step, its images and the last checkpoint.
    """
    check_config(config.to_dict(), training=True)
    check_evaluation(config)
    cluster.check_shared(workdir)
    for section, values in config.to_dict().items():
        cluster.check_same(f"the setting config.{section}", json.loads(json.dumps(values)))
    asked, config = config, with_batch_of_run(config, workdir)
    data = training_data(config, config.train.batch_size)
    fit = check_objects_fit(*data[:2])
    with naming_full_disk(workdir, partial(what_is_safe, workdir)), locked(workdir):
        return _run_alone(asked, config, workdir, weights, data, fit)


def _run_alone(
    asked: ConfigDict, config: ConfigDict, workdir: Path, weights: str | None, data: TrainingData, fit: str
) -> Outcome:
    """Runs a checked config in a locked working directory; `asked` is the config before its batch size was adjusted."""
    model = build_model(config.model.to_dict(), axis_name=AXIS)
    optimizer, schedule = build_optimizer(config.optimizer.to_dict(), config.train.batch_size, config.train.images)
    begin = partial(create_state, model, optimizer, config.seed, config.optimizer.average_decay > 0)
    template = jax.eval_shape(begin)
    total_steps = -(-config.train.images // config.train.batch_size)
    checkpoints = Checkpoints(workdir, config.to_dict(), config.train.keep_checkpoints)
    resumed = checkpoints.resume(template)
    start = resumed.step if resumed else 0
    progress = Progress(**resumed.progress if resumed else {})
    cluster.check_same("the latest checkpoint", start)
    if jax.process_index() == 0:
        save_config(workdir, config)
    with (
        signals() as stop,
        closing(checkpoints),
        Reporter(
            workdir,
            total_steps=total_steps,
            batch_size=config.train.batch_size,
            start_step=start,
            evaluation_due=progress.evaluation_due,
            quiet=jax.process_index() > 0,
        ) as reporter,
    ):
        _say_what_begins(reporter, data, template, asked, config)
        reporter.say(fit)
        if resumed:
            _say_what_goes_on(reporter, resumed, total_steps, workdir, weights)
        state = resumed.state if resumed else _fresh(config, model, begin(), weights, reporter)
        del resumed  # frees its copy of the state on the device
        if start >= total_steps and not progress.evaluation_due:
            reporter.say("this run is finished; raise train.images to continue it")
            return Outcome(state, None)
        spec = LossSpec(**config.losses)
        step = make_step(model, optimizer, spec, config.seed, config.optimizer.average_decay)
        step = map_over_devices(stop.spread(step) if cluster.processes() > 1 else step)
        state = replicate(state)
        training = _Training(config, workdir, model, schedule, checkpoints, reporter, stop, start, state, progress)
        training.go_on(step, data, total_steps)
    return Outcome(training.state, None if training.finished(total_steps) else stop.agreed)


def with_batch_of_run(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Returns the config with the batch size of the run as `train.batch_size`.

    A run with checkpoints keeps its batch size, because its step numbers depend on it. A new run uses the smallest
    batch size, at least `train.batch_size`, that the devices can share evenly.

    Raises:
      InvalidInput: these devices cannot share the batch that the run began with.
    """
    begun = None
    if (workdir / "checkpoints").is_dir():
        with closing(Checkpoints(workdir)) as checkpoints:
            begun = (checkpoints.latest_config() or {}).get("train", {}).get("batch_size")
    size = begun or shared_batch_size(config.train.batch_size)
    check_batch_size(size)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.train.batch_size = size
    return config


def _say_what_begins(
    reporter: Reporter, data: TrainingData, template: TrainState, asked: ConfigDict, config: ConfigDict
) -> None:
    devices, plan = jax.device_count(), data[2]
    reporter.say(
        f"{plan.images} training images ({plan.left_out} without objects skipped), "
        f"{sum(x.size for x in jax.tree.leaves(template.params)):,} parameters, "
        f"{devices} device(s) of kind {jax.devices()[0].device_kind}"
    )
    sizes = asked.train.batch_size, config.train.batch_size
    if sizes[0] != sizes[1]:
        rates = [peak_learning_rate(config.optimizer.to_dict(), size) for size in sizes]
        reporter.say(
            f"a step takes {sizes[1]} images, {sizes[1] // devices} on each device, not train.batch_size={sizes[0]}; "
            f"the learning rate is {rates[1]:g}, not {rates[0]:g} (optimizer.batch_scaling="
            f"{config.optimizer.batch_scaling!r})"
        )


def _say_what_goes_on(
    reporter: Reporter, resumed: Resumed, total_steps: int, workdir: Path, weights: str | None
) -> None:
    for line in resumed.passed_over:
        reporter.say(line)
    instead = ", not from --weights" if weights else ""
    reporter.say(f"resuming from step {resumed.step} of {total_steps} ({workdir}){instead}")
    for change in resumed.changes:
        reporter.say(f"setting changed: {change}")


@dataclass
class _Training:
    """Takes the steps of a run until its end or a signal, with logs, pictures, evaluations and checkpoints in between.

    Attributes:
      config, workdir, model, schedule, checkpoints, reporter: parts of the run.
      stop: the signals that ask the run to stop.
      step: number of steps done.
      state: the state after these steps, on every device.
      progress: what is not reported yet after these steps.
    """

    config: ConfigDict
    workdir: Path
    model: FastMask
    schedule: optax.Schedule
    checkpoints: Checkpoints
    reporter: Reporter
    stop: Stop
    step: int
    state: TrainState
    progress: Progress

    def __post_init__(self) -> None:
        self._start = self.step
        self._evaluate = Evaluation(self.model, self.config, self.workdir, self.reporter.say)
        self._pending: deque[_Pending] = deque()

    def go_on(self, step_function: Callable, data: TrainingData, total_steps: int) -> None:
        """Takes steps until all are done or a signal arrives; saves the last state."""
        pictures = None
        if self.config.train.picture_every:
            shown = _first(_batches(self.config, data, 0, workers=0))
            pictures = TrainingPictures(self.model, shown, self.config.evaluation.mask_threshold)
        self.reporter.say("compiling the step for each bucket on first use; the first steps take a minute or more")
        batches = _batches(self.config, data, self._start, workers=self.config.data.workers)
        try:
            with cluster.noticing_lost_process():
                self._take_steps(step_function, batches, total_steps, pictures)
        finally:
            batches.close()
        self.checkpoints.wait()
        if self.stop.agreed and not self.finished(total_steps):
            saved = f"after step {self.step}, which is saved" if self.step else "before the first step"
            self.reporter.say(f"stopped by {self.stop.agreed.name} {saved}; the same command resumes from there")

    def finished(self, total_steps: int) -> bool:
        """Returns whether all is done."""
        return self.step >= total_steps and not self.progress.evaluation_due

    def _take_steps(
        self,
        step_function: Callable,
        batches: Iterator[TrainBatch],
        total_steps: int,
        pictures: TrainingPictures | None,
    ) -> None:
        if self.progress.evaluation_due and (metrics := self._evaluated()):
            self.checkpoints.add_metrics(self.step, metrics)
        while self.step < total_steps and not self.stop.agreed:
            self._take(step_function, next(batches))
            self._do_what_is_due(pictures)
        self._read()
        if self.finished(total_steps):  # else the next run logs these steps with those up to the next log
            self._log()
        if self.step > self._start:
            self.checkpoints.save(self.state, progress=self.progress.to_json())

    def _take(self, step_function: Callable, batch: TrainBatch) -> None:
        on_devices = split(on_device(batch))
        if cluster.processes() > 1:
            on_devices = self.stop.with_caught(on_devices)
        self.state, metrics = step_function(self.state, on_devices)
        self._pending.append(_Pending(self.step, batch.image_id, metrics))
        self.step += 1

    def _do_what_is_due(self, pictures: TrainingPictures | None) -> None:
        due = {key: self.config.train[key] > 0 and self.step % self.config.train[key] == 0 for key in _PERIODS}
        self._read(but=0 if any(due.values()) else IN_FLIGHT)
        self.reporter.advance(self.step)
        if due["log_every"]:
            self._log()
        evaluated = None
        with self.reporter.pause():
            if due["picture_every"]:
                self.reporter.pictures(self.step, pictures(one_copy(self.state.averaged_variables)))
            if due["evaluate_every"]:
                evaluated = self._evaluated()
            if due["checkpoint_every"] or evaluated:
                self.checkpoints.save(self.state, evaluated, self.progress.to_json())

    def _evaluated(self) -> dict[str, float] | None:
        """Evaluates and reports; None if a signal arrives."""
        metrics = self._evaluate(one_copy(self.state.averaged_variables), self.stop.while_evaluating())
        self.stop.agree_now()
        self.progress.evaluation_due = metrics is None
        if metrics:
            self.reporter.evaluation(self.step, metrics)
        return metrics

    def _read(self, but: int = 0) -> None:
        while len(self._pending) > but:
            values = _checked(self._pending.popleft(), self.checkpoints)
            self.stop.agree(int(values.pop(SIGNAL, 0)))
            self.progress.add(values)

    def _log(self) -> None:
        if means := self.progress.take_means():
            self.reporter.log(self.step, {**means, "learning_rate": float(self.schedule(self.step - 1))})


_PERIODS = ("log_every", "checkpoint_every", "picture_every", "evaluate_every")


def _batches(config: ConfigDict, data: TrainingData, start: int, workers: int) -> Iterator[TrainBatch]:
    return train_batches(
        *data,
        start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=workers,
        seed=config.seed,
    )


def _first(batches: Iterator[TrainBatch]) -> TrainBatch:
    """Returns the first batch and stops loading."""
    with closing(batches):
        return next(batches)


def _fresh(
    config: ConfigDict, model: FastMask, state: TrainState, weights: str | None, reporter: Reporter
) -> TrainState:
    """Returns the initial state with loaded weights, and with measured statistics for a body without weights."""
    body_loaded = False
    if weights:
        variables, report = load_weights(weights, config.model.to_dict(), state.variables)
        state = state.replace(**variables)
        state = state.replace(average=state.params if state.average else {})
        body_loaded = report.holds("body")
        for line in report.lines():
            reporter.say(line)
    return _measured(config, model, state) if config.train.norm_calibration_images and not body_loaded else state


def _measured(config: ConfigDict, model: FastMask, state: TrainState) -> TrainState:
    """Measures frozen statistics on `norm_calibration_images` images of one bucket, the same in every process."""
    source, spec, plan = training_data(config, batch_size=config.train.norm_calibration_images)
    batch = _first(train_batches(source, spec, plan, 0, workers=0, seed=config.seed))
    return calibrate_frozen_stats(model, state, on_device(batch))


def _checked(pending: _Pending, checkpoints: Checkpoints) -> dict[str, float]:
    """Returns the metrics of a step; raises Diverged if one is not finite. Keeps all checkpoints."""
    values = {key: float(value) for key, value in jax.device_get(pending.metrics).items()}
    broken = [name for name in ("loss", "gradient_norm", "update_norm") if not np.isfinite(values[name])]
    if broken:
        checkpoints.wait()
        saved = "nothing is saved yet"
        if checkpoints.latest:
            saved = f"the last checkpoint is step {checkpoints.latest}"
            if len(checkpoints.steps) > 1 and checkpoints.latest == pending.step:
                saved += f" (move it away to resume from step {checkpoints.steps[-2]})"
        raise Diverged(
            f"the {broken[0].replace('_', ' ')} is {values[broken[0]]} in step {pending.step + 1} "
            f"(images {pending.image_ids.tolist()}); {saved}. "
            "Try a lower optimizer.learning_rate, more optimizer.warmup_images, or optimizer.clip_norm"
        )
    return values

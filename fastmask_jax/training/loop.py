"""The training run: from a config and a working directory to trained weights."""

import signal
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from fastmask_jax.data.batches import TrainBatch
from fastmask_jax.data.labels import LabelSpec
from fastmask_jax.data.pipeline import TrainSpec, train_batches
from fastmask_jax.data.plan import BatchPlan
from fastmask_jax.data.records import MixedRecords, RecordSet, RecordSource
from fastmask_jax.errors import InvalidInput
from fastmask_jax.models.build import build_model
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.training.devices import AXIS, check_batch_size, map_over_devices, replicate, split
from fastmask_jax.training.evaluation import Evaluation, check_evaluation
from fastmask_jax.training.losses import SCORE_TARGETS, LossSpec
from fastmask_jax.training.optimizer import build_optimizer
from fastmask_jax.training.progress_pictures import training_pictures
from fastmask_jax.training.reporting import Reporter
from fastmask_jax.training.step import TrainState, calibrate_frozen_stats, create_state, make_step, on_device
from fastmask_jax.weights.checkpoints import Checkpoints, save_config
from fastmask_jax.weights.sources import load_weights

IN_FLIGHT = 2  # steps whose losses are not read yet: reading one sooner would make the host wait for the devices


class Diverged(RuntimeError):
    """The loss is no number any more."""


class Outcome(NamedTuple):
    """How a run ended."""

    state: TrainState
    stopped_by: signal.Signals | None  # None: all images were seen


class _Pending(NamedTuple):
    step: int
    image_ids: np.ndarray
    metrics: Mapping[str, jax.Array]


def training_data(config: ConfigDict, batch_size: int) -> tuple[MixedRecords, TrainSpec, BatchPlan]:
    """The records of a config, how its images are labeled, and which image comes when."""
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
    """Trains until `train.images` are seen, going on from the latest checkpoint of `workdir` if there is one.

    The state after a step is a function of config, seed and weights alone, however often the run was stopped.

    Args:
      config: the whole config.
      workdir: of the run.
      weights: source of the weights with which a fresh run begins (see weights.sources); None: initial values.

    Errors:
      ValueError, FileNotFoundError: config, records or checkpoint do not fit; one line.
      Diverged: the loss became NaN or infinite; names the step, its images and the last good checkpoint.
    """
    check_batch_size(config.train.batch_size)
    check_evaluation(config)
    source, spec, plan = training_data(config, config.train.batch_size)
    total_steps = -(-config.train.images // config.train.batch_size)
    model = build_model(config.model.to_dict(), axis_name=AXIS)
    optimizer, schedule = build_optimizer(config.optimizer.to_dict(), config.train.batch_size, config.train.images)
    checkpoints = Checkpoints(workdir, config.to_dict(), config.train.keep_checkpoints)
    start = checkpoints.latest or 0
    begin = partial(create_state, model, optimizer, config.seed, config.optimizer.average_decay > 0)
    template = jax.eval_shape(begin)
    if start:
        checkpoints.check(template, start)
    if jax.process_index() == 0:
        save_config(workdir, config)
    with (
        _signals() as stop,
        closing(checkpoints),
        Reporter(
            workdir,
            total_steps=total_steps,
            batch_size=config.train.batch_size,
            start_step=start,
            quiet=jax.process_index() > 0,
        ) as reporter,
    ):
        reporter.say(
            f"{plan.images} images to train on ({plan.left_out} without an object left out), "
            f"{sum(x.size for x in jax.tree.leaves(template.params)):,} parameters, "
            f"{jax.device_count()} device(s) of kind {jax.devices()[0].device_kind}"
        )
        if start:
            state = checkpoints.restore(template, start)
            instead = ", not from --weights" if weights else ""
            reporter.say(f"going on from step {start} of {total_steps} ({workdir}){instead}")
            for change in checkpoints.changes(start):
                reporter.say(f"changed since then: {change}")
        else:
            state = _fresh(config, model, begin(), weights, reporter)
        if start >= total_steps:
            reporter.say("nothing is left to do: this run is finished; more train.images would make it longer")
            return Outcome(state, None)
        state = replicate(state)
        step_function = map_over_devices(
            make_step(model, optimizer, _loss_spec(config), config.seed, config.optimizer.average_decay)
        )
        if config.train.picture_every:
            fixed = _first(_batches(config, source, spec, plan, 0, workers=0))  # the images of the pictures
        reporter.say("compiling the step for each bucket that comes up; the first steps take a minute or more")

        evaluation = Evaluation(model, config, workdir, reporter.say)
        batches = _batches(config, source, spec, plan, start, workers=config.data.workers)
        pending: deque[_Pending] = deque()
        seen: list[dict[str, float]] = []
        step = start

        def read(but: int = 0) -> None:
            while len(pending) > but:
                seen.append(_read(pending.popleft(), checkpoints, start))

        def log() -> None:
            means = {key: float(np.mean([one[key] for one in seen])) for key in seen[0]}
            reporter.log(step, {**means, "learning_rate": float(schedule(step - 1))})
            seen.clear()

        try:
            while step < total_steps and not stop:
                batch = next(batches)
                state, metrics = step_function(state, split(on_device(batch)))
                pending.append(_Pending(step, batch.image_id, metrics))
                step += 1
                due = {key: config.train[key] > 0 and step % config.train[key] == 0 for key in _PERIODS}
                read(but=0 if any(due.values()) else IN_FLIGHT)
                reporter.advance(step)
                if due["log_every"]:
                    log()
                evaluated = None
                with reporter.pause():
                    if due["picture_every"]:
                        reporter.pictures(step, training_pictures(model, state.averaged_variables, fixed))
                    if due["evaluate_every"]:
                        evaluated = evaluation(state.averaged_variables, stop)
                    if evaluated:
                        reporter.evaluation(step, evaluated)
                    if due["checkpoint_every"] or evaluated:
                        checkpoints.save(state, evaluated)
            read()
            if seen:
                log()
            if step > start:
                checkpoints.save(state)
        finally:
            batch = None  # its memory is shared with the workers, and must be free before they end
            batches.close()
        checkpoints.wait()
        if stop:
            saved = f"after step {step}, which is saved" if step else "before the first step"
            reporter.say(f"stopped by {stop[0].name} {saved}; the same command goes on from there")
        return Outcome(state, stop[0] if stop else None)


_PERIODS = ("log_every", "checkpoint_every", "picture_every", "evaluate_every")


def _loss_spec(config: ConfigDict) -> LossSpec:
    """The config's losses.

    Errors:
      ValueError: `score_target` is unknown, or wants masks of windows that have none.
    """
    spec = LossSpec(**config.losses)
    if spec.score_target not in SCORE_TARGETS:
        raise InvalidInput(f"losses.score_target={spec.score_target!r} is not one of {list(SCORE_TARGETS)}")
    if spec.score_target == "iou" and config.labels.mask_positives < config.labels.score_positives:
        raise InvalidInput(
            f"losses.score_target='iou' needs a mask for every scored positive: labels.mask_positives="
            f"{config.labels.mask_positives} must be at least labels.score_positives={config.labels.score_positives}"
        )
    return spec


def _batches(
    config: ConfigDict, source: MixedRecords, spec: TrainSpec, plan: BatchPlan, start: int, workers: int
) -> Iterator[TrainBatch]:
    return train_batches(
        source,
        spec,
        plan,
        start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=workers,
        seed=config.seed,
    )


def _first(batches: Iterator[TrainBatch]) -> TrainBatch:
    """One batch; the reading ahead of more of them is ended."""
    with closing(batches):
        return next(batches)


def _fresh(
    config: ConfigDict, model: FastMask, state: TrainState, weights: str | None, reporter: Reporter
) -> TrainState:
    """The state with what is loaded, and with measured statistics for a body that is not."""
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
    """Frozen statistics from `norm_calibration_images` images of one bucket; every process measures the same ones."""
    source, spec, plan = training_data(config, batch_size=config.train.norm_calibration_images)
    batch = _first(train_batches(source, spec, plan, 0, workers=0, seed=config.seed))
    return calibrate_frozen_stats(model, state, on_device(batch))


def _read(pending: _Pending, checkpoints: Checkpoints, start: int) -> dict[str, float]:
    values = {key: float(value) for key, value in jax.device_get(pending.metrics).items()}
    broken = [name for name in ("loss", "gradient_norm", "update_norm") if not np.isfinite(values[name])]
    if broken:
        if broken[0] == "loss" and pending.step > start:
            checkpoints.drop(pending.step)  # weights of which this loss came, and no other loss in this run
        checkpoints.wait()
        saved = (
            f"the last good checkpoint is step {checkpoints.latest}" if checkpoints.latest else "nothing is saved yet"
        )
        raise Diverged(
            f"the {broken[0].replace('_', ' ')} is {values[broken[0]]} in step {pending.step + 1} "
            f"(images {pending.image_ids.tolist()}); {saved}. "
            "A lower optimizer.learning_rate, more optimizer.warmup_images or optimizer.clip_norm helps"
        )
    return values


@contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """A list that SIGTERM or Ctrl-C appends to: the loop ends after the step at hand. A second Ctrl-C kills."""
    caught: list[signal.Signals] = []
    before = {}

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number))
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, catch)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

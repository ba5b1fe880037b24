"""The training loop: restore, step, and log, save and validate when due."""

import time
from collections.abc import Callable

from embre import interrupts, watchdog
from embre.checkpoints.checkpoints import Checkpoints
from embre.config import OptimizerConfig, TrainConfig
from embre.engines.engine import Engine
from embre.engines.step import learning_rate
from embre.engines.step_guard import MAX_IN_A_ROW, Diverged, Skip
from embre.faults import fault_point
from embre.interrupts import Interrupted
from embre.loader import Loader
from embre.tracking import Tracker

MAX_NAMED = 10  # documents in a message; the events have all


def train(
    engine: Engine,
    loader: Loader,
    checkpoints: Checkpoints,
    tracker: Tracker,
    config: TrainConfig,
    optimizer: OptimizerConfig,
    validate: Callable[[Engine], dict[str, float]],
) -> None:
    """Train from the newest checkpoint to `config.steps`; a collective.

    `validate` returns metrics of the current weights; it is a collective too. A step whose update
    was skipped counts as a step. Raises Diverged after MAX_IN_A_ROW skipped updates in a row, and
    Interrupted if a stop was requested, after saving what was done since `restore`.
    """
    step = checkpoints.restore(engine, loader, tracker.checkpoint_skipped, tracker.last_saved)
    tracker.started(step, config.steps)
    try:
        (asked,) = engine.world.all_reduce([float(interrupts.stop_requested())])
        if asked and step < config.steps:
            raise Interrupted(f"stopped before step {step + 1} of {config.steps}")
        while step < config.steps:
            fault_point("step")
            started = time.perf_counter()
            lr = learning_rate(optimizer, step, config.steps)
            result = engine.step(loader.step(), step, lr)
            step += 1
            watchdog.report_step(step)
            if result.skip:
                tracker.skipped(step, result.skip)
                if result.skip.in_a_row == MAX_IN_A_ROW:
                    raise Diverged(too_many(step, result.skip))
            last = step == config.steps
            save = step % config.save_every_steps == 0 or last or result.stop or result.save
            tracker.step(step, result, lr, time.perf_counter() - started, always=save)
            if step % config.validate_every_steps == 0 or last:
                tracker.validation(step, validate(engine))
                watchdog.report_step(step)
            if save:
                checkpoints.save(step, engine, loader, tracker.saved, tracker.save_failed)
                watchdog.report_step(step)
            if result.stop and not last:
                checkpoints.finish()
                raise Interrupted(f"stopped after step {step} of {config.steps}, which is saved")
        checkpoints.finish()
        tracker.finished(step)
    finally:
        watchdog.disarm()
        checkpoints.settle()


def too_many(step: int, skip: Skip) -> str:
    """Error message of a diverged run, with the first documents of its last step."""
    named = ", ".join(skip.doc_ids[:MAX_NAMED]) + (" …" if len(skip.doc_ids) > MAX_NAMED else "")
    return (
        f"{skip.in_a_row} updates in a row were skipped, up to step {step}: {skip.why}; its "
        f"documents are {named}; see events.jsonl for all, or start a new run under another name "
        "with a lower optimizer.peak_lr"
    )

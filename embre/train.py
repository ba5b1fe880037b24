"""The loop: restore; while steps remain, step; log, save and validate when due."""

import time
from collections.abc import Callable

from embre import watchdog
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
    """Train from the newest checkpoint to `config.steps`. Every rank runs it alike.

    `validate` gives metrics of the weights as they are; all ranks call it together. A step whose
    update was left out is a step all the same. Raises Diverged where several are in a row, and
    Interrupted, when all is saved, where the run was asked to stop.
    """
    step = checkpoints.restore(engine, loader, tracker.checkpoint_skipped, tracker.last_saved)
    tracker.started(step, config.steps)
    try:
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
    """Why a run does not go on, with the first documents of its last step."""
    named = ", ".join(skip.doc_ids[:MAX_NAMED]) + (" …" if len(skip.doc_ids) > MAX_NAMED else "")
    return (
        f"{skip.in_a_row} updates in a row were left out, up to step {step}: {skip.why}; its "
        f"documents are {named}; look at them in events.jsonl, or start anew under another name "
        "with a lower optimizer.peak_lr"
    )

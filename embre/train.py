"""The loop: restore; while steps remain, step; log, save and validate when due."""

import time
from collections.abc import Callable

from embre.checkpoints import Checkpoints
from embre.config import OptimizerConfig, TrainConfig
from embre.engine import Engine, learning_rate
from embre.faults import fault_point
from embre.interrupts import Interrupted
from embre.loader import Loader
from embre.tracking import Tracker


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

    `validate` gives metrics of the weights as they are; all ranks call it together. Raises
    NonFiniteLoss where a loss or gradient is no number, Interrupted, when all is saved, where the
    run was asked to stop.
    """
    step = checkpoints.restore(engine, loader)
    tracker.started(step, config.steps)
    try:
        while step < config.steps:
            fault_point("step")
            started = time.perf_counter()
            lr = learning_rate(optimizer, step, config.steps)
            result = engine.step(loader.step(), step, lr)
            step += 1
            last = step == config.steps
            save = step % config.save_every_steps == 0 or last or result.stop or result.save
            tracker.step(step, result, lr, time.perf_counter() - started, always=save)
            if step % config.validate_every_steps == 0 or last:
                tracker.validation(step, validate(engine))
            if save:
                checkpoints.save(step, engine, loader, tracker.saved)
            if result.stop and not last:
                checkpoints.finish()
                raise Interrupted(f"stopped after step {step} of {config.steps}, which is saved")
        checkpoints.finish()
        tracker.finished(step)
    finally:
        checkpoints.settle()

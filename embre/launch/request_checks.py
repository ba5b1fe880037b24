"""Checks before a job starts: whether a launcher can run its config, and whether it may resume the
run in its folder."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from embre.checkpoints.folder import FOLDER, has_checkpoints, lost, newest_step
from embre.config import CHANGEABLE, ConfigError, RunConfig, differences, is_another
from embre.config.places import is_url
from embre.provenance import CONFIG
from embre.tracking.events import EVENTS, last_saved, read_events
from embre.tracking.runs import RUN_FILE, remembered
from embre.wording import nearest

CORRECTED = "events-of-another-config.jsonl"  # before the first checkpoint


def refuse_what_cannot_be(config: RunConfig, under_torchrun: bool) -> None:
    """Raise ConfigError for settings that no launcher can run."""
    if is_url(config.storage):
        raise ConfigError(
            f"storage: {config.storage} is a URL; give a folder that all machines share"
        )
    if config.storage.startswith("~"):  # not expanded: it did not pass through a shell
        raise ConfigError(f"storage: {config.storage} begins with ~; write the path out")
    if config.launch.launcher == "local" and config.launch.workers > 1 and not under_torchrun:
        raise ConfigError(
            f"launch.workers: {config.launch.workers}, but the local launcher is one process; "
            "set launch.launcher=ray, or start it with torchrun"
        )
    if (config.launch.min_workers or 0) > config.launch.workers:
        raise ConfigError("launch.min_workers: more than launch.workers; lower it")
    if under_torchrun and config.encoder.path.startswith("models:/"):
        raise ConfigError("encoder.path: under torchrun give the folder of the model, not its name")


def check_resume(
    config: RunConfig, folder: Path, allow_change: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Compare `config` with the one the run was started with: {key: (old, new)}.

    Raises ConfigError if the run has lost its checkpoints, if a changed key is not in
    `allow_change`, or if `train.steps` is below the step that was reached. Before the first
    checkpoint any change is allowed; the earlier events and MLflow run are then set aside.
    """
    refuse_what_cannot_change(config, allow_change)
    done = newest_step(folder)
    if not done and (saved := last_saved(read_events(folder))):
        raise ConfigError(lost(folder / FOLDER, saved))
    if not done:
        if is_another(config, folder / CONFIG):
            (folder / RUN_FILE).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                (folder / EVENTS).rename(folder / CORRECTED)
        return {}
    try:
        changes = differences(config, folder / CONFIG)
    except ConfigError as error:
        raise ConfigError(
            f"{config.name}: cannot compare with {folder / CONFIG}, which is of another kind of "
            f"run or damaged ({error}); choose another name=…, or restore that file"
        ) from error
    if changes.keys() - set(allow_change):
        listed = listed_changes({key: f"{old} -> {new}" for key, (old, new) in changes.items()})
        flags = " ".join(f"--allow-change {key}" for key in changes)
        may = all(key.split(".")[0] in CHANGEABLE for key in changes)
        raise ConfigError(
            f"{config.name}: this run was started with another config, see {folder / CONFIG}: "
            f"{listed}; " + (f"add {flags}, or " if may else "") + "give another name=…"
        )
    if config.train.steps < done:
        raise ConfigError(
            f"train.steps={config.train.steps} is below step {done}, which {config.name} has "
            f"already reached; give at least {done}"
        )
    return changes


def refuse_what_cannot_change(config: RunConfig, keys: Collection[str]) -> None:
    """Raise ConfigError for a key that cannot change when a run resumes."""
    known = [key for key in config.numbers() if key.split(".")[0] in CHANGEABLE]
    for key in keys:
        if key not in known:
            raise ConfigError(
                f"--allow-change {key}: this key cannot change when a run resumes; "
                + nearest(key, known)
            )


def listed_changes(changes: dict[str, str]) -> str:
    """The changed keys in one line."""
    return ", ".join(f"{key} {text}" for key, text in changes.items())


def refuse_other_data(config: RunConfig, folder: Path, made_of: str) -> None:
    """Raise ConfigError if a run with checkpoints has another backbone or other data now. Checked
    before MLflow opens a run for a job that cannot resume."""
    before = remembered(folder)
    if before and before.made_of != made_of and has_checkpoints(folder):
        raise ConfigError(
            f"{config.name}: the backbone ({config.encoder.path}) or the data is not what this run "
            "began with; put it back, or give another name=…"
        )

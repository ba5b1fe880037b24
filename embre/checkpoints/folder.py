"""The checkpoints in a run's folder, by their names."""

from pathlib import Path

FOLDER = "checkpoints"  # in a run's folder
PREFIX = "step-"


def lost(folder: Path, last_saved: int) -> str:
    """Error message for a run that saved checkpoints and whose folder now has none."""
    return (
        f"{folder.parent.name}: this run saved step {last_saved}, but {folder} has no checkpoint; "
        f"restore it, give another name=…, or remove {folder.parent} to start at step 0"
    )


def newest_step(run_folder: Path) -> int:
    """The step of a run's newest checkpoint, intact or not; 0 if it has none."""
    return max(map(step_of, committed_in(run_folder / FOLDER)), default=0)


def saved_so_far(run_folder: Path) -> str:
    """A clause for messages: the step from which a stopped run resumes."""
    step = newest_step(run_folder)
    return f"step {step} is saved" if step else "no step is saved yet"


def has_checkpoints(run_folder: Path) -> bool:
    """Whether a run has any checkpoint, intact or not."""
    return newest_step(run_folder) > 0


def committed_in(folder: Path) -> list[Path]:
    """Folders with the final name of a checkpoint, oldest first."""
    return sorted(p for p in folder.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit())


def step_of(path: Path) -> int:
    """The step of a checkpoint folder."""
    return int(path.name.removeprefix(PREFIX))

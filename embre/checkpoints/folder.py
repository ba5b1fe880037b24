"""Which checkpoints the folder of a run has, by their names."""

from pathlib import Path

FOLDER = "checkpoints"  # in a run's folder
PREFIX = "step-"


def lost(folder: Path, last_saved: int) -> str:
    """Why a run does not begin at step 0 where its folder of checkpoints is empty."""
    return (
        f"{folder.parent.name}: this run saved step {last_saved}, and {folder} has no checkpoint; "
        f"put it back, or give another name=…, or remove {folder.parent} to begin at step 0"
    )


def newest_step(run_folder: Path) -> int:
    """The step of a run's newest checkpoint, sound or not; 0 where it has none."""
    return max(map(step_of, committed_in(run_folder / FOLDER)), default=0)


def has_checkpoints(run_folder: Path) -> bool:
    """Whether a run has some, sound or not."""
    return newest_step(run_folder) > 0


def committed_in(folder: Path) -> list[Path]:
    """The folders that bear a checkpoint's final name, oldest first."""
    return sorted(p for p in folder.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit())


def step_of(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))

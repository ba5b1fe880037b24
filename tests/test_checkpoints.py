"""A checkpoint is what its manifest says; what is damaged is passed over, never loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from embre.checkpoints import MANIFEST, CheckpointError, Checkpoints, read_manifest
from embre.world import World
from tests.ranks import run_ranks


class Notes:
    """Stands in for an engine and a loader: its state is one text."""

    any_world_size = False

    def __init__(self, text: str = ""):
        self.text = text

    def save(self, folder: Path) -> None:
        (folder / "notes.txt").write_text(self.text)

    def load(self, folder: Path) -> None:
        self.text = (folder / "notes.txt").read_text()

    def state(self) -> dict[str, Any]:
        return {"0": [1, 2, len(self.text)]}

    def restore(self, state: dict[str, Any]) -> None:
        self.restored = state


def at(folder: Path, fingerprint: str = "a") -> Checkpoints:
    return Checkpoints(folder, World(), fingerprint, keep=2)


def saved(folder: Path, *texts: str) -> Checkpoints:
    checkpoints = at(folder)
    for step, text in enumerate(texts, 1):
        notes = Notes(text)
        checkpoints.save(step, notes, notes)  # type: ignore[arg-type]
    return checkpoints


def restore(checkpoints: Checkpoints) -> tuple[int, Notes]:
    notes = Notes()
    return checkpoints.restore(notes, notes), notes  # type: ignore[arg-type]


def test_a_run_without_checkpoints_starts_at_step_0(tmp_path: Path) -> None:
    assert restore(at(tmp_path))[0] == 0


def test_the_newest_is_restored_and_old_ones_are_removed(tmp_path: Path) -> None:
    step, notes = restore(saved(tmp_path, "one", "two", "three!"))
    assert (step, notes.text, notes.restored) == (3, "three!", {"0": [1, 2, 6]})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000002", "step-000000003"]


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "cut", "flipped", "manifest", "no_manifest"]
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    checkpoints = saved(tmp_path, "first", "second")
    newest = tmp_path / "step-000000002"
    file = newest / "notes.txt"
    if damage == "missing":
        file.unlink()
    elif damage == "manifest":
        (newest / MANIFEST).write_text((newest / MANIFEST).read_text()[:40])
    elif damage == "no_manifest":
        (newest / MANIFEST).unlink()
    else:
        file.write_text({"empty": "", "cut": "seco", "flipped": "sEcond"}[damage])
    step, notes = restore(checkpoints)
    assert (step, notes.text) == (1, "first")


def test_when_none_is_sound_the_run_does_not_start_again_silently(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, "first", "second")
    for path in tmp_path.rglob("notes.txt"):
        path.write_text("")
    with pytest.raises(CheckpointError, match="none of its 2"):
        restore(checkpoints)


def test_what_a_killed_save_left_counts_for_nothing_and_is_removed(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, "first")
    left = tmp_path / "step-000000009.partial-deadbee9"
    left.mkdir()
    (left / "notes.txt").write_text("half")
    assert restore(checkpoints)[0] == 1
    saved(tmp_path, "first", "second")
    assert not left.exists()


def test_the_newest_sound_one_stays_when_a_restart_went_back_behind_a_damaged_one(
    tmp_path: Path,
) -> None:
    checkpoints = Checkpoints(tmp_path, World(), "a", keep=1)
    for step in (5, 9):
        (tmp_path / f"step-{step:09d}").mkdir()
    notes = Notes("sound")
    checkpoints.save(7, notes, notes)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000007"]
    assert restore(checkpoints)[0] == 7


def test_another_config_or_data_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "first")
    with pytest.raises(CheckpointError, match="another config or other data"):
        restore(at(tmp_path, fingerprint="b"))


def test_another_number_of_workers_is_refused_where_the_engine_cannot(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, "first")
    path = tmp_path / "step-000000001" / MANIFEST
    values = json.loads(path.read_text()) | {"world_size": 4}
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="launch.workers=4"):
        restore(checkpoints)


def _two_ranks(world: World, folder: str) -> tuple[int, str]:
    class Part(Notes):
        def save(self, folder: Path) -> None:
            (folder / f"rank-{world.rank}.txt").write_text(f"part {world.rank}")

        def load(self, folder: Path) -> None:
            self.text = (folder / f"rank-{world.rank}.txt").read_text()

        def state(self) -> dict[str, Any]:
            return {str(world.rank): [0, 0, world.rank]}

    checkpoints = Checkpoints(Path(folder), world, "a", keep=3)
    part = Part()
    for step in (1, 2):
        checkpoints.save(step, part, part)  # type: ignore[arg-type]
    if world.rank == 0:  # only the other rank's part is damaged: both must agree that it is
        (Path(folder) / "step-000000002" / "rank-1.txt").write_text("part X")
    world.wait()
    return checkpoints.restore(part, part), part.text  # type: ignore[arg-type]


@pytest.mark.slow
def test_all_ranks_agree_on_what_is_damaged(tmp_path: Path) -> None:
    assert run_ranks(_two_ranks, 2, str(tmp_path)) == [(1, "part 0"), (1, "part 1")]
    manifest = read_manifest(tmp_path / "step-000000001")
    assert manifest.loader == {"0": [0, 0, 0], "1": [0, 0, 1]}
    assert set(manifest.files) == {"rank-0.txt", "rank-1.txt"}

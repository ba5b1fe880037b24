"""A checkpoint is what its manifest says; what is damaged is passed over, never loaded."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from embre import faults
from embre.checkpoints import manifest
from embre.checkpoints.checkpoints import Checkpoints, NotWritten
from embre.checkpoints.folder import FOLDER, has_checkpoints, newest_step
from embre.checkpoints.lease import LEASE, Lease
from embre.checkpoints.manifest import MANIFEST, CheckpointError, read_manifest
from embre.checkpoints.parts import save_state
from embre.config import OptimizerConfig
from embre.engines.torch_engine import TorchEngine
from embre.interrupts import TakenOver
from embre.world import World
from tests.ranks import run_ranks


class Notes:
    """Stands in for an engine and a loader: its state is one text."""

    def __init__(self, text: str = ""):
        self.text = text
        self.rank = 0
        self.weights = 7

    # of an engine
    def checksum(self) -> int:
        return self.weights

    def state(self) -> dict[str, Any]:
        return {f"notes/{self.rank}": torch.tensor(list(self.text.encode()), dtype=torch.uint8)}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        self.text = " ".join(bytes(state[name].tolist()).decode() for name in sorted(state))


class Place:
    def __init__(self) -> None:
        self.restored: dict[str, Any] = {}
        self.rank = 0

    def state(self) -> dict[str, Any]:
        return {str(self.rank): [1, 2, self.rank]}

    def restore(self, state: dict[str, Any]) -> None:
        self.restored = state


def at(folder: Path, fingerprint: str = "a", keep: int = 2) -> Checkpoints:
    return Checkpoints(folder, World(), fingerprint, keep=keep)


def save(checkpoints: Checkpoints, step: int, text: str) -> None:
    checkpoints.save(step, Notes(text), Place())  # type: ignore[arg-type]
    checkpoints.finish()


def saved(folder: Path, *texts: str) -> Checkpoints:
    checkpoints = at(folder)
    checkpoints.restore(Notes(), Place())  # type: ignore[arg-type]
    for step, text in enumerate(texts, 1):
        save(checkpoints, step, text)
    return checkpoints


def restore(checkpoints: Checkpoints) -> tuple[int, str, dict[str, Any]]:
    notes, place = Notes(), Place()
    return checkpoints.restore(notes, place), notes.text, place.restored  # type: ignore[arg-type]


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("step-*"))


def stale(*_: object) -> None:
    raise SafetensorError("I/O error: Stale file handle (os error 116)")


def test_a_run_without_checkpoints_starts_at_step_0(tmp_path: Path) -> None:
    assert restore(at(tmp_path))[0] == 0


def test_a_run_whose_checkpoints_are_gone_does_not_start_again_silently(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "small" / FOLDER, "one", "two")
    (tmp_path / "small" / FOLDER).rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="small: this run saved step 2, but .* restore it"):
        checkpoints.restore(Notes(), Place(), last_saved=2)  # type: ignore[arg-type]
    assert newest_step(tmp_path / "small") == 0
    (tmp_path / "small" / FOLDER / LEASE).unlink()
    (tmp_path / "small" / FOLDER).rmdir()
    (tmp_path / "moved").rename(tmp_path / "small" / FOLDER)
    assert checkpoints.restore(Notes(), Place(), last_saved=2) == 2  # type: ignore[arg-type]
    assert newest_step(tmp_path / "small") == 2


def _only_rank_0_knows(world: World, folder: str) -> str:
    checkpoints, last_saved = Checkpoints(Path(folder), world, "a", keep=3), [7, 0][world.rank]
    with pytest.raises(CheckpointError) as raised:
        checkpoints.restore(Notes(), Place(), last_saved=last_saved)  # type: ignore[arg-type]
    return str(raised.value)


@pytest.mark.slow
def test_all_ranks_agree_that_the_checkpoints_are_gone(tmp_path: Path) -> None:
    first, second = run_ranks(_only_rank_0_knows, 2, str(tmp_path))
    assert first == second and "this run saved step 7" in first


def test_the_newest_is_restored_and_old_ones_are_removed(tmp_path: Path) -> None:
    assert restore(saved(tmp_path, "one", "two", "three!")) == (3, "three!", {"0": [1, 2, 0]})
    assert steps_in(tmp_path) == ["step-000000002", "step-000000003"]


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "cut", "flipped", "manifest", "no_manifest"]
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    checkpoints = saved(tmp_path, "first", "second")
    newest = tmp_path / "step-000000002"
    file = newest / "rank-000.safetensors"
    if damage == "missing":
        file.unlink()
    elif damage == "manifest":
        (newest / MANIFEST).write_text((newest / MANIFEST).read_text()[:40])
    elif damage == "no_manifest":
        (newest / MANIFEST).unlink()
    else:
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes({"empty": b"", "cut": data[:-3], "flipped": bytes(data)}[damage])
    assert restore(checkpoints)[:2] == (1, "first")


def test_when_none_is_sound_the_run_does_not_start_again_silently(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, "first", "second")
    for path in tmp_path.rglob("*.safetensors"):
        path.write_text("")
    with pytest.raises(CheckpointError, match="none of its 2"):
        restore(checkpoints)


def test_what_a_killed_save_left_counts_for_nothing_and_is_removed(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, "first")
    left = tmp_path / "step-000000009.partial-deadbee9"
    left.mkdir()
    (left / "rank-000.safetensors").write_text("half")
    assert restore(checkpoints)[0] == 1
    save(checkpoints, 2, "second")
    assert not left.exists()


def test_the_newest_sound_one_stays_when_a_restart_went_back_behind_a_damaged_one(
    tmp_path: Path,
) -> None:
    checkpoints = at(tmp_path, keep=1)
    saved(tmp_path, "first")
    for step in (5, 9):
        (tmp_path / f"step-{step:09d}").mkdir()
    assert restore(checkpoints)[0] == 1
    save(checkpoints, 7, "sound")
    assert steps_in(tmp_path) == ["step-000000007"]
    assert restore(checkpoints)[0] == 7


def test_another_config_or_data_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "first")
    with pytest.raises(CheckpointError, match="another config or other data"):
        restore(at(tmp_path, fingerprint="b"))


def test_an_attempt_that_was_taken_over_cannot_commit(tmp_path: Path) -> None:
    old, new = saved(tmp_path, "first"), at(tmp_path)
    new.restore(Notes(), Place())  # type: ignore[arg-type]
    with pytest.raises(TakenOver, match="another attempt"):
        save(old, 2, "of a rank that outlived its node")
    assert steps_in(tmp_path) == ["step-000000001"]
    save(new, 2, "second")
    assert restore(new)[:2] == (2, "second")


def test_an_attempt_that_hung_in_a_commit_removes_nothing_of_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked at the lease before the successor had it."""
    old, new = at(tmp_path, keep=1), at(tmp_path, keep=9)
    restore(old)
    save(old, 1, "first")
    restore(new)
    save(new, 3, "of the successor")
    save(new, 4, "and another")
    with monkeypatch.context() as patch:
        patch.setattr(Lease, "overtaken", lambda *_: None)
        save(old, 2, "late")
    assert steps_in(tmp_path)[-2:] == ["step-000000003", "step-000000004"]
    assert restore(at(tmp_path))[:2] == (4, "and another")


def test_an_attempt_that_hung_in_a_commit_replaces_nothing_of_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = saved(tmp_path, "first"), at(tmp_path)
    restore(new)
    save(new, 2, "of the successor")
    seen = Lease.overtaken
    looks = iter([lambda *_: None])  # it looked before the successor had the lease
    with monkeypatch.context() as patch:
        patch.setattr(Lease, "overtaken", lambda *given: next(looks, seen)(*given))
        with pytest.raises(TakenOver):
            save(old, 2, "late")
    assert restore(at(tmp_path))[:2] == (2, "of the successor")


@pytest.mark.parametrize(
    ("number", "raised"), [(116, NotWritten), (2, NotWritten), (28, CheckpointError)]
)
def test_an_error_of_the_storage_that_may_pass_is_worth_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: type[Exception]
) -> None:
    def failing(state: dict, file: Path) -> None:
        raise SafetensorError(f"Error while serializing: I/O error: so it is (os error {number})")

    checkpoints = saved(tmp_path, "first")
    with monkeypatch.context() as patch:
        patch.setattr("embre.checkpoints.parts.save_file", failing)
        with pytest.raises(raised, match=f"os error {number}.*the same command again"):
            save(checkpoints, 2, "second")
    assert steps_in(tmp_path) == ["step-000000001"]
    missing = tmp_path / "gone" / "state.safetensors"
    with pytest.raises(FileNotFoundError, match="os error 2"):  # as the library says it
        save_state({"a": torch.zeros(1)}, missing)


def test_one_save_that_fails_for_what_may_pass_costs_that_checkpoint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints, missed = saved(tmp_path, "first"), []

    def tell(*one: object) -> None:
        missed.append(one)
        raise OSError(116, "Stale file handle")  # events are on the same storage

    def go_on(step: int, fails: bool) -> None:
        with monkeypatch.context() as patch:
            if fails:
                patch.setattr("embre.checkpoints.parts.save_file", stale)
            checkpoints.save(step, Notes(str(step)), Place(), missed=tell)  # type: ignore[arg-type]
            assert checkpoints._save is not None
            checkpoints._save.join()

    go_on(2, fails=True)
    go_on(3, fails=False)
    go_on(4, fails=True)
    go_on(5, fails=True)
    assert [step for step, _ in missed] == [2, 4] and "os error 116" in missed[0][1]
    assert "same command" not in missed[0][1], "nobody has to do anything"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert steps_in(tmp_path) == ["step-000000001", "step-000000003"]
    with pytest.raises(NotWritten, match="of step 5 .*os error 116.*the same command again"):
        go_on(6, fails=False)
    with pytest.raises(NotWritten, match="of step 6 "):  # the last one, or before a stop
        go_on(6, fails=True)
        checkpoints.finish()


def test_a_storage_that_fails_while_it_is_cleared_hides_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(116, "Stale file handle")

    checkpoints = saved(tmp_path, "first")
    with monkeypatch.context() as patch:
        patch.setattr("embre.checkpoints.saving.save_state", failing)
        patch.setattr(Path, "unlink", failing)
        with pytest.raises(NotWritten, match="Stale file handle"):
            save(checkpoints, 2, "second")
    assert steps_in(tmp_path) == ["step-000000001"]


def test_an_attempt_whose_files_a_successor_removed_was_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = saved(tmp_path, "first"), at(tmp_path)

    def hanging(state: dict, file: Path) -> None:
        restore(new)
        save(new, 2, "of the successor")
        assert not file.parent.exists()
        save_file(state, file)

    with monkeypatch.context() as patch:
        patch.setattr("embre.checkpoints.saving.save_state", hanging_once(hanging, save_file))
        with pytest.raises(TakenOver, match="another attempt"):
            save(old, 2, "late")
    assert restore(at(tmp_path))[:2] == (2, "of the successor")


def hanging_once(first: Callable, then: Callable) -> Callable:
    """A function that is another one after its first call began."""
    functions = iter((first,))
    return lambda *given: next(functions, then)(*given)


def test_what_a_killed_first_save_left_is_no_checkpoint(tmp_path: Path) -> None:
    partial = tmp_path / FOLDER / "step-000000002.partial-deadbee9"
    partial.mkdir(parents=True)
    assert not has_checkpoints(tmp_path)
    partial.rename(tmp_path / FOLDER / "step-000000002")
    assert has_checkpoints(tmp_path)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[None]:
    faults.arm("checkpoint_written:2:enospc", tmp_path, rank=0)
    yield
    faults._armed.clear()


def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(
    tmp_path: Path, full_disk: None
) -> None:
    checkpoints = saved(tmp_path, "first")
    with pytest.raises(CheckpointError, match="No space left on device.*the same command again"):
        save(checkpoints, 2, "second")
    assert steps_in(tmp_path) == ["step-000000001"]
    save(checkpoints, 3, "third")
    assert restore(checkpoints)[:2] == (3, "third")


def test_a_checkpoint_of_another_format_is_refused_with_the_remedy(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, "first")
    path = tmp_path / "step-000000001" / MANIFEST
    values = json.loads(path.read_text())
    assert values.pop("format") == 6
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="another version of embre; finish the run"):
        restore(checkpoints)


def test_a_checkpoint_that_cannot_be_read_is_passed_over_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = at(tmp_path, keep=9)
    checkpoints.restore(Notes(), Place())  # type: ignore[arg-type]
    for step in (1, 3, 4):
        save(checkpoints, step, str(step))
    (tmp_path / "step-000000004" / MANIFEST).unlink()
    real = manifest.sha256_of

    def read(path: Path) -> str:
        if "step-000000003" in str(path):
            raise OSError(5, "Input/output error")
        return real(path)

    told: list[tuple[int, str]] = []
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "sha256_of", read)
        step = checkpoints.restore(Notes(), Place(), lambda *one: told.append(one))  # type: ignore[arg-type]
    assert step == 1
    assert told == [
        (4, f"{tmp_path}/step-000000004: {MANIFEST} is missing"),
        (3, f"{tmp_path}/step-000000003: it cannot be read ([Errno 5] Input/output error)"),
    ]
    save(checkpoints, 2, "2")
    assert steps_in(tmp_path) == [f"step-{step:09d}" for step in (1, 2, 3)], "4 is damaged"
    assert restore(checkpoints)[:2] == (3, "3")


def test_what_fails_after_a_commit_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def removing(path: Path, ignore_errors: bool = False) -> None:
        raise OSError(39, "Directory not empty")

    def telling(step: int) -> None:
        raise OSError(28, "No space left on device")

    checkpoints = saved(tmp_path, "first", "second")
    monkeypatch.setattr("shutil.rmtree", removing)
    checkpoints.save(3, Notes("third"), Place(), telling)  # type: ignore[arg-type]
    checkpoints.finish()
    assert restore(checkpoints)[:2] == (3, "third")
    said = [record.getMessage() for record in caplog.records]
    assert ["not empty" in said[0], "No space" in said[1], len(said)] == [True, True, 2]


def test_a_copy_that_somebody_made_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, "first")
    copy = tmp_path / "step-000000001.before"
    (tmp_path / "step-000000001").rename(copy)
    assert restore(checkpoints)[0] == 0
    save(checkpoints, 1, "again")
    assert copy.exists()


def test_files_are_on_the_disk_before_the_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the loss of power leaves a checkpoint whose name is there and whose bytes are not."""
    checkpoints, acts = saved(tmp_path, "first"), []
    fsync, rename = os.fsync, Path.rename

    def recording(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        acts.append(path.name.partition(".partial")[0])
        fsync(handle)

    def renaming(path: Path, target: Path) -> Path:
        acts.append(f"rename to {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", recording)
    monkeypatch.setattr(Path, "rename", renaming)
    save(checkpoints, 2, "second")
    assert acts == [
        "rank-000.safetensors",
        "rank-000.json",
        acts[2],
        "step-000000002",
        "rename to step-000000002",
        tmp_path.name,
    ]
    assert acts[2].startswith(f"{MANIFEST}."), "written under another name, and the folder after it"


def test_a_process_that_goes_lets_a_save_under_way_come_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(state: dict, file: Path) -> None:
        time.sleep(0.2)
        save_file(state, file)

    checkpoints = saved(tmp_path)
    checkpoints.settle()
    monkeypatch.setattr("embre.checkpoints.parts.save_file", slow)
    checkpoints.save(1, Notes("first"), Place())  # type: ignore[arg-type]
    checkpoints.settle()
    assert steps_in(tmp_path) == ["step-000000001"]
    monkeypatch.setattr("embre.checkpoints.checkpoints.SETTLE_S", 0.01)
    checkpoints.save(2, Notes("second"), Place())  # type: ignore[arg-type]
    checkpoints.settle()
    assert "step-000000002" not in steps_in(tmp_path), "but not for ever"
    checkpoints.finish()


def test_a_rank_that_died_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    class Alone(World):
        """One of two ranks, whose questions the other answers as this one does."""

        def all_gather(self, value: Any) -> list[Any]:
            return [value, value]

    checkpoints = Checkpoints(tmp_path, Alone(0, 2), "a", keep=2, timeout_s=0.1)
    checkpoints.restore(Notes(), Place())  # type: ignore[arg-type]
    with pytest.raises(
        CheckpointError, match=r"rank-001\.json: .* has not written its part in time"
    ):
        save(checkpoints, 1, "of rank 0")
    assert steps_in(tmp_path) == []


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, committed = threading.Event(), []

    def slow(state: dict, file: Path) -> None:
        assert may_write.wait(10)
        save_file(state, file)

    monkeypatch.setattr("embre.checkpoints.parts.save_file", slow)
    checkpoints, notes = saved(tmp_path), Notes("as it was")
    checkpoints.save(1, notes, Place(), committed.append)  # type: ignore[arg-type]
    notes.text = "trained on"
    assert not committed and "step-000000001" not in steps_in(tmp_path)
    may_write.set()
    checkpoints.finish()
    assert committed == [1] and restore(checkpoints)[:2] == (1, "as it was")


class ManyRanks(World):
    """Stands in for five ranks, whose third has other weights."""

    __slots__ = ()

    def all_gather(self, value: Any) -> list[Any]:
        if value is None:  # how the save before went
            return [value] * 5
        name, states, checksum = value
        return [(name, states, checksum + (rank == 2)) for rank in range(5)]


def test_weights_that_have_drifted_apart_are_never_committed(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, "sound")
    checkpoints.world = ManyRanks()
    with pytest.raises(CheckpointError, match="after step 2 the weights of rank 2 differ"):
        checkpoints.save(2, Notes("spoilt"), Place())  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000000001"]
    assert restore(at(tmp_path))[:2] == (1, "sound")


def _drift(world: World, folder: str) -> str:
    engine = TorchEngine(torch.nn.Linear(3, 2), OptimizerConfig(), {}, world, seed=0)
    with torch.no_grad():
        for value in engine.module.parameters():
            value.fill_(0.5)
    checkpoints = Checkpoints(Path(folder), world, "a", keep=3)
    checkpoints.restore(engine, Place())  # type: ignore[arg-type]
    checkpoints.save(1, engine, Place())  # type: ignore[arg-type]
    checkpoints.finish()
    if world.rank == 1:
        with torch.no_grad():
            engine.module.bias[1] = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0))
    with pytest.raises(CheckpointError) as raised:
        checkpoints.save(2, engine, Place())  # type: ignore[arg-type]
    return str(raised.value)


@pytest.mark.slow
def test_the_last_bit_of_one_weight_on_one_rank_is_drift(tmp_path: Path) -> None:
    for said in run_ranks(_drift, 2, str(tmp_path)):
        assert "the weights differ between ranks" in said
        assert "of rank" not in said and "exclude" not in said, "either may be the right one"
    assert steps_in(tmp_path) == ["step-000000001"]


def _two_ranks(world: World, folder: str) -> tuple[int, str, dict[str, Any]]:
    checkpoints = Checkpoints(Path(folder), world, "a", keep=3)
    notes, place = Notes(f"part {world.rank}"), Place()
    notes.rank = place.rank = world.rank
    checkpoints.restore(notes, place)  # type: ignore[arg-type]
    for step in (1, 2):
        checkpoints.save(step, notes, place)  # type: ignore[arg-type]
    checkpoints.finish()
    if world.rank == 0:  # only the other rank's part is damaged: both must agree that it is
        (Path(folder) / "step-000000002" / "rank-001.safetensors").write_text("part X")
    world.barrier()
    step = checkpoints.restore(notes, place)  # type: ignore[arg-type]
    return step, notes.text, place.restored


def _one_disk_full(world: World, folder: str) -> str:
    checkpoints = Checkpoints(Path(folder), world, "a", keep=3, timeout_s=60)
    notes, place = Notes(f"part {world.rank}"), Place()
    notes.rank = place.rank = world.rank
    checkpoints.restore(notes, place)  # type: ignore[arg-type]
    if world.rank == 1:
        faults.arm("checkpoint_written:1:enospc:1", Path(folder), rank=1)
    checkpoints.save(1, notes, place)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError) as raised:
        checkpoints.finish()
    return str(raised.value)


def _one_storage_stumbles(world: World, folder: str) -> tuple[list[int], str]:
    """Rank 1's in step 1, rank 0's in step 3, and in step 4 rank 1's again."""
    checkpoints = Checkpoints(Path(folder), world, "a", keep=3, timeout_s=60)
    notes, place = Notes(f"part {world.rank}"), Place()
    notes.rank = place.rank = world.rank
    checkpoints.restore(notes, place)  # type: ignore[arg-type]
    missed: list[int] = []
    try:
        for step in range(1, 9):
            with pytest.MonkeyPatch.context() as patch:
                if {1: 1, 3: 0, 4: 1}.get(step) == world.rank:
                    patch.setattr("embre.checkpoints.parts.save_file", stale)
                checkpoints.save(step, notes, place, missed=lambda at, _: missed.append(at))  # type: ignore[arg-type]
                assert checkpoints._save is not None
                checkpoints._save.join()
    except NotWritten as error:
        return missed, f"{step}: {error}"
    raise AssertionError("two in a row were no error")


@pytest.mark.slow
def test_all_ranks_miss_a_checkpoint_that_one_could_not_write_and_none_two_in_a_row(
    tmp_path: Path,
) -> None:
    for missed, error in run_ranks(_one_storage_stumbles, 2, str(tmp_path)):
        assert missed == [1, 3]
        assert error.startswith("5: ") and "checkpoint of step 4 could not be written" in error
    # A rank that is late may write what the next commit will remove.
    assert [name for name in steps_in(tmp_path) if "partial" not in name] == ["step-000000002"]


@pytest.mark.slow
def test_a_rank_that_cannot_write_is_known_to_rank_0_at_once(tmp_path: Path) -> None:
    first, second = run_ranks(_one_disk_full, 2, str(tmp_path))
    assert "rank-001.json: this rank could not write its part" in first and "No space" in first
    assert "No space left on device" in second and "same command again" in second
    assert steps_in(tmp_path) == []


@pytest.mark.slow
def test_all_ranks_agree_on_what_is_damaged(tmp_path: Path) -> None:
    whole = (1, "part 0 part 1", {"0": [1, 2, 0], "1": [1, 2, 1]})
    assert run_ranks(_two_ranks, 2, str(tmp_path)) == [whole, whole]
    manifest = read_manifest(tmp_path / "step-000000001")
    assert set(manifest.files) == {"rank-000.safetensors", "rank-001.safetensors"}


@pytest.mark.slow
def test_what_two_ranks_saved_is_taken_up_by_one(tmp_path: Path) -> None:
    run_ranks(_two_ranks, 2, str(tmp_path))
    assert restore(at(tmp_path))[:2] == (1, "part 0 part 1")

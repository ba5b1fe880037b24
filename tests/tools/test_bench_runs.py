"""The benches of runs find what they look for: other data, another curve, a fault that was none."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from fault_scene import Outcome, Scene, against, as_json, recovery_s
from overheads import save_cost, zero_overhead
from shuffle import measure


def run_folder(
    folder: Path, data: list[int], losses: list[float], attempts: int = 1, weights: bytes = b"w"
) -> Path:
    """A folder as a run leaves it; each further attempt does the last step again."""
    (folder / "encoder").mkdir(parents=True)
    (folder / "encoder/model.safetensors").write_bytes(weights)
    (folder / "checkpoints").mkdir()
    events, now = [], 0.0
    steps = [
        {"event": "step", "step": number, "data": seen, "loss/token": loss, "grad_norm": 1.0}
        for number, (seen, loss) in enumerate(zip(data, losses, strict=True), start=1)
    ]
    for attempt in range(attempts):
        events.append({"event": "started", "step": 0, "world_size": 2})
        events += steps if attempt == 0 else steps[-1:]
    for event in events:
        now += 1.0
        event = {**event, "time": now}
        with (folder / "events.jsonl").open("a") as file:
            file.write(json.dumps(event) + "\n")
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return run_folder(tmp_path / "whole", [5, 6, 7], [3.0, 2.0, 1.0])


def test_a_run_that_was_broken_and_came_to_the_same_has_survived(
    whole: Path, tmp_path: Path
) -> None:
    found = against(whole, run_folder(tmp_path / "a", [5, 6, 7], [3.0, 2.0, 1.0], attempts=2))
    assert found.survived and (found.lost, found.repeated, found.curve) == (
        0,
        0,
        "equal",
    )


@pytest.mark.parametrize(
    ("data", "losses", "attempts", "weights", "lost", "repeated", "curve"),
    [
        ([5, 9, 7], [3.0, 2.0, 1.0], 2, b"w", 1, 0, "equal"),
        ([5, 6], [3.0, 2.0], 2, b"w", 1, 0, "equal"),
        ([5, 6, 7, 8], [3.0, 2.0, 1.0, 1.0], 2, b"w", 0, 1, "equal"),
        ([5, 6, 7], [3.0, 2.0, 1.1], 2, b"w", 0, 0, "1e-01 apart"),
        ([5, 6, 7], [3.0, 2.0, 1.0], 2, b"x", 0, 0, "0e+00 apart"),
        ([5, 6, 7], [3.0, 2.0, 1.0], 1, b"w", 0, 0, "equal"),
    ],
    ids=["other data", "a step less", "a step more", "another loss", "other weights", "no fault"],
)
def test_whatever_differs_is_no_survival(
    whole: Path,
    tmp_path: Path,
    data: list[int],
    losses: list[float],
    attempts: int,
    weights: bytes,
    lost: int,
    repeated: int,
    curve: str,
) -> None:
    found = against(whole, run_folder(tmp_path / "a", data, losses, attempts, weights))
    assert not found.survived
    assert (found.lost, found.repeated, found.curve) == (lost, repeated, curve)


def test_what_is_left_behind_is_no_survival(whole: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a", [5, 6, 7], [3.0, 2.0, 1.0], attempts=2)
    (folder / "checkpoints/step-000000004.partial-1").mkdir()
    found = against(whole, folder)
    assert not found.survived and "files left" in found.happened


def test_recovery_is_from_the_fault_to_the_next_step(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a", [5, 6], [3.0, 2.0], attempts=2)
    assert recovery_s(folder) is None
    mark = folder / "fault-step-2-0"
    mark.touch()
    os.utime(mark, (2.5, 2.5))  # the second attempt starts at 4 and steps at 5
    assert recovery_s(folder) == 2.5


def test_the_last_line_counts_what_survived() -> None:
    outcomes = {
        "a": Outcome(True, "", curve="equal"),
        "b": Outcome(True, "", curve="equal to 3e-07"),
        "c": Outcome(False, "", lost=2, repeated=1, curve="1e-01 apart"),
        "d": Outcome(True, "refused", curve="–"),
    }
    assert json.loads(as_json(outcomes)) == {
        "faults": 4,
        "survived": 3,
        "lost": 2,
        "repeated": 1,
        "curves_equal": 2,
    }


def test_a_shuffle_is_told_from_none() -> None:
    names = [str(number) for number in range(3000)]
    same = measure(names, names)
    assert same["rank_correlation"] == pytest.approx(1) and same["neighbours_surviving"] == 1
    mixed = measure(names, np.random.default_rng(0).permutation(names).tolist())
    assert mixed["rank_correlation"] < 0.1 and mixed["neighbours_surviving"] < 0.01
    assert mixed["median_distance"] == pytest.approx(0.293, abs=0.02)


def test_a_checkpoint_has_a_cost(tmp_path: Path) -> None:
    stalled_s, all_s = save_cost(tmp_path)
    assert 0 < stalled_s <= all_s


@pytest.mark.slow
def test_both_engines_do_every_step(tmp_path: Path) -> None:
    found = zero_overhead(Scene.build(tmp_path), steps=4, strip_tokens=400, warm_up=1)
    assert len(found) == 3 and min(found) > 0

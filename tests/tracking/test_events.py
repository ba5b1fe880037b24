"""Events are the truth on disk; MLflow gets each logged step once, and all of them."""

import json
from pathlib import Path

from embre.engines.engine import StepResult
from embre.engines.step_guard import Skip
from embre.launch.progress import describe
from embre.tracking import Tracker, read_events
from embre.tracking.events import EventTail
from embre.world import World


def walk(folder: Path, first: int, last: int, sent: int) -> list[tuple[int, list[str]]]:
    """Train from `first` to `last`; what was passed on to MLflow."""
    given: list[tuple[int, list[str]]] = []
    tracker = Tracker(
        folder, World(), 1, lambda step, metrics: given.append((step, sorted(metrics))), sent=sent
    )
    tracker.started(first, 9)
    for step in range(first + 1, last + 1):
        tracker.step(step, StepResult({"token": 1.0}, 0.5, 100, 7, False), lr=0.1, seconds=0.1)
    tracker.validation(last, {"f1": 0.5})
    return given


def test_every_logged_step_is_passed_on(tmp_path: Path) -> None:
    assert [step for step, _ in walk(tmp_path, 0, 4, sent=0)] == [0, 1, 2, 3, 4, 4]
    assert [event["event"] for event in read_events(tmp_path)] == [
        "started",
        *["step"] * 4,
        "validation",
    ]


def test_a_restart_repeats_nothing_and_sends_what_a_kill_left_unsent(tmp_path: Path) -> None:
    walk(tmp_path, 0, 6, sent=0)  # ends with steps 4 to 6 still in the queue
    (tmp_path / "error-0.txt").write_text("OSError: No space left on device")
    given = walk(tmp_path, 5, 8, sent=3)  # goes on from the checkpoint of step 5
    assert [step for step, _ in given] == [4, 5, 5, 6, 7, 8, 8]
    assert given[-1][1] == ["validation/f1"]
    marks = ["restart/attempt", "restart/down_s", "restart/lost_steps", "world_size"]
    assert given[2] == (5, ["embre.restart.2", *marks])
    (_, again) = read_events(tmp_path, "started")
    assert (again["attempt"], again["lost_steps"]) == (2, 1)
    assert describe(again).startswith("training resumes after step 5 of 9 (attempt 2, 1 steps")
    assert describe(again).endswith("without training): rank 0: OSError: No space left on device")


def test_a_checkpoint_that_was_passed_over_is_told_and_marked(tmp_path: Path) -> None:
    walk(tmp_path, 0, 6, sent=0)
    given: list[tuple[int, dict[str, float]]] = []
    tracker = Tracker(tmp_path, World(), 1, lambda *point: given.append(point), sent=6)
    tracker.checkpoint_skipped(6, "checkpoints/step-000000006: manifest.json is missing")
    tracker.started(4, 9)
    (event,) = read_events(tmp_path, "checkpoint_skipped")
    assert describe(event) == (
        "step 6: checkpoint skipped, checkpoints/step-000000006: manifest.json is missing"
    )
    (_, again) = read_events(tmp_path, "started")
    assert (again["lost_steps"], again["checkpoints_skipped"]) == (2, 1)
    assert given[-1][0] == 4 and given[-1][1]["restart/checkpoints_skipped"] == 1


def test_a_validation_that_a_kill_kept_from_mlflow_is_sent(tmp_path: Path) -> None:
    walk(tmp_path, 0, 6, sent=0)  # killed when MLflow had step 6 and not yet its validation
    before = walk(tmp_path, 6, 6, sent=6)  # goes on behind it: out of the events
    assert before[0] == (6, ["validation/f1"])
    assert not [names for step, names in before if step <= 6 and "loss/token" in names]
    again = walk(tmp_path, 5, 6, sent=6)  # goes on before it: measured again
    assert again[-1] == (6, ["validation/f1"])
    assert not [names for _, names in again if "loss/token" in names], "no step twice"
    assert walk(tmp_path, 6, 7, sent=7)[-1] == (7, ["validation/f1"])


def test_the_vocabulary_is_passed_on_until_mlflow_has_steps(tmp_path: Path) -> None:
    given: list[tuple[int, dict[str, float]]] = []
    for sent in (0, 3):
        tracker = Tracker(tmp_path, World(), 1, lambda *point: given.append(point), sent=sent)
        tracker.vocabulary({"of_normalised/all": 0.75})
    assert given == [(0, {"vocabulary/of_normalised/all": 0.75})]
    events = list(read_events(tmp_path, "vocabulary"))
    assert [event["vocabulary/of_normalised/all"] for event in events] == [0.75, 0.75]
    assert describe(events[0]) == "entity vocabulary: 75.0% of the mentions with an identifier"


def test_steps_that_were_not_logged_are_known_to_be_lost(tmp_path: Path) -> None:
    for first in (0, 10):
        tracker = Tracker(tmp_path, World(), log_every_steps=100)
        tracker.started(first, 100)
        tracker.step(17, StepResult({"token": 1.0}, 0.5, 100, 7, False), lr=0.1, seconds=0.1)
    (_, again) = read_events(tmp_path, "started")
    assert (again["attempt"], again["lost_steps"]) == (2, 7)


def test_a_line_cut_by_a_kill_costs_that_line_only(tmp_path: Path) -> None:
    walk(tmp_path, 0, 2, sent=0)
    path = tmp_path / "events.jsonl"
    path.write_text(path.read_text() + '{"event": "step", "st')
    walk(tmp_path, 2, 3, sent=2)
    assert [e["step"] for e in read_events(tmp_path, "step")] == [1, 2, 3]
    assert [e["step"] for e in read_events(tmp_path, "started")] == [0, 2]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    Tracker(tmp_path, World(rank=1, size=2), 1).started(0, 9)
    assert not list(tmp_path.iterdir())


def test_the_end_says_what_share_of_the_time_went_into_training(tmp_path: Path) -> None:
    given: list[tuple[int, dict[str, float]]] = []
    tracker = Tracker(tmp_path, World(), 1, lambda *point: given.append(point))
    tracker.started(0, 1)
    tracker.step(1, StepResult({"token": 1.0}, 0.5, 100, 7, False), lr=0.1, seconds=0.0)
    tracker.finished(1)
    (event,) = read_events(tmp_path, "finished")
    assert event["goodput"] == 0 and given[-1] == (1, {"goodput": 0})
    assert describe(event) == "step 1: finished, 0.0% of the time went into training"


def test_a_finished_run_that_is_started_again_keeps_its_goodput(tmp_path: Path) -> None:
    given: list[tuple[int, dict[str, float]]] = []
    for first in (0, 1):
        (tmp_path / "error-0.txt").write_text("RuntimeError: the export failed")
        tracker = Tracker(tmp_path, World(), 1, lambda *point: given.append(point), sent=first)
        tracker.vocabulary({"of_normalised/all": 0.75})
        tracker.started(first, 1)
        if first == 0:
            tracker.step(1, StepResult({"token": 1.0}, 0.5, 100, 7, False), lr=0.1, seconds=1e-9)
        tracker.finished(1)
    assert len(list(read_events(tmp_path, "started"))) == 1
    (event,) = read_events(tmp_path, "finished")
    assert 0 < event["goodput"] and given[-1] == (1, {"goodput": event["goodput"]})
    assert not (tmp_path / "error-0.txt").exists(), "an end that nobody asks for any more"


def test_what_is_said_before_the_start_is_of_this_attempt(tmp_path: Path) -> None:
    Tracker(tmp_path, World(), 1).started(0, 9)
    (event,) = read_events(tmp_path)
    long_ago = json.dumps(event | {"time": event["time"] - 1000})
    (tmp_path / "events.jsonl").write_text(long_ago + "\n")
    tracker = Tracker(tmp_path, World(), 1)
    with (tmp_path / "events.jsonl").open("a") as file:  # by the thread that sends to MLflow
        file.write(json.dumps({"event": "untracked", "step": 0, "time": event["time"]}) + "\n")
    tracker.started(0, 9)
    assert list(read_events(tmp_path, "started"))[1]["down_s"] >= 1000


def test_the_time_left_is_that_of_the_steps_since_the_last_line(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, World(), 10)
    tracker.started(20, 100)
    for step in range(21, 31):
        tracker.step(step, StepResult({"token": 1.0}, 0.5, 100, 7, False), lr=0.1, seconds=2.0)
    (event,) = read_events(tmp_path, "step")
    assert event["eta_s"] == 140 and describe(event).endswith("0:02:20 left")


def test_the_mfu_follows_the_rate_of_tokens(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, World(), 1, mfu_of_token_rate=0.25 / 1000)
    tracker.started(0, 1)
    tracker.step(1, StepResult({"token": 1.0}, 0.5, 100, 7, False), lr=0.1, seconds=0.1)
    (event,) = read_events(tmp_path, "step")
    assert abs(event["mfu"] - 0.25) < 1e-9
    assert describe(event).endswith("1,000 tokens/s  MFU 25.0%")


def test_the_tail_gives_each_event_once_and_a_half_line_when_it_is_whole(tmp_path: Path) -> None:
    tail = EventTail(tmp_path)
    assert tail.read() == []
    walk(tmp_path, 0, 2, sent=0)
    assert [event["event"] for event in tail.read()] == ["started", "step", "step", "validation"]
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "saved", ')
        file.flush()
        assert tail.read() == []
        file.write('"step": 2}\n')
    assert tail.read() == [{"event": "saved", "step": 2}]
    assert tail.read() == []


def test_updates_that_were_left_out_are_counted_once_whatever_was_done_again(
    tmp_path: Path,
) -> None:
    def told(first: int, *skipped: int) -> Tracker:
        tracker = Tracker(tmp_path, World(), 1)
        tracker.started(first, 9)
        for step in skipped:
            tracker.skipped(step, Skip("the loss is not finite", ("7",), 1))
        return tracker

    told(0, 2, 5)  # dies; step 5 is done again and is well, step 6 is not
    told(4, 6)
    tracker = told(8)
    tracker.step(9, StepResult({"token": 1.0}, 0.5, 100, 7, False), lr=0.1, seconds=0.1)
    (event,) = read_events(tmp_path, "step")
    assert event["updates_skipped"] == 2
    told_last = [describe(event) for event in read_events(tmp_path, "skipped")][-1]
    assert told_last == "step 6: no update, the loss is not finite"
    assert "2 updates skipped" in describe(event)

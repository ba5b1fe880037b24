"""The curves of a run are drawn from its events, restarts and all."""

from pathlib import Path

from embre.curves import draw_curves
from embre.engine import StepResult
from embre.tracking import Tracker
from embre.world import World


def test_curves_are_a_picture_once_there_is_a_step(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, World(), 1)
    tracker.started(0, 4)
    assert draw_curves(tmp_path) is None
    for step in (1, 2):
        losses = {"token": 3.0 / step, "type": 1.0}
        tracker.step(step, StepResult(losses, 0.5, 100, 7, False), lr=0.1, seconds=0.1)
    tracker.validation(2, {"loss/token": 2.5, "accuracy/token": 0.1})
    tracker.started(1, 4)
    path = draw_curves(tmp_path)
    assert path is not None and path.read_bytes().startswith(b"\x89PNG")

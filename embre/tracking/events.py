"""The event log of a run: JSON lines in the run folder, written by rank 0.

This file is authoritative: the driver displays it, metrics are copied from it to MLflow, plots are
drawn from it. So a tracking server that is down never stops training.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from embre.engines.engine import StepResult
from embre.engines.step_guard import Skip
from embre.tracking.endings import why_ended
from embre.tracking.goodput import goodput, lost_by_restart
from embre.world import World

EVENTS, HEARTBEAT = "events.jsonl", "heartbeat.json"
BEAT_EVERY_S = 1.0
NOT_METRICS = ("event", "step", "time", "data", "seconds", "eta_s")

Metrics = dict[str, float]
Send = Callable[[int, Mapping[str, float | str]], None]


class Tracker:
    """Writes a run's events; does nothing on ranks other than 0.

    `send(step, values)` is called for each logged step after `sent`, the last step that MLflow is
    known to have, so the curve of a restarted run has neither gaps nor repeated steps. The
    validation at `sent` is sent again: it follows the metrics of the same step, so MLflow may lack
    it, and a duplicate point does no harm.
    `last_saved` is the last step that earlier attempts saved, 0 if none.
    `waited_s` returns the seconds spent waiting for data so far.
    `num_quarantined` returns the number of damaged shards that the run leaves out.
    `mfu_of_token_rate` is the MFU at one token per second, 0 if unknown.
    """

    def __init__(
        self,
        folder: Path,
        world: World,
        log_every_steps: int,
        send: Send | None = None,
        waited_s: Callable[[], float] = lambda: 0.0,
        sent: int = 0,
        mfu_of_token_rate: float = 0.0,
        num_quarantined: Callable[[], int] = lambda: 0,
    ):
        self.folder = folder
        self.path = folder / EVENTS
        self.active = world.rank == 0
        self.world_size = world.size
        self.log_every_steps = log_every_steps
        self.send = send
        self.waited_s = waited_s
        self.mfu_of_token_rate = mfu_of_token_rate
        self.num_quarantined = num_quarantined
        self.num_steps = 0
        self._beaten, self._logged = -BEAT_EVERY_S, 0
        self._tokens, self._seconds, self._waited = 0, 0.0, 0.0
        self._skipped, self._checkpoints_skipped = 0, 0
        if self.active and self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            with self.path.open("a") as file:  # a rank died in the middle of a line
                file.write("\n")
        # Read before this attempt writes: some of its events may precede `started`.
        self._known = list(read_events(folder)) if self.active else []
        self.last_saved = last_saved(self._known)
        self._sent = sent
        self._finished: dict[str, Any] = {}  # the `finished` event of an earlier attempt

    def checkpoint_skipped(self, step: int, why: str) -> None:
        """Log that the checkpoint of `step` is not used, though newer than the one resumed from."""
        self._checkpoints_skipped += 1
        self._write("checkpoint_skipped", step, {"why": why})

    def started(self, step: int, num_steps: int) -> None:
        """Log that training starts, or resumes after `step`, up to `num_steps`.

        Nothing is logged if an earlier attempt has already finished at `num_steps`.
        """
        self.num_steps, self._logged = num_steps, step
        known = self._known
        self._skipped = num_skipped(known, step)
        for event in known:
            if event["event"] in ("step", "validation") and event["step"] <= step:
                named = {k: v for k, v in event.items() if k not in NOT_METRICS}
                self._pass_on(event["event"], event["step"], named)
        turns = [event for event in known if event["event"] in ("started", "finished")]
        ended = bool(turns) and turns[-1]["event"] == "finished"
        if ended and turns[-1]["step"] == step == num_steps:
            self._finished = turns[-1]
            why_ended(self.folder, 0)  # delete the notes of an export that failed since
            return
        if known:
            known += _read_lines(self.folder / HEARTBEAT)
        lost = lost_by_restart(known, step, time.time())
        if self._checkpoints_skipped:
            lost["checkpoints_skipped"] = self._checkpoints_skipped
        details: dict[str, Any] = {}
        if self.active:
            ranks = [event["world_size"] for event in known if event["event"] == "started"]
            why = why_ended(self.folder, ranks[-1] if ranks else 0)
            if ended and num_steps > turns[-1]["step"]:  # the user raised num_steps
                why, lost["down_s"] = "it was finished", 0.0
            details |= {"why": why} if ranks else {}
            self._mark(step, lost, details.get("why"))
        values = {"steps": num_steps, "world_size": self.world_size, **lost, **details}
        self._write("started", step, values)

    def _mark(self, step: int, lost: dict[str, Any], why: str | None) -> None:
        """Send a start to MLflow, with its cost if it is a restart; independent of `sent`."""
        if not self.send:
            return
        marks: dict[str, float | str] = {"world_size": float(self.world_size)}
        if why is not None:
            marks |= {f"restart/{name}": float(value) for name, value in lost.items()}
            marks[f"embre.restart.{lost['attempt']}"] = f"after step {step}: {why}"
        self.send(step, marks)

    def vocabulary(self, shares: Metrics) -> None:
        """Log the shares of mentions that the entity vocabulary covers, before the first step."""
        named = {f"vocabulary/{name}": value for name, value in shares.items()}
        self._write("vocabulary", 0, named)
        if self.active and self.send and self._sent == 0:
            self.send(0, named)

    def step(
        self, step: int, result: StepResult, lr: float, seconds: float, always: bool = False
    ) -> None:
        """Record a finished step that took `seconds`.

        Every `log_every_steps` steps, at the first and the last step, and if `always`, its metrics
        are logged, with the mean speed since the step logged before.
        """
        self._beat(step)
        self._tokens += result.num_tokens
        self._seconds += seconds
        due = step % self.log_every_steps == 0 or step in (1, self.num_steps)
        if not due and not always:
            return
        waited = self.waited_s()
        metrics = {
            **{f"loss/{name}": value for name, value in result.losses.items()},
            "grad_norm": result.grad_norm,
            "learning_rate": lr,
            "tokens_per_s": self._tokens / max(self._seconds, 1e-9),
            "waited_share": (waited - self._waited) / max(self._seconds, 1e-9),
        }
        if self.mfu_of_token_rate:
            metrics["mfu"] = metrics["tokens_per_s"] * self.mfu_of_token_rate
        if self._skipped:
            metrics["updates_skipped"] = float(self._skipped)
        if damaged := self.num_quarantined():
            metrics["shards_quarantined"] = float(damaged)
        per_step_s = self._seconds / max(step - self._logged, 1)
        eta_s = round((self.num_steps - step) * per_step_s)
        more = {"seconds": self._seconds, "eta_s": eta_s, "data": result.data_hash}
        self._logged = step
        self._tokens, self._seconds, self._waited = 0, 0.0, waited
        self._write("step", step, {**metrics, **more})
        self._pass_on("step", step, metrics)

    def validation(self, step: int, metrics: Metrics) -> None:
        """Log metrics of the weights after `step` on held-out data."""
        if metrics:
            named = {f"validation/{name}": value for name, value in metrics.items()}
            self._write("validation", step, named)
            self._pass_on("validation", step, named)

    def skipped(self, step: int, skip: Skip) -> None:
        """Log that the update of `step` was skipped."""
        self._skipped += 1
        self._write("skipped", step, {"why": skip.why, "documents": list(skip.doc_ids)})

    def saved(self, step: int) -> None:
        """Log that a checkpoint after `step` was committed."""
        self._write("saved", step, {})

    def save_failed(self, step: int, why: str) -> None:
        """Log that the checkpoint after `step` could not be written; the run continues."""
        self._write("save_failed", step, {"why": why})

    def _beat(self, step: int) -> None:
        """Write the current step once a second, from which a restart computes its lost steps."""
        if self.active and time.monotonic() - self._beaten > BEAT_EVERY_S:
            self._beaten = time.monotonic()
            beat = {"event": "step", "step": step, "time": time.time()}
            with suppress(OSError):  # informative only
                (self.folder / HEARTBEAT).write_text(json.dumps(beat))

    def finished(self, step: int) -> None:
        """Log the end of training, with the goodput of the run."""
        if self.active:
            done = self._finished or {"goodput": goodput(read_events(self.folder))}
            if not self._finished:
                self._write("finished", step, done)
            if self.send:
                self.send(step, {"goodput": done["goodput"]})

    def _pass_on(self, event: str, step: int, metrics: Metrics) -> None:
        unsent = step >= self._sent if event == "validation" else step > self._sent
        if self.active and self.send and unsent:
            self.send(step, metrics)

    def _write(self, event: str, step: int, values: dict[str, Any]) -> None:
        if self.active:
            write_event(self.folder, event, step, values)


def write_event(folder: Path, event: str, step: int, values: dict[str, Any]) -> None:
    """Append an event to the log of the run in `folder`; any thread of rank 0 may call it."""
    line = json.dumps({"event": event, "step": step, "time": time.time(), **values})
    with (folder / EVENTS).open("a") as file:
        file.write(line + "\n")


def read_events(folder: Path, event: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the events of a run so far, all or those of one kind; incomplete lines are skipped."""
    for found in _read_lines(folder / EVENTS):
        if event in (None, found["event"]):
            yield found


def next_attempt(folder: Path) -> int:
    """The number, from 1, that the next `started` event of a run gets."""
    return 1 + sum(1 for _ in read_events(folder, "started"))


def last_saved(events: Iterable[dict[str, Any]]) -> int:
    """The last step that was saved, 0 if none."""
    return max((event["step"] for event in events if event["event"] == "saved"), default=0)


def num_skipped(events: Iterable[dict[str, Any]], step: int) -> int:
    """Number of updates skipped up to `step`; a repeated step counts as in its last execution."""
    left_out: set[int] = set()
    for event in events:
        if event["event"] == "skipped":
            left_out.add(event["step"])
        elif event["event"] == "started":
            left_out = {at for at in left_out if at <= event["step"]}
    return len([at for at in left_out if at <= step])


class EventTail:
    """Incremental reader of a run's events, which does not read the file again on each call."""

    def __init__(self, folder: Path):
        self.path = folder / EVENTS
        self._read_bytes, self._rest = 0, b""

    def read(self) -> list[dict[str, Any]]:
        """The events since the last call; an incomplete line is left for the next one."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._read_bytes)
            data = file.read()
        self._read_bytes += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return list(_decode(lines))


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from _decode(path.read_bytes().split(b"\n"))


def _decode(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with suppress(ValueError):
            yield json.loads(line)

"""The events of a run: every one a JSON line in the run's folder, written by rank 0.

The file is the truth: the driver shows it, MLflow gets a copy, plots are drawn from it. So a
tracking server that is down never stops training.
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

    `send` gets (step, values) for each logged step after `sent`, the last that MLflow is known to
    have; so a restarted run continues its curve, repeats no step and leaves no hole. The validation
    at `sent` is passed on again: it is of the same number as its step and comes later, so MLflow
    may have the one without the other, and a point that is there twice does no harm.
    `last_saved` is the step that attempts before saved last, 0 of none.
    `num_quarantined` says how many damaged shards the run goes on without.
    `mfu_of_token_rate` is the MFU at one token a second, 0 where it is not known.
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
        # Before this attempt says anything: it may be heard of before it has `started`.
        self._known = list(read_events(folder)) if self.active else []
        self.last_saved = last_saved(self._known)
        self._sent = sent
        self._finished: dict[str, Any] = {}  # the event of an attempt before

    def checkpoint_skipped(self, step: int, why: str) -> None:
        """The checkpoint of `step` is not what the run goes on from, though it is the newer."""
        self._checkpoints_skipped += 1
        self._write("checkpoint_skipped", step, {"why": why})

    def started(self, step: int, num_steps: int) -> None:
        """Training begins, or goes on after `step`; of a run that is finished there nothing is
        told again."""
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
            why_ended(self.folder, 0)  # an export may have failed since; that is over
            return
        if known:
            known += _read_lines(self.folder / HEARTBEAT)
        lost = lost_by_restart(known, step, time.time())
        if self._checkpoints_skipped:
            lost["checkpoints_skipped"] = self._checkpoints_skipped
        told: dict[str, Any] = {}
        if self.active:
            ranks = [event["world_size"] for event in known if event["event"] == "started"]
            why = why_ended(self.folder, ranks[-1] if ranks else 0)
            if ended and num_steps > turns[-1]["step"]:  # and has more steps now
                why, lost["down_s"] = "it was finished", 0.0
            told |= {"why": why} if ranks else {}
            self._mark(step, lost, told.get("why"))
        told = {"steps": num_steps, "world_size": self.world_size, **lost, **told}
        self._write("started", step, told)

    def _mark(self, step: int, lost: dict[str, Any], why: str | None) -> None:
        """A start in MLflow's curves too, with what it cost where it is a restart; it is no step
        and may come at any."""
        if not self.send:
            return
        marks: dict[str, float | str] = {"world_size": float(self.world_size)}
        if why is not None:
            marks |= {f"restart/{name}": float(value) for name, value in lost.items()}
            marks[f"embre.restart.{lost['attempt']}"] = f"after step {step}: {why}"
        self.send(step, marks)

    def vocabulary(self, shares: Metrics) -> None:
        """The shares of mentions that the entity vocabulary knows, before the first step."""
        named = {f"vocabulary/{name}": value for name, value in shares.items()}
        self._write("vocabulary", 0, named)
        if self.active and self.send and self._sent == 0:
            self.send(0, named)

    def step(
        self, step: int, result: StepResult, lr: float, seconds: float, always: bool = False
    ) -> None:
        """A step was done; every `log_every_steps` of them, and `always` when so told, one is
        logged with the speed since."""
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
        """The weights after `step` were measured on held-out data."""
        if metrics:
            named = {f"validation/{name}": value for name, value in metrics.items()}
            self._write("validation", step, named)
            self._pass_on("validation", step, named)

    def skipped(self, step: int, skip: Skip) -> None:
        """The update of `step` was left out."""
        self._skipped += 1
        self._write("skipped", step, {"why": skip.why, "documents": list(skip.doc_ids)})

    def saved(self, step: int) -> None:
        """A checkpoint after `step` was committed."""
        self._write("saved", step, {})

    def save_failed(self, step: int, why: str) -> None:
        """The checkpoint after `step` could not be written, and the run goes on."""
        self._write("save_failed", step, {"why": why})

    def _beat(self, step: int) -> None:
        """Say once a second how far the run is: what a restart compares itself with."""
        if self.active and time.monotonic() - self._beaten > BEAT_EVERY_S:
            self._beaten = time.monotonic()
            beat = {"event": "step", "step": step, "time": time.time()}
            with suppress(OSError):  # it only informs
                (self.folder / HEARTBEAT).write_text(json.dumps(beat))

    def finished(self, step: int) -> None:
        """Training has come to its end; what share of all the time went into it."""
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
    """Append an event, from whatever thread of rank 0."""
    line = json.dumps({"event": event, "step": step, "time": time.time(), **values})
    with (folder / EVENTS).open("a") as file:
        file.write(line + "\n")


def read_events(folder: Path, event: str | None = None) -> Iterator[dict[str, Any]]:
    """The events of a run so far; a line that is only half written is left out."""
    for found in _read_lines(folder / EVENTS):
        if event in (None, found["event"]):
            yield found


def last_saved(events: Iterable[dict[str, Any]]) -> int:
    """The last step that was saved, 0 where none was."""
    return max((event["step"] for event in events if event["event"] == "saved"), default=0)


def num_skipped(events: Iterable[dict[str, Any]], step: int) -> int:
    """The updates up to `step` that were left out; of steps done again the later one counts."""
    left_out: set[int] = set()
    for event in events:
        if event["event"] == "skipped":
            left_out.add(event["step"])
        elif event["event"] == "started":
            left_out = {at for at in left_out if at <= event["step"]}
    return len([at for at in left_out if at <= step])


class EventTail:
    """Gives the events of a run that are new, a long file not read again each time."""

    def __init__(self, folder: Path):
        self.path = folder / EVENTS
        self._read_bytes, self._rest = 0, b""

    def read(self) -> list[dict[str, Any]]:
        """The events since the last call; a line counts when it is complete."""
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

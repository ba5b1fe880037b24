"""Shows the progress of a run: a bar on a terminal, plain lines elsewhere.

Ranks may be on other machines; the driver reads the events in the run's folder.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from embre.tracking.events import EventTail

LOOK_EVERY_S = 0.5


@contextmanager
def show_progress(folder: Path, console: Console) -> Iterator[None]:
    """Show the progress of the run in `folder` while the body runs."""
    stop = threading.Event()
    new = EventTail(folder)
    new.read()  # skip the events of earlier attempts
    thread = threading.Thread(target=_show, args=(folder.name, console, new, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def describe(event: dict[str, Any]) -> str:
    """One event as a line of text."""
    step = event["step"]
    if event["event"] == "waiting":
        since = datetime.fromtimestamp(event["since"])
        limit = f"at most {event['limit_s']:,.0f} s"
        return f"waiting for nodes since {since:%H:%M}, {limit}: {event['why']}"
    if event["event"] == "started":
        if event.get("attempt", 1) == 1:
            return f"training starts, {event['steps']} steps"
        return (
            f"training resumes after step {step} of {event['steps']} (attempt {event['attempt']}, "
            f"{event['lost_steps']} steps repeated, {event['down_s']:.0f} s without training): "
            f"{event['why']}"
        )
    if event["event"] == "failed":
        return "; see ".join([f"failed: {event['why']}", *event["tracebacks"][:1]])
    if event["event"] == "untracked":
        return f"MLflow has the metrics up to step {step}, the rest is on disk: {event['why']}"
    if event["event"] == "finished":
        return f"step {step}: finished, {event['goodput']:.1%} of the time went into training"
    if event["event"] == "vocabulary":
        share = event["vocabulary/of_normalised/all"]
        return f"entity vocabulary: {share:.1%} of the mentions with an identifier"
    if event["event"] == "skipped":
        return f"step {step}: no update, {event['why']}"
    if event["event"] == "changed":
        changes = (f"{key} {old} -> {new}" for key, (old, new) in event["changes"].items())
        return f"step {step}: changed, {', '.join(changes)}"
    if event["event"] == "checkpoint_skipped":
        return f"step {step}: checkpoint skipped, {event['why']}"
    if event["event"] == "save_failed":
        return f"step {step}: no checkpoint, {event['why']}"
    if event["event"] == "saved":
        return f"step {step}: checkpoint saved"
    if event["event"] == "validation":
        return f"step {step}: validation  " + _numbers(event, "validation/")
    losses, grad = _numbers(event, "loss/"), event["grad_norm"]
    left = f"  {timedelta(seconds=event['eta_s'])} left" if event.get("eta_s") else ""
    return f"step {step}: loss  {losses}  grad {grad:.2f}  {speed(event)}{left}"


def speed(event: dict[str, Any]) -> str:
    """Tokens per second, MFU, and problems: waiting for data, damaged shards, skipped updates."""
    parts = [f"{event['tokens_per_s']:,.0f} tokens/s"]
    if "mfu" in event:
        parts.append(f"MFU {event['mfu']:.1%}")
    if event["waited_share"] >= 0.01:
        parts.append(f"{event['waited_share']:.0%} waiting for data")
    if damaged := event.get("shards_quarantined"):
        parts.append(f"{damaged:.0f} damaged shards in quarantine")
    if skipped := event.get("updates_skipped"):
        parts.append(f"{skipped:.0f} updates skipped")
    return "  ".join(parts)


def _numbers(event: dict[str, Any], prefix: str) -> str:
    """The metrics with a prefix, without those of single groups, which would fill the screen."""
    metrics = {k.removeprefix(prefix): v for k, v in event.items() if k.startswith(prefix)}
    return "  ".join(f"{k} {v:.3f}" for k, v in metrics.items() if k.count("/") <= 1)


def _show(name: str, console: Console, new: EventTail, stop: threading.Event) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        done = False
        while not done:
            done = stop.wait(LOOK_EVERY_S)
            for event in new.read():
                if event["event"] == "started":
                    bar.update(task, total=event["steps"], completed=event["step"])
                if event["event"] == "step":
                    losses = _numbers(event, "loss/")
                    description = f"{name}  {losses}  {speed(event)}"
                    bar.update(task, completed=event["step"], description=description)
                if event["event"] != "step" or not console.is_terminal:
                    console.print(f"  {describe(event)}", markup=False, highlight=False)

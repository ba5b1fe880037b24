"""Inject faults into real runs, and check what happens and whether anything is lost.

    make faults                                     all faults, half an hour on two cores
    python tools/bench/faults.py --quick            two faults, without Ray
    python tools/bench/faults.py --only "kill -9"

Every run is compared with an undisturbed one: the data of each step, losses and gradient norms to
the last bit, the exported weights. Losses are counted in steps. The last line is one JSON object.
"""

import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from fault_scene import (
    SAVE_EVERY,
    STEPS,
    Outcome,
    Scene,
    against,
    as_json,
    cluster,
    drain,
    fault_happened,
    last_line,
    numbers,
    steps_of,
    wait_for,
    worlds,
)
from rich.console import Console
from rich.table import Table

from embre.cli.options import run_script
from embre.tracking import read_events


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, the behaviour of the bare libraries, and the function that injects it."""

    name: str
    bare: str
    attempt: Callable[[Scene], Outcome]
    quick: bool = False


def worker_dies(point: str, happened: str) -> Callable[[Scene], Outcome]:
    """A fault in one worker under Ray, which restarts it by itself."""

    def attempt(scene: Scene) -> Outcome:
        name = point.replace(":", "-")
        return scene.finish(
            scene.start(scene.config(name), fault=point), scene.run_folder(name), happened=happened
        )

    return attempt


def driver_dies(scene: Scene) -> Outcome:
    config, folder = scene.config("driver"), scene.run_folder("driver")
    running = scene.start(config, fault="step:7:sleep:0")
    wait_for(lambda: fault_happened(folder), "the fault")
    wait_for(lambda: scene.processes() == 4, "two workers, each with a loader process", 5)
    running.kill()
    time.sleep(ENDS_WITHIN_S)
    left = scene.processes()
    running.end()
    if left:
        return Outcome(False, f"{left} processes outlived the driver", curve="none")
    return scene.finish(
        scene.start(config), folder, happened="no process left after 5 s; the same command resumed"
    )


def node_dies(scene: Scene) -> Outcome:
    """The node of a worker is lost; a spare node, added in the meantime, replaces it."""
    config, folder = scene.config("node"), scene.run_folder("node")
    with cluster(nodes=2) as (made, nodes):
        running = scene.start(config, fault="step:7:sleep", env={"RAY_ADDRESS": made.address})
        wait_for(lambda: fault_happened(folder), "the fault")
        made.add_node(num_cpus=1)
        made.remove_node(nodes[0], allow_graceful=False)
        return scene.finish(running, folder, happened="moved to the spare node")


def node_drains(scene: Scene) -> Outcome:
    """The node of a worker drains for ten seconds and is lost; a spare node replaces it.

    Nothing else makes this run save before its end, so the checkpoint it resumes from is that of
    the notice.
    """
    steps = 60 * STEPS  # more than are done in the ten seconds
    train = {
        "steps": steps,
        "save_every_steps": steps,
        "validate_every_steps": steps,
        "log_every_steps": 1,
    }
    config, folder = scene.config("drained", train=train), scene.run_folder("drained")
    code, output = scene.start(scene.config("drained-whole", train=train)).wait()
    if code:
        return Outcome(False, f"undisturbed, exit {code}: {last_line(output)}", curve="none")
    with cluster(nodes=2) as (made, nodes):
        running = scene.start(config, env={"RAY_ADDRESS": made.address})
        wait_for(lambda: len(steps_of(folder)) > 5, "the first steps")
        made.add_node(num_cpus=1)
        noticed = time.time()
        drain(made.address, nodes[0].node_id, NOTICE_S)
        time.sleep(NOTICE_S)  # Ray itself does not end a node whose time is over
        (folder / "fault-node-gone").touch()
        made.remove_node(nodes[0], allow_graceful=False)
        code, output = running.wait()
    if code:
        return Outcome(False, f"exit {code}: {last_line(output)}", curve="none")
    outcome = against(scene.run_folder("drained-whole"), folder)
    begun = [event["step"] for event in read_events(folder, "started")]
    saved = [(event["step"], event["time"]) for event in read_events(folder, "saved")]
    at, when = saved[0]
    outcome.happened += f"saved step {at} in {when - noticed:.1f} s, resumed from {begun[1:]}"
    in_time = noticed < when < noticed + NOTICE_S
    outcome.survived &= in_time and begun == [0, at] and len(saved) == 2
    return outcome


def nodes_come_and_go(scene: Scene) -> Outcome:
    """One of two nodes is lost without a replacement; another is added later."""
    launch = {"launcher": "ray", "workers": 2, "min_workers": 1, "resize_every_s": 5}
    steps = 3 * STEPS
    config = scene.config("elastic", launch=launch, train__steps=steps)
    folder = scene.run_folder("elastic")
    whole = scene.config("elastic-whole", train__steps=steps)
    code, output = scene.start(whole).wait()
    with cluster(nodes=2) as (made, nodes):
        fault = f"step:7:sleep,step:{steps - 8}:sleep"
        running = scene.start(config, fault=fault, env={"RAY_ADDRESS": made.address})
        wait_for(lambda: fault_happened(folder), "the fault")
        made.remove_node(nodes[0], allow_graceful=False)
        wait_for(lambda: worlds(folder)[-1:] == [1], "one worker alone")
        made.add_node(num_cpus=1)
        code, output = running.wait()
    if code:
        return Outcome(False, f"exit {code}: {last_line(output)}", curve="none")
    outcome = against(scene.run_folder("elastic-whole"), folder, attempts=3)
    grew = worlds(folder)
    outcome.happened = f"continued with {' then '.join(map(str, grew))} workers"
    return as_resized(outcome, grew[:1] == [2] and 1 in grew and grew[-1] == 2)


def head_dies(scene: Scene) -> Outcome:
    config, folder = scene.config("head"), scene.run_folder("head")
    with cluster(nodes=2) as (made, _):
        running = scene.start(config, fault="step:7:sleep", env={"RAY_ADDRESS": made.address})
        wait_for(lambda: fault_happened(folder), "the fault")
        made.head_node.kill_gcs_server()
        code, output = running.wait(120)
    if code == 0:
        return Outcome(False, "exit 0 without a head", curve="none")
    return scene.finish(
        scene.start(config), folder, happened="the driver failed; the same command resumed"
    )


def asked_to_stop(scene: Scene) -> Outcome:
    config, folder = scene.config("sigterm"), scene.run_folder("sigterm")
    running = scene.start(config, fault="step:7:sleep:0")
    wait_for(lambda: fault_happened(folder), "the fault")
    running.terminate()
    code, output = running.wait()
    saved = max((event["step"] for event in read_events(folder, "saved")), default=0)
    if code != 143 or saved % SAVE_EVERY == 0:
        return Outcome(False, f"exit {code}, saved {saved}: {last_line(output)}", curve="none")
    return scene.finish(
        scene.start(config), folder, happened=f"saved step {saved}, exit 143; no step repeated"
    )


def ray_record_torn(scene: Scene) -> Outcome:
    """Ray's own record of the run is truncated when the driver starts again."""
    config, folder = scene.config("torn"), scene.run_folder("torn")
    running = scene.start(config, fault="step:7:sleep:0")
    wait_for(lambda: fault_happened(folder), "the fault")
    running.kill()
    running.end()
    for path in folder.glob("attempts/*/ray/**/*.json"):
        path.write_text(path.read_text()[:5])
    return scene.finish(scene.start(config), folder, happened="Ray's record is not used")


def damaged_checkpoint(how: str) -> Callable[[Scene], Outcome]:
    """The newest checkpoint is damaged between two starts on two ranks of torchrun."""

    def attempt(scene: Scene) -> Outcome:
        name = f"damaged-{how}"
        config = scene.config(name, launch={"launcher": "local"})
        folder = scene.run_folder(name)
        scene.start(config, fault="step:11:raise", ranks=2).wait()
        newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
        file = newest / "rank-001.safetensors"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        if how == "missing":
            file.unlink()
        else:
            file.write_bytes(data[: len(data) // 2] if how == "cut" else bytes(data))
        code, output = scene.start(config, ranks=2).wait()
        if code:
            return Outcome(False, f"exit {code}: {last_line(output)}", curve="none")
        begun = [event["step"] for event in read_events(folder, "started")]
        outcome = scene.compare(folder, ranks=2, happened=f"resumed from step {begun[-1]}")
        num_skipped = len(list(read_events(folder, "checkpoint_skipped")))
        outcome.survived &= begun[-1] == SAVE_EVERY and num_skipped == 1
        return outcome

    return attempt


def disk_full(scene: Scene) -> Outcome:
    config = scene.config("full", launch={"launcher": "local"})
    folder = scene.run_folder("full")
    code, output = scene.start(config, fault="checkpoint_written:2:enospc:0", ranks=2).wait()
    named = "No space left on device" in output
    before = [path.name for path in sorted((folder / "checkpoints").glob("step-*"))]
    if code == 0 or not named or before != [f"step-{SAVE_EVERY:09d}"]:
        return Outcome(False, f"exit {code}, {before}: {last_line(output)}", curve="none")
    return scene.finish(
        scene.start(config, ranks=2),
        folder,
        ranks=2,
        happened="an error message, exit 1; the earlier checkpoint was kept",
    )


def resized(scene: Scene) -> Outcome:
    """Two ranks, then one, then two: the data is the same, sums are added in another order."""
    config = scene.config("resized", launch={"launcher": "local"})
    folder = scene.run_folder("resized")
    for ranks, fault in ((2, "step:6:raise"), (1, "step:7:raise"), (2, "")):
        for mark in folder.glob("fault-*"):
            mark.unlink()
        code, output = scene.start(config, fault=fault, ranks=ranks).wait()
    if code:
        return Outcome(False, f"exit {code}: {last_line(output)}", curve="none")
    return as_resized(scene.compare(folder, ranks=2, happened="2, 1, 2 ranks", attempts=3))


def as_resized(outcome: Outcome, came_and_went: bool = True) -> Outcome:
    """The outcome of a run on changing numbers of ranks, whose losses may differ by 1e-5."""
    apart = float(outcome.curve.split()[0]) if "apart" in outcome.curve else 0.0
    same_data = not outcome.lost and not outcome.repeated
    outcome.survived = came_and_went and outcome.clean and same_data and apart <= 1e-5
    outcome.curve = f"equal to {apart:.0e}" if outcome.survived else outcome.curve
    return outcome


def damaged_shard(how: str) -> Callable[[Scene], Outcome]:
    """A shard is truncated or has one bit flipped: the run must not train on it."""

    def attempt(scene: Scene) -> Outcome:
        path = sorted((scene.folder / "shards").glob("train-*.tar"))[1]
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[len(changed) // 2] ^= 1
        path.write_bytes(whole[: len(whole) // 2] if how == "cut" else bytes(changed))
        try:
            config = scene.config(f"shard-{how}", launch={"launcher": "local"})
            code, output = scene.start(config, ranks=1).wait()
        finally:
            path.write_bytes(whole)
        named = path.name in output and "damaged" in output
        done = len(steps_of(scene.run_folder(f"shard-{how}")))
        return Outcome(
            survived=code != 0 and named,
            happened=f"exit {code} after {done} steps, names the shard"
            if named
            else last_line(output),
            curve=REFUSED,
        )

    return attempt


def left_out(scene: Scene) -> Outcome:
    """The loss of one rank is not finite, once: all ranks skip that update and continue."""
    folder = scene.run_folder("nan")
    code, output = scene.start(scene.config("nan"), fault="loss:7:nan:1").wait()
    if code:
        return Outcome(False, f"exit {code}: {last_line(output)}", curve="none")
    outcome = scene.compare(folder, attempts=1)
    skipped = [(event["step"], len(event["documents"])) for event in read_events(folder, "skipped")]
    if len(skipped) != 1:
        return Outcome(False, f"skipped: {skipped}", curve=outcome.curve)
    ((at, documents),) = skipped
    wanted, found = steps_of(scene.reference()), steps_of(folder)
    before = all(numbers(wanted[step]) == numbers(found[step]) for step in range(1, at))
    after = all(math.isfinite(n) for step in range(at + 1, STEPS + 1) for n in numbers(found[step]))
    return Outcome(
        survived=before and after and not outcome.lost and not outcome.repeated,
        happened=f"all ranks skipped the update of step {at}, logged with its {documents} "
        "documents, and continued",
        lost=outcome.lost,
        repeated=outcome.repeated,
        curve="without that step",
    )


def diverges(scene: Scene) -> Outcome:
    """The weights diverge: from the second step on no loss is finite."""
    config = scene.config("diverged", optimizer={"peak_lr": 1e30}, launch__max_failures=2)
    code, output = scene.start(config).wait()
    folder = scene.run_folder("diverged")
    starts = len(list(read_events(folder, "started")))
    named = "updates in a row were skipped" in output
    return Outcome(
        survived=code == 1 and named and starts == 1,
        happened="after three steps all ranks stop, no restart; step and documents are named"
        if named
        else last_line(output),
        curve=REFUSED,
    )


def tracking_down(scene: Scene) -> Outcome:
    """No MLflow server responds."""
    config = scene.config("no-mlflow", tracking={"uri": "http://127.0.0.1:9"})
    code, output = scene.start(config).wait()
    if code:
        return Outcome(False, f"exit {code}: {last_line(output)}", curve="none")
    folder = scene.run_folder("no-mlflow")
    return scene.compare(folder, happened="a warning; events stay on disk", attempts=1)


def tried(fault: Fault, scene: Scene) -> Outcome:
    """Inject a fault; returns its outcome.

    Afterwards no process may be left, and each run must be closed in MLflow with its status.
    """
    before = scene.statuses()
    try:
        outcome = fault.attempt(scene)
    except RuntimeError as error:
        return Outcome(False, str(error)[:160], curve="none")
    wanted = ["FAILED" if outcome.curve == REFUSED else "FINISHED"]
    runs = {name: found for name, found in scene.statuses().items() if name not in before}
    if any(found != wanted for found in runs.values()):
        outcome.survived = False
        outcome.happened += f"; in MLflow: {runs}"
    time.sleep(ENDS_WITHIN_S)
    if left := scene.processes():
        outcome.survived = False
        outcome.happened += f"; {left} processes left"
    return outcome


ENDS_WITHIN_S = 5
NOTICE_S = 10  # between the notice and the end of a node
REFUSED = "–"  # instead of a curve: there must be none
KILLED = "restarted from the last checkpoint by itself"
FAULTS = [
    Fault("kill -9 of rank 0", "Ray restarts", worker_dies("step:7:kill9:0", KILLED)),
    Fault("kill -9 of rank 1", "Ray restarts", worker_dies("step:7:kill9:1", KILLED)),
    Fault(
        "kill -9 right after a commit",
        "Ray loses the checkpoint",
        worker_dies("checkpoint_committed:2:kill9:0", "the committed checkpoint is used"),
    ),
    Fault(
        "kill -9 of rank 1 while it saves",
        "DeepSpeed's `latest` names a broken one",
        worker_dies("checkpoint_written:2:kill9:1", "the earlier checkpoint is used"),
    ),
    Fault(
        "a rank hangs (SIGSTOP)",
        "Ray waits 600 s",
        worker_dies("step:7:stop:1", "given up after 10 s (default 120), restarted"),
    ),
    Fault("kill -9 of the driver", "a new run from the last report", driver_dies),
    Fault("a node dies", "Ray restarts; a worker may outlive its node", node_dies),
    Fault("a node drains (spot notice)", "Ray gives notice, which must be polled", node_drains),
    Fault("nodes go and come back", "Ray alone keeps no data order", nodes_come_and_go),
    Fault("the head dies", "the driver fails, workers may stay", head_dies),
    Fault("SIGTERM to the driver", "ends at once, work since the last report lost", asked_to_stop),
    Fault("Ray's record torn", "no restart until repaired by hand", ray_record_torn),
    Fault(
        "a checkpoint's file is gone",
        "a rank fails, the other hangs",
        damaged_checkpoint("missing"),
    ),
    Fault("a checkpoint's file is cut", "a rank fails, the other hangs", damaged_checkpoint("cut")),
    Fault(
        "a checkpoint has a bit flipped",
        "loaded silently",
        damaged_checkpoint("flipped"),
        quick=True,
    ),
    Fault("the disk is full while saving", "a traceback, half a checkpoint", disk_full),
    Fault("2, 1 and 2 ranks", "refused by DeepSpeed", resized),
    Fault("a shard is cut", "WebDataset drops the rest", damaged_shard("cut")),
    Fault(
        "a shard has a bit flipped", "WebDataset delivers it", damaged_shard("flipped"), quick=True
    ),
    Fault("one loss is not finite", "DeepSpeed skips it or trains on", left_out),
    Fault("all losses are not finite", "DeepSpeed skips forever", diverges),
    Fault("MLflow does not respond", "blocks for minutes", tracking_down),
]


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Two faults, without Ray, in a minute.")
    ] = False,
    only: Annotated[str, typer.Option(help="Only faults whose name contains this.")] = "",
) -> None:
    """Inject the faults and print the outcomes."""
    console = Console(soft_wrap=True, highlight=False)
    chosen = [f for f in FAULTS if only in f.name and (f.quick or not quick)]
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EMBRE_FAULT_SCENE"] = folder  # by which its processes are recognized
        scene = Scene.build(Path(folder))
        for fault in chosen:
            started = time.monotonic()
            outcomes[fault.name] = outcome = tried(fault, scene)
            verdict = "survived" if outcome.survived else "NOT SURVIVED"
            took_s = time.monotonic() - started
            console.print(f"{fault.name}: {verdict} ({took_s:.0f} s)", markup=False)
    console.print(as_table(chosen, outcomes))
    print(as_json(outcomes))
    raise typer.Exit(0 if all(one.survived for one in outcomes.values()) else 1)


def as_table(faults: list[Fault], outcomes: dict[str, Outcome]) -> Table:
    table = Table(title=f"faults in runs of {STEPS} steps, saved every {SAVE_EVERY}")
    for column in ("fault", "what happened", "the bare libraries", "s", "lost", "again", "curve"):
        table.add_column(column, justify="right" if column in ("s", "lost", "again") else "left")
    for fault in faults:
        one = outcomes[fault.name]
        seconds = "–" if one.recovery_s is None else f"{one.recovery_s:.0f}"
        happened = one.happened if one.survived else f"NOT SURVIVED: {one.happened}"
        numbers = (seconds, str(one.lost), str(one.repeated), one.curve)
        table.add_row(fault.name, happened, fault.bare, *numbers)
    return table


if __name__ == "__main__":
    run_script(main)

"""Carries out a study: its runs as processes of this machine or as tasks of a Ray cluster."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from embre.atomic_files import write_atomic
from embre.config import StudyConfig, dump_config, refuse_secrets
from embre.launch.driver import resolve
from embre.launch.errors import RunFailed
from embre.launch.request_checks import check_resume
from embre.provenance import CONFIG
from embre.study.cells import Run, finetuning_runs, is_done, pretraining_runs, study_folder
from embre.study.table import write_results
from embre.workers import Processes, Workers, num_cores

TABLE_EVERY_S = 60
LOG = "study.log"  # in a run's folder: what it printed


class Done(NamedTuple):
    """How a run ended: its name, 0 or another exit code, and the last it said."""

    name: str
    code: int
    last_words: str


def carry_out_study(
    study: StudyConfig, workers: Workers, console: Console, of_encoders: Workers | None = None
) -> Path:
    """Run what is not done yet, encoders first, and write the table now and then.

    `of_encoders` carry out the pretraining runs, where not `workers` do: one such run is made to
    fill a machine, and two on one GPU take turns.

    Returns the table's path. Runs that fail are named and the others go on; raises RunFailed at
    the end where there were any, and ConfigError before anything is written where the config of
    any run has a secret in it.
    """
    plan = [
        ("pretraining", pretraining_runs(study), of_encoders or workers),
        ("fine-tuning", finetuning_runs(study), workers),
    ]
    for _, runs, _ in plan:
        for run in runs:
            refuse_secrets(run.config)
    failed: list[Done] = []
    written = time.monotonic()
    for what, runs, who in plan:
        lost = {one.name for one in failed}  # encoders: what needs one would fail too
        runs = [r for r in runs if Path(r.config.encoder.path).parent.name not in lost]
        left = [run for run in runs if not is_done(run)]
        console.print(f"{what}: {len(runs) - len(left)} of {len(runs)} runs are done")
        for done in who.run(carry_out_run, _calls(left, _threads(who))):
            if time.monotonic() - written > TABLE_EVERY_S:
                write_results(study)
                written = time.monotonic()
            if done.code:
                failed.append(done)
            said = f"failed ({done.code}): {done.last_words}" if done.code else "done"
            console.print(f"  {done.name}: {said}", markup=False)
    table = write_results(study)
    if failed:
        folder = study_folder(study)
        raise RunFailed(
            f"{len(failed)} runs failed, as {failed[0].name}: {failed[0].last_words}; see "
            f"{folder}/{failed[0].name}/{LOG}; the same command runs what is not done"
        )
    return table


def carry_out_run(kind: str, folder: str, threads: Mapping[str, str]) -> Done:
    """One run, by the command that a user would give; what it prints goes into its folder.

    `threads` are for its environment, where that does not say otherwise.

    When this process ends, whatever ends it, the run saves and stops.
    """
    place = Path(folder)
    command = [sys.executable, "-m", "embre.cli.tied", kind, str(place / CONFIG)]
    with (
        (place / LOG).open("ab") as log,
        # In a session of its own: Ctrl-C at the terminal ends the starter, and by the pipe the run.
        subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.PIPE,
            start_new_session=True,
            env={**threads, **os.environ},
        ) as run,
    ):
        code = run.wait()
    lines = (place / LOG).read_text(errors="replace").strip().splitlines() or [""]
    return Done(place.name, code, lines[-1])


def _threads(workers: Workers) -> dict[str, str]:
    """What runs that share a machine may take of it; each would take all cores."""
    if not isinstance(workers, Processes):
        return {}
    return {"OMP_NUM_THREADS": str(max(1, num_cores() // workers.number))}


def _calls(
    runs: Iterable[Run], threads: Mapping[str, str]
) -> Iterable[tuple[str, str, Mapping[str, str]]]:
    for run in runs:
        config = resolve(run.config)  # a worker of a cluster is in another folder
        folder = Path(config.storage) / config.name
        folder.mkdir(parents=True, exist_ok=True)
        check_resume(config, folder)
        write_atomic(folder / CONFIG, dump_config(config).encode())
        yield run.kind, str(folder), threads

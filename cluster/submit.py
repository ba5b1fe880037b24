"""Submits a run to a Ray cluster as a job, follows it, and exits with its exit code.

    python cluster/submit.py pretrain configs/pretrain/base.yaml --root /mnt/embre \
        --address http://127.0.0.1:8265 train.steps=20000

The project's code and the config are sent as one zip. `--root` is the folder that all nodes share;
relative paths of the config are resolved there. Run the same command again to resume. Ctrl-C ends
this command, not the job. `--dry-run` prints what would be sent and sends nothing.
"""

import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from job_package import Package, write_package
from job_secrets import environment, refuse_secrets, use_token
from jobs import (
    RUN,
    STORAGE,
    check_address,
    connect,
    follow,
    is_unencrypted,
    running_job,
)

from embre.cli.options import run_script
from embre.config import FinetuneConfig, PretrainConfig, RunConfig, load_config
from embre.config.places import is_url, sqlite_file
from embre.launch.errors import exit_on_error
from embre.refused import Refused

PROJECT = Path(__file__).resolve().parents[1]
KINDS: dict[str, type[RunConfig]] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}
STOP_WAIT_S = 300  # time a stopped job has to save before Ray kills it
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to submit to Ray."""

    submission_id: str
    entrypoint: str
    metadata: dict[str, str]
    env_vars: dict[str, str]
    package: Package

    def shown(self, address: str | None) -> str:
        """What is sent, as JSON."""
        files = [name for name, _ in self.package.files]
        sent = {
            "address": address,
            "submission_id": self.submission_id,
            "entrypoint": self.entrypoint,
            "metadata": self.metadata,
            "runtime_env": {"env_vars": self.env_vars, "working_dir": files},
            "working_dir_bytes": self.package.num_bytes,
        }
        return json.dumps(sent, indent=1)


def prepare(
    kind: str,
    path: Path,
    overrides: list[str],
    root: str | None,
    names: list[str],
    zipped: Path,
    allow_change: Sequence[str] = (),
) -> Submission:
    """Prepare the job of a run from the config at `path`, and write its package to `zipped`.

    `root` is the folder that all nodes share, `names` are the environment variables to pass,
    `allow_change` is as in `embre`. Raises Refused, with a remedy, if the job cannot be sent.
    """
    if kind not in KINDS:
        raise Refused(f"{kind}: not a kind of job; known are {', '.join(KINDS)}")
    config = load_config(KINDS[kind], path, overrides)
    overrides = [*overrides, *shared_paths(config, root)]
    if config.launch.launcher != "ray":  # other launchers would run on the head node only
        overrides.append("launch.launcher=ray")
    if config.deepspeed:  # it may come from a JSON file that only this machine has
        overrides.append(f"deepspeed={json.dumps(config.deepspeed)}")
    config = load_config(KINDS[kind], path, overrides)
    package, name = write_package(PROJECT, path, zipped)
    env_vars = environment(names, os.environ)
    allowed = [f"--allow-change={key}" for key in allow_change]
    entrypoint = shlex.join(["python", "-m", "embre", kind, name, *overrides, *allowed])
    texts = {str(path): path.read_text(), "the overrides": " ".join(overrides)}
    refuse_secrets(texts | {f"--env {key}": value for key, value in env_vars.items()}, os.environ)
    return Submission(
        submission_id=f"{config.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}",
        entrypoint=entrypoint,
        # Runs are compared by these texts; the path has no slash at its end.
        metadata={
            "embre.kind": kind,
            RUN: config.name,
            STORAGE: str(PurePosixPath(config.storage)),
        },
        env_vars={"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **env_vars},
        package=package,
    )


def shared_paths(config: RunConfig, root: str | None) -> list[str]:
    """Overrides that move a config's relative paths below `root`, the folder that all nodes share.

    Raises Refused if there are relative paths and no `root`: a job's working directory is on the
    head node, and Ray removes it.
    """
    if root is not None and not PurePosixPath(root).is_absolute():
        raise Refused(f"--root {root}: give an absolute path, such as /mnt/embre")
    if (file := sqlite_file(config.tracking.uri or "")) and not file.is_absolute():
        raise Refused(
            "tracking.uri: a relative file; remove the key to keep it in the storage folder"
        )
    moved: dict[str, str] = {}

    def shared(key: str, path: str) -> str:
        if is_relative(path):
            path = moved[key] = str(PurePosixPath(root or "") / path)
        return path

    values = config.with_paths(shared).model_dump(mode="json")
    if moved and root is None:
        named = ", ".join(f"{key}={path}" for key, path in moved.items())
        raise Refused(
            f"these paths are relative: {named}; give --root FOLDER, the folder that all nodes "
            "share, or absolute paths"
        )
    overrides = [f"{key}={path}" for key, path in moved.items() if "extra_corpora" not in key]
    if len(overrides) < len(moved):  # a list can only be overridden as a whole
        overrides.append(f"data.extra_corpora={json.dumps(values['data']['extra_corpora'])}")
    return overrides


def is_relative(path: str) -> bool:
    """Whether a path depends on the working directory; URLs and registered models do not. Raises
    Refused for a path that begins with ~."""
    if path.startswith("~"):
        raise Refused(f"{path}: ~ differs between nodes; give an absolute path")
    return not is_url(path) and not PurePosixPath(path).is_absolute()


def send(job: Submission, address: str) -> int:
    """Submit a job and follow it; returns the exit code. Raises Refused if a job of the same run is
    running."""
    if is_unencrypted(address):
        warn(f"{address}: token and job are sent unencrypted; use https or a tunnel")
    if not use_token():
        warn("no token found: a cluster without token authentication runs anybody's jobs")
    client = connect(address)
    running = running_job(client, job.metadata[RUN], job.metadata[STORAGE])
    if running:
        run = job.metadata[RUN]
        raise Refused(
            f"{run}: a job of this run is running, {running}; {how_to_follow(running, address)}"
        )
    client.submit_job(
        entrypoint=job.entrypoint,
        submission_id=job.submission_id,
        metadata=job.metadata,
        runtime_env={"working_dir": str(job.package.path), "env_vars": job.env_vars},
    )
    print(f"job {job.submission_id} at {address}", flush=True)
    try:
        return follow(client, job.submission_id)
    except KeyboardInterrupt:
        print(
            f"\nthe job keeps running; {how_to_follow(job.submission_id, address)}",
            file=sys.stderr,
        )
        return INTERRUPTED


def how_to_follow(job: str, address: str) -> str:
    """Message with the commands that follow and stop a running job."""
    return (
        f"follow it with `ray job logs --follow --address {address} {job}`, "
        f"stop it (it saves first) with `ray job stop --address {address} {job}`"
    )


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


@exit_on_error()
def main(
    kind: Annotated[str, typer.Argument(help="pretrain or finetune.")],
    config: Annotated[Path, typer.Argument(help="YAML file of the run; see configs/.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, such as train.steps=200.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="URL of the cluster's dashboard.", envvar="RAY_API_SERVER_ADDRESS"),
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="Folder that all nodes share, for relative paths.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Environment variable to pass to the job with its value here. May be given "
            "several times.",
        ),
    ] = None,
    allow_change: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="As in `embre`: let a resumed run change this key. May be given several times.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent, and exit.")
    ] = False,
) -> None:
    """Submit a run to a Ray cluster, follow it, and exit with its exit code."""
    address = check_address(address) if address else None
    with tempfile.TemporaryDirectory() as scratch:
        zipped = Path(scratch) / "project.zip"
        job = prepare(kind, config, overrides or [], root, env or [], zipped, allow_change or ())
        if dry_run:
            print(job.shown(address))
            return
        if address is None:
            raise Refused("give --address, or --dry-run to see what would be sent")
        code = send(job, address)
    raise typer.Exit(code)


if __name__ == "__main__":
    run_script(main)

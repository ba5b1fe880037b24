"""The ready files are what their tools read: Ray's launcher, Kubernetes, KubeRay, Slurm's shell."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from job_package import SENT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from embre.config import load_config

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHER = ["aws.yaml", "gcp.yaml"]
RAY_JOBS = ["pretrain.yaml", "finetune.yaml"]
PODS = ["files.yaml", "shard.yaml"]
RAY = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
POSITIVE = {"type": "integer", "minimum": 1}


def closed(required: str, **properties: Any) -> dict[str, Any]:
    """A JSON schema of an object with these properties and no other."""
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


# KubeRay's own fields (ray.io/v1, KubeRay 1.5), as far as these files use them. Its whole schema
# is in its chart and in no package; the pods in it are held to that of Kubernetes below.
POD: dict[str, Any] = {"type": "object", "required": ["spec"]}
RAY_JOB = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=closed("name", name={"type": "string", "pattern": "^[a-z][a-z0-9-]{0,46}$"}),
    spec=closed(
        "entrypoint rayClusterSpec shutdownAfterJobFinishes backoffLimit activeDeadlineSeconds",
        entrypoint={"type": "string"},
        backoffLimit=POSITIVE,
        activeDeadlineSeconds=POSITIVE,
        shutdownAfterJobFinishes={"const": True},
        ttlSecondsAfterFinished=POSITIVE,
        submitterConfig=closed("backoffLimit", backoffLimit={"type": "integer"}),
        submitterPodTemplate=POD,
        rayClusterSpec=closed(
            "rayVersion authOptions headGroupSpec workerGroupSpecs",
            rayVersion={"type": "string"},
            authOptions=closed("mode", mode={"const": "token"}),
            headGroupSpec=closed(
                "rayStartParams template",
                serviceType={"const": "ClusterIP"},
                rayStartParams=STRINGS,
                template=POD,
            ),
            workerGroupSpecs={
                "type": "array",
                "items": closed(
                    "groupName rayStartParams template replicas minReplicas maxReplicas",
                    groupName={"type": "string"},
                    replicas=POSITIVE,
                    minReplicas=POSITIVE,
                    maxReplicas=POSITIVE,
                    rayStartParams=STRINGS,
                    template=POD,
                ),
            },
        ),
    ),
)


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


@pytest.mark.parametrize("name", LAUNCHER)
def test_rays_launcher_accepts_the_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read(name))
    validate_config(config)
    head, worker = (config["available_node_types"][kind] for kind in ("head", "a100x8"))
    assert head["resources"] == {"CPU": 0}, "the head takes no worker"
    launch = load_config_of_base().launch
    assert worker["min_workers"] * worker["resources"]["GPU"] >= launch.workers
    assert worker["resources"]["CPU"] >= launch.workers * launch.cpus_per_worker


@pytest.mark.parametrize("name", LAUNCHER)
def test_a_launched_cluster_asks_for_a_token_and_its_dashboard_is_on_loopback(name: str) -> None:
    config = read(name)
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    heads = [command for command in starts if "--head" in command]
    assert heads and all("--dashboard-host=127.0.0.1" in command for command in heads)
    assert any(place.endswith(".ray/auth_token") for place in config["file_mounts"])
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]


@pytest.mark.parametrize("name", LAUNCHER)
def test_what_is_mounted_makes_the_whole_package_and_is_nothing_of_a_users(
    name: str, tmp_path: Path
) -> None:
    config, home = read(name), "/home/ubuntu/embre/"
    mounts = dict(config["file_mounts"])
    assert mounts.pop("/home/ubuntu/.ray/auth_token") == "~/.ray/auth_token"
    assert mounts == {home + part: part for part in SENT}, "as with a job"
    left_out = shutil.ignore_patterns(*config["rsync_exclude"])
    for place, part in mounts.items():
        there = tmp_path / place.removeprefix(home)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, there, ignore=left_out)
        else:
            shutil.copy(ROOT / part, there)
    (wheel,) = WheelBuilder(str(tmp_path)).build(directory=str(tmp_path / "dist"))
    installed = set(zipfile.ZipFile(wheel).namelist())
    assert {
        file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()
    } <= (installed)
    assert "embre/py.typed" in installed, "type checkers take its annotations"
    assert any(name.endswith("licenses/LICENSE") for name in installed)
    assert (tmp_path / "cluster/spot_notice.py").exists(), "a node's start needs it"


def load_config_of_base() -> Any:
    from embre.config import PretrainConfig

    return load_config(PretrainConfig, ROOT / "configs/pretrain/base.yaml")


@pytest.mark.parametrize("name", RAY_JOBS)
def test_a_ray_job_has_the_fields_of_kuberay(name: str) -> None:
    job = read(f"kubernetes/{name}")
    jsonschema.validate(job, RAY_JOB)
    assert RAY and job["spec"]["rayClusterSpec"]["rayVersion"] == RAY.group(1)


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod specs: of a RayJob head, workers and submitter; of a Pod or a Job the only one."""
    if job["kind"] == "Pod":
        return [job["spec"]]
    if job["kind"] == "Job":
        return [job["spec"]["template"]["spec"]]
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    templates = [group["template"] for group in groups] + [job["spec"]["submitterPodTemplate"]]
    return [template["spec"] for template in templates]


@pytest.mark.parametrize("name", RAY_JOBS)
def test_the_pods_and_the_storage_have_the_fields_of_kubernetes(name: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install -e '.[dev]'").validate
    job = read(f"kubernetes/{name}")
    meta = {"name": "pod"}
    for spec in pods(job):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        validate(pod, "1.34", strict=True)
    storage = read("kubernetes/storage.yaml")
    validate(storage, "1.34", strict=True)
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for spec in pods(job)
        for volume in spec.get("volumes", [])
        if "persistentVolumeClaim" in volume
    ]
    assert claims == [storage["metadata"]["name"]] * 2, "head and workers share it"


@pytest.mark.parametrize("name", PODS)
def test_a_pod_that_fills_the_storage_has_the_image_and_the_claim_of_the_jobs(name: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install -e '.[dev]'").validate
    filler = read(f"kubernetes/{name}")
    validate(filler, "1.34", strict=True)
    (pod,) = pods(filler)
    head, *_ = pods(read(f"kubernetes/{RAY_JOBS[0]}"))
    assert pod["containers"][0]["image"] == head["containers"][0]["image"]
    assert pod["volumes"][0] == head["volumes"][0]
    mounts = [spec["containers"][0]["volumeMounts"][0] for spec in (pod, head)]
    assert mounts[0] == mounts[1]


@pytest.mark.parametrize("name", [*RAY_JOBS, *PODS])
def test_no_pod_is_root_and_secrets_stand_elsewhere(name: str) -> None:
    job = read(f"kubernetes/{name}")
    for spec in pods(job):
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001  # that of the Dockerfile
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            if "nvidia.com/gpu" not in container["resources"]["limits"]:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
            if container["name"] != "ray-job-submitter":
                mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
                homes = [v["value"] for v in container["env"] if v["name"] == "HOME"]
                empty = {volume["name"] for volume in spec["volumes"] if "emptyDir" in volume}
                assert {mounts[place] for place in ("/tmp", *homes)} <= empty
            for variable in container.get("env", []):
                secret = re.search("KEY|PASSWORD|TOKEN|SECRET", variable["name"])
                assert not secret or "secretKeyRef" in variable["valueFrom"]


@pytest.mark.parametrize("name", RAY_JOBS)
def test_the_job_of_a_ray_job_is_a_command_of_ours_that_fits_its_pods(name: str) -> None:
    from embre.config import FinetuneConfig, PretrainConfig

    job = read(f"kubernetes/{name}")
    embre, kind, path, *overrides = job["spec"]["entrypoint"].split()
    assert embre == "embre"
    config = load_config(
        {"pretrain": PretrainConfig, "finetune": FinetuneConfig}[kind],
        ROOT / Path(path).relative_to("/opt/embre"),
        overrides,
    )
    assert config.launch.launcher == "ray" and config.launch.use_gpu
    assert config.encoder.precision == "bf16", "a GPU is there"
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert group["minReplicas"] * int(limits["nvidia.com/gpu"]) >= config.launch.workers
    assert int(limits["cpu"]) >= config.launch.workers * config.launch.cpus_per_worker
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    for place in (config.storage, config.encoder.path):
        assert any(place.startswith(f"{mount}/") for mount in mounted)


SCRIPT = CLUSTER / "slurm/train.sbatch"


def test_the_slurm_script_is_clean_shell() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=path)
    assert shellcheck is not None, "pip install -e '.[dev]'"
    done = subprocess.run([shellcheck, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_slurm_is_asked_for_what_the_script_counts_on() -> None:
    head = SCRIPT.read_text().partition("\nset -")[0].splitlines()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", "\n".join(head), re.MULTILINE))
    assert asked["signal"] == "B:TERM@300", "the script alone, while a run has time to save"
    assert "requeue" in asked and asked["open-mode"] == "append"
    assert asked["ntasks-per-node"] == "1", "torchrun starts the ranks of a node"
    assert all(line.startswith("#") for line in head), "sbatch reads none after a command"


@contextmanager
def slurm(folder: Path, srun: str, *more: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """The script as a job, with commands that stand in for Slurm's; nothing of it stays behind."""
    commands = {
        "srun": srun,
        "scontrol": f'#!/bin/bash\necho "$*" >> {folder}/asked\n[ "$1" != show ] || '
        "seq -f node%g 20000",  # more than a pipe holds
    }
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environ = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "EMBRE_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_PER_TASK": "64",
        **environ,
    }
    config = ROOT / "configs/pretrain/base.yaml"
    command = ["bash", str(SCRIPT), "pretrain", str(config), f"storage={folder}", *more]
    job = subprocess.Popen(command, env=environ, cwd=folder, start_new_session=True)
    try:
        yield job
    finally:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def counting(folder: Path, last: str) -> str:
    """An `srun` that notes how it was called and ends as `last` says."""
    return f'#!/bin/bash\necho "$*" >> {folder}/steps\n{last}'


def test_slurm_starts_the_run_on_every_gpu_and_tries_again(tmp_path: Path) -> None:
    srun = counting(tmp_path, f'[ "$(wc -l < {tmp_path}/steps)" = 2 ]')
    with slurm(tmp_path, srun, SLURM_JOB_NUM_NODES="2") as job:
        assert job.wait(60) == 0
    first, second = (tmp_path / "steps").read_text().splitlines()
    options, module, asked = first.partition(" -m torch.distributed.run ")
    assert module and options.split()[:-1] == ["--cpus-per-task=64", "--kill-on-bad-exit=1"], (
        "srun has one core else, since Slurm 22.05; and the other nodes would wait for ever"
    )
    nodes, gpus, backend, endpoint, run_id, *command = asked.split()
    assert (nodes, gpus) == ("--nnodes=2", "--nproc-per-node=8")
    assert (backend, run_id) == ("--rdzv-backend=c10d", "--rdzv-id=7")
    assert endpoint.startswith("--rdzv-endpoint=node1:"), "the first node alone is the head"
    config = f"{ROOT}/configs/pretrain/base.yaml"
    assert command[:4] == ["-m", "embre", "pretrain", config]
    assert command[4:] == [f"storage={tmp_path}", "launch.launcher=local"]
    assert second.endswith(" ".join(command)) and "requeue" not in (tmp_path / "asked").read_text()


def test_slurm_gives_up_after_four_tries(tmp_path: Path) -> None:
    with slurm(tmp_path, counting(tmp_path, "exit 3")) as job:
        assert job.wait(60) == 1
    assert len((tmp_path / "steps").read_text().splitlines()) == 4
    assert "requeue" not in (tmp_path / "asked").read_text()


def test_a_wrong_config_is_no_use_to_slurm(tmp_path: Path) -> None:
    with slurm(tmp_path, counting(tmp_path, ""), "trian.steps=3") as job:
        assert job.wait(60) == 2
    assert not (tmp_path / "steps").exists()


def test_a_slurm_job_without_config_or_environment_says_what_to_give(tmp_path: Path) -> None:
    for given, said in (([], "give pretrain or finetune"), (["pretrain", "x"], "EMBRE_PYTHON")):
        command = ["bash", str(SCRIPT), *given]
        environ = {name: text for name, text in os.environ.items() if name != "EMBRE_PYTHON"}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environ)
        assert done.returncode == 2 and said in done.stderr


def test_slurm_does_not_repeat_a_run_that_a_rank_refused(tmp_path: Path) -> None:
    # The rank ends with 2 because its backbone is missing, torchrun with 1.
    rank = f'RANK=0 {sys.executable} -m embre "${{@:13}}" || exit 1'
    with slurm(tmp_path, counting(tmp_path, rank), f"encoder.path={tmp_path}/missing") as job:
        assert job.wait(60) == 2
    assert len((tmp_path / "steps").read_text().splitlines()) == 1
    assert "requeue" not in (tmp_path / "asked").read_text()
    assert not list(tmp_path.glob("*.refused"))


# A rank: it forgets what was asked before it began, and is here started twice.
RANK = """#!{python}
import sys, time
from pathlib import Path
from embre.interrupts import stop_requested, stoppable, watch
run = Path("{folder}/pubtator-base")
run.mkdir(exist_ok=True)
deadline = time.monotonic() + 40
for start in ("first", "second"):
    with stoppable(run):
        watch(run)
        Path("{folder}", start).touch()
        while not stop_requested():
            time.sleep(0.05)
            if time.monotonic() > deadline:
                sys.exit(1)
Path("{folder}/saved").touch()
sys.exit(1)
"""


def test_before_the_time_is_up_slurm_makes_the_run_save_and_queues_it_again(tmp_path: Path) -> None:
    srun = RANK.format(python=sys.executable, folder=tmp_path)
    with slurm(tmp_path, srun) as job:
        deadline = time.monotonic() + 60
        while not (tmp_path / "first").exists():
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        job.terminate()
        assert job.wait(60) == 143
    assert (tmp_path / "saved").exists(), "no rank was asked to stop"
    assert "requeue 7" in (tmp_path / "asked").read_text()


def test_the_container_is_pinned_and_not_root() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (base,) = (line for line in lines if line.startswith("FROM"))
    assert re.fullmatch(r"FROM python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", base)
    users = [line for line in lines if line.startswith("USER")]
    assert users == ["USER 10001"]
    (apt,) = (line for line in lines if "apt-get install" in line)
    assert {"g++", "wget"} <= set(apt.split()), "DeepSpeed compiles; KubeRay's health checks"
    installs = [line for line in lines if "pip install" in line]
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)
    assert all("--no-build-isolation" in line for line in installs), "a build fetches unchecked"
    assert not re.search("(?i)(token|secret|password|_key)=", "\n".join(lines))


def test_the_packages_of_the_container_are_what_was_tested_each_by_its_hash() -> None:
    lines = (ROOT / "requirements.image.txt").read_text().splitlines()
    packages = dict(line.split("==") for line in lines if not line.startswith("#"))
    for name, rest in packages.items():
        assert re.fullmatch(r"\S+ --hash=sha256:[0-9a-f]{64}", rest), name
    versions = {name: rest.split()[0] for name, rest in packages.items()}
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    tested = {canonicalize_name(name): version for name, version in tested.items()}
    assert {n: v for n, v in versions.items() if tested.get(n, v) != v} == {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["s3"], *extras["gs"]]
    for requirement in map(Requirement, [*wanted, *project["build-system"]["requires"]]):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier


def test_what_reads_foreign_files_and_models_is_not_older_than_its_mended_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {found.name: found.specifier for found in map(Requirement, project["dependencies"])}
    assert "3.17.1" not in wanted["mlflow"] and "3.17.2" in wanted["mlflow"]
    assert "6.0.2" not in wanted["lxml"] and "6.1.0" in wanted["lxml"]


def test_the_image_gets_what_is_named_and_nothing_else_of_the_folder() -> None:
    first, *lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert first == "*", "data, runs and keys of the folder would go into the image"
    given = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert sorted(given) == [
        *("LICENSE", "README.md", "cluster", "configs", "constraints.txt", "embre"),
        *("pyproject.toml", "requirements.image.txt", "tools"),
    ]
    assert all((ROOT / name).exists() for name in given)
    assert [line for line in lines if line[0] != "!"] == ["**/__pycache__", "**/*.pyc"]


def test_nothing_else_listens_on_all_addresses() -> None:
    for path in [
        *CLUSTER.rglob("*"),
        *(ROOT / "embre").rglob("*.py"),
        *(ROOT / "tools").rglob("*"),
    ]:
        if path.is_file() and path.suffix in (".py", ".yaml", ".sbatch"):
            assert "0.0.0.0" not in path.read_text(), path

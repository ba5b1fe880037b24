"""Register encoders and relation models in MLflow with their lineage, and fetch them.

A version is a pyfunc model from code, with safetensors weights and the code of this package: it
needs only its own requirements, and nothing in it is pickled.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.tracking import MlflowClient

from embre.atomic_files import atomic_folder
from embre.provenance import folder_digest, read_lineage
from embre.refused import Refused
from embre.tracking.runs import RunHandle, patient_mlflow, quiet_mlflow, tracking_at
from embre.tracking.uri import refuse_missing
from embre.tracking.versions import ABSENT, versions_of

PACKAGE = Path(__file__).resolve().parents[1]
# A version by number, stage, `latest` or alias, or the id of a logged model. A name may have an @.
MODEL_URI = re.compile(r"models:/(?=\S)([^/]+(/[^/]+|@[^/@]+)|m-[^/@]+)")
ARTIFACT = "model"
DIGEST = "embre.digest"
REQUIREMENTS = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "msgspec",
    "lxml",
    "fsspec",
    "isal",
)
EXAMPLE = [
    "1|t|BRAF in melanoma.\n1|a|BRAF drives melanoma.\n"
    "1\t0\t4\tBRAF\tGene\t673\n1\t8\t16\tmelanoma\tDisease\tMESH:D008545\n"
    "1\t18\t22\tBRAF\tGene\t673\n1\t30\t38\tmelanoma\tDisease\tMESH:D008545\n"
]
MODEL_FILES = {"encoder": "encoder_pyfunc.py", "relation_model": "relation_pyfunc.py"}
EXAMPLES = {"encoder": ["BRAF drives melanoma."], "relation_model": EXAMPLE}


def register(
    folder: Path,
    kind: str,
    name: str,
    alias: str | None,
    handle: RunHandle,
    scores: Mapping[str, float] = MappingProxyType({}),
) -> tuple[str, bool]:
    """Register a model folder as a version of its run; returns (version, whether it is new).

    `kind` is `encoder` or `relation_model`; `scores` become tags. The same folder is not registered
    twice.
    """
    quiet_mlflow()
    client = MlflowClient(handle.uri)
    digest = folder_digest(folder)
    known = versions_of(name, handle.uri)
    found = next((v.number for v in known if v.tags.get(DIGEST) == digest), None)
    if found is None:
        # MLflow prints to stderr what the command reports itself.
        quiet = redirect_stderr(io.StringIO())
        with tracking_at(handle.uri), quiet, _reopened(client, handle.run_id), patient_mlflow():
            info = mlflow.pyfunc.log_model(
                name=kind,
                python_model=str(Path(__file__).with_name(MODEL_FILES[kind])),
                artifacts={ARTIFACT: str(folder)},
                code_paths=[str(PACKAGE)],
                pip_requirements=requirements(),
                input_example=EXAMPLES[kind],
                registered_model_name=name,
            )
        number = str(info.registered_model_version)
        tags = {f"embre.{key}": str(value) for key, value in scores.items()}
        # The digest is set last: a version that has it is complete.
        for key, value in {**lineage_tags(folder), **tags, DIGEST: digest}.items():
            client.set_model_version_tag(name, number, key, value)
    else:
        number = found
    if alias:
        client.set_registered_model_alias(name, alias, number)
    return number, found is None


@contextmanager
def _reopened(client: MlflowClient, run_id: str) -> Iterator[None]:
    """Let MLflow's functions log to a run that has ended; restore its status and end time."""
    ended = client.get_run(run_id).info
    try:
        with mlflow.start_run(run_id=run_id):
            yield
    finally:
        if ended.end_time is None:
            client.update_run(run_id, status=ended.status)
        else:
            client.set_terminated(run_id, ended.status, ended.end_time)


def fetch(model_uri: str, tracking_uri: str, target: Path) -> Path:
    """Copy the model folder of a registered version (`models:/name@alias`) to `target`.

    Raises Refused if the registry has no such model, or if the files differ from those that were
    registered, and FileNotFoundError if there is no registry; `target` is then unchanged.
    """
    # By number from here on, because the alias may move.
    numbered, registered = find(model_uri, tracking_uri)
    # Otherwise MLflow would leave the download in the system's temporary folder.
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as scratch, atomic_folder(target) as partial:
        with _absence_refused(model_uri, tracking_uri), tracking_at(tracking_uri), patient_mlflow():
            found = Path(download_artifacts(numbered, dst_path=scratch))
        folders = [path.parent for path in (found / "artifacts").rglob("config.json")]
        if len(folders) != 1:
            raise Refused(f"{model_uri}: not a model of embre (no config.json)")
        folders[0].rename(partial)
        digest = folder_digest(partial)
        if digest != (registered or digest):  # a version made by other programs has none
            raise Refused(
                f"{model_uri}: its files have the digest {digest}, but {registered} was "
                "registered: they are damaged or were changed; register the model again"
            )
    return target


def find(model_uri: str, tracking_uri: str) -> tuple[str, str | None]:
    """The URI of a registered version by its number, and the digest it was registered with.

    Writes nothing. Raises as `fetch`.
    """
    if not MODEL_URI.fullmatch(model_uri):
        raise Refused(f"{model_uri}: give models:/NAME@ALIAS or models:/NAME/VERSION")
    refuse_missing(tracking_uri)
    quiet_mlflow()
    client = MlflowClient(tracking_uri)
    with _absence_refused(model_uri, tracking_uri), tracking_at(tracking_uri):
        name, *number = map(str, get_model_name_and_version(client, model_uri))
        if not number:  # the id of a model that was logged, but not registered
            client.get_logged_model(name)
            return model_uri, None
        version = client.get_model_version(name, number[0])
    return f"models:/{name}/{number[0]}", version.tags.get(DIGEST)


@contextmanager
def _absence_refused(model_uri: str, tracking_uri: str) -> Iterator[None]:
    """Raise Refused for an answer of MLflow that something does not exist; other errors, such as a
    server that does not respond, propagate."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        raise Refused(
            f"{model_uri}: the registry at {tracking_uri} has no such model ({error.message}); "
            "register one with `embre register RUN_FOLDER --name NAME --alias ALIAS`"
        ) from error


def lineage_tags(folder: Path) -> dict[str, str]:
    """The lineage recorded in a model's folder, as version tags."""
    return {f"embre.{key}": value for key, value in _flatten(read_lineage(folder))}


def requirements() -> list[str]:
    """The requirements of a registered model, pinned to the installed versions."""
    installed = {name: version(name).split("+")[0] for name in REQUIREMENTS}
    return [f"{name}=={number}" for name, number in installed.items()]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _flatten(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", str(value)))
    return found

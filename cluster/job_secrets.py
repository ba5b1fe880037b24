"""Selects the environment variables of a job, and refuses a job that contains a secret.

Everybody with access to the dashboard can read the entrypoint, metadata and runtime environment of
a Ray job, and Ray logs them. So a job contains no secrets; they are configured on the nodes.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from embre.config.secret_values import SECRET_NAME, SECRETS, SHORTEST_SECRET, secret_variables
from embre.refused import Refused

# Variables that may be passed: settings, never secrets.
PASSED = (
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "EMBRE_DEBUG",
    "EMBRE_FAULT",
    "HF_HUB_OFFLINE",
    "HTTPS_PROXY",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_URI",
    "NO_PROXY",
    "PYTORCH_CUDA_ALLOC_CONF",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
)
PASSED_PREFIXES = ("FI_", "GLOO_", "NCCL_", "TORCH_NCCL_")  # communication between ranks
REMEDY = (
    "everybody with access to the dashboard can read a job's metadata; configure secrets on the "
    "nodes instead (docs/CLUSTER.md, Secrets)"
)


def environment(names: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The named variables with their values in `environ`.

    Raises Refused, without showing the value, if a name may not be passed or is not set.
    """
    passed = {}
    for name in names:
        if "=" in name:
            name = name.split("=")[0]
            raise Refused(
                f"--env {name}: give the name alone; the value is read from the environment"
            )
        if SECRET_NAME.search(name):
            raise Refused(f"--env {name}: this variable may not be passed to a job; {REMEDY}")
        if name not in PASSED and not name.startswith(PASSED_PREFIXES):
            known = ", ".join([*PASSED, *(f"{prefix}*" for prefix in PASSED_PREFIXES)])
            raise Refused(f"--env {name}: this variable may not be passed; known are {known}")
        if name not in environ:
            raise Refused(f"--env {name}: not set; export it first")
        passed[name] = environ[name]
    return passed


def refuse_secrets(texts: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Raise Refused if a text contains something that looks like a secret, or the value of a
    variable of `environ` whose name marks it as one. The keys of `texts` name them in errors."""
    known = {f"the value of {name}": value for name, value in secret_variables(environ).items()}
    if token := ray_token(environ):
        known["this cluster's token"] = token
    for place, text in texts.items():
        for what, pattern in SECRETS.items():
            if pattern.search(text):
                raise Refused(f"{place}: {what} is in it; {REMEDY}")
        for what, value in known.items():
            if len(value) >= SHORTEST_SECRET and value in text:
                raise Refused(f"{place}: {what} is in it; {REMEDY}")


def ray_token_file(environ: Mapping[str, str]) -> Path:
    """The file that Ray reads its token from if RAY_AUTH_TOKEN is not set."""
    return Path(environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def ray_token(environ: Mapping[str, str]) -> str | None:
    """The cluster's token, looked up as Ray does; None if there is none."""
    if given := environ.get("RAY_AUTH_TOKEN"):
        return given
    file = ray_token_file(environ)
    return file.read_text().strip() if file.is_file() else None


def use_token() -> bool:
    """Turn on Ray's token authentication if there is a token and RAY_AUTH_MODE is not set; returns
    whether it is on.

    Call it before Ray is imported: Ray reads the mode once.
    """
    if "RAY_AUTH_MODE" not in os.environ and ray_token(os.environ):
        os.environ["RAY_AUTH_MODE"] = "token"
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"

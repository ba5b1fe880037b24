"""What of this machine's environment a job may carry, and what must never be in one.

Entrypoint, metadata and runtime environment of a Ray job can be read by whoever can read the
dashboard, and Ray writes them into its logs. So a job carries no secret: the nodes have theirs.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from embre.config.secret_values import SECRETS
from embre.refused import Refused

# Settings, by name; their values are taken from where the job is submitted.
PASSED = (
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "EMBRE_DEBUG",
    "EMBRE_FAULT",
    "HF_HUB_OFFLINE",
    "MLFLOW_TRACKING_URI",
    "NCCL_DEBUG",
    "NCCL_IB_DISABLE",
    "NCCL_SOCKET_IFNAME",
)
REMEDY = (
    "a job's metadata can be read by all who see the dashboard; give secrets to the nodes instead "
    "(docs/CLUSTER.md, Secrets)"
)
SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY|_(KEY|PASS)$", re.I
)
SHORTEST_SECRET = 8  # a shorter value, as "1", stands in too many texts by chance


def environment(names: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The named variables with their values here.

    Raises Refused for a name that is not on the list, that is not set, or whose value has a
    secret in it. The value is never shown.
    """
    found = {}
    for name in names:
        if "=" in name:
            name = name.split("=")[0]
            raise Refused(f"--env {name}: give the name alone; its value is taken from here")
        if name not in PASSED:
            why = REMEDY if SECRET_NAME.search(name) else f"known are {', '.join(PASSED)}"
            raise Refused(f"--env {name}: not a variable that a job may carry; {why}")
        if name not in environ:
            raise Refused(f"--env {name}: it is not set here; export it first")
        found[name] = environ[name]
    return found


def refuse_secrets(texts: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Refused where a text holds what looks like a secret, or the value of a variable of
    `environ` whose name says that it is one. `texts` are named by where they came from."""
    known = {
        f"the value of {name}": value.strip()
        for name, value in environ.items()
        if SECRET_NAME.search(name) and not name.endswith(("_PATH", "_FILE"))
    }
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
    """The file that Ray reads its token from where RAY_AUTH_TOKEN is not set."""
    return Path(environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def ray_token(environ: Mapping[str, str]) -> str | None:
    """The token of the cluster, found as Ray finds it; None where there is none."""
    if given := environ.get("RAY_AUTH_TOKEN"):
        return given
    file = ray_token_file(environ)
    return file.read_text().strip() if file.is_file() else None


def use_token() -> bool:
    """Turn on Ray's token authentication where there is a token and nobody chose; whether it is on.

    To be called before Ray is imported, which reads the mode once.
    """
    if "RAY_AUTH_MODE" not in os.environ and ray_token(os.environ):
        os.environ["RAY_AUTH_MODE"] = "token"
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"

"""Texts that look like secrets: configs and errors are written to many places."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from embre.config.reading import ConfigError
from embre.config.run import RunConfig
from embre.wording import without_secrets

SECRETS = {
    "a signed URL": re.compile(r"[?&](?:X-Amz-Signature|X-Goog-Signature|sig|Signature)=\w", re.I),
    "a URL with a password": re.compile(
        r"://[^/\s:@]*:[^/\s@]+@|\bhttps?://[^/\s@]+@"
        r"|[?&](?:password|passwd|pwd|token|secret|api_?key|access_?key)=\w",
        re.I,
    ),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"),
    "a bearer token": re.compile(r"\bbearer\s+[\w.~+/-]{16,}", re.I),
    "a JSON web token": re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY[\s\S]*?(?:-----END|\Z)"),
}
SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY|_(KEY|PASS)$", re.I
)
SHORTEST_SECRET = 8  # characters; shorter values, such as "1", occur in texts by chance


def secret_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environ` whose names mark their values as secrets; not paths of files."""
    return {
        name: value.strip()
        for name, value in environ.items()
        if SECRET_NAME.search(name) and not name.endswith(("_PATH", "_FILE"))
    }


def redact(text: str, environ: Mapping[str, str]) -> str:
    """A text without the values of secret variables, the secrets of URLs, and what looks like a
    secret.

    >>> redact("401 for https://me:pa55word@host/a with AKIA0123456789ABCDEF", {})
    '401 for https://host/a with [an AWS key]'
    """
    for name, value in secret_variables(environ).items():
        if len(value) >= SHORTEST_SECRET:
            text = text.replace(value, f"[{name}]")
    text = without_secrets(text)
    for what, pattern in SECRETS.items():
        text = re.sub(rf"(?:{pattern.pattern})\S*", f"[{what}]", text, flags=pattern.flags)
    return text


def refuse_secrets(config: RunConfig) -> None:
    """Raise ConfigError for a value that looks like a secret; it names the key, never the value."""
    for key, text in _texts(config.model_dump(mode="json"), ""):
        for what, pattern in SECRETS.items():
            if pattern.search(text):
                raise ConfigError(
                    f"{key}: contains {what}, and would be written to config.yaml and MLflow; use "
                    "the environment, as AWS_ACCESS_KEY_ID or MLFLOW_TRACKING_PASSWORD"
                )


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """All strings in a value, each with its key; keys of mappings count as strings."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield key or str(name), str(name)
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{key}.{number}")
    elif isinstance(value, str):
        yield key, value

"""Values of a config that look like secrets: a run's config is written to many places."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from embre.config.reading import ConfigError
from embre.config.run import RunConfig

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
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
}


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

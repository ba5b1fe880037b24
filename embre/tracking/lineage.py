"""The lineage of registered models, from a shard set to relation models and back.

    shard set → pretraining run → encoder → fine-tuning run → relation model

A relation model names the digest of its encoder, an encoder that of its shard set.
"""

import re
from dataclasses import dataclass

from embre.refused import Refused
from embre.tracking.registry import DIGEST
from embre.tracking.versions import Version, names, versions_of, versions_tagged

ENCODER_DIGEST, SHARD_SET = "embre.encoder.digest", "embre.shard_set"
ENCODER_SHARD_SET = "embre.encoder.shard_set"
BEGIN_OF_DIGEST = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True, slots=True)
class Lineage:
    """Relation models and the encoders that they come from, which may be registered or not.

    An encoder that is not has no number, and what the relation models tell of it as tags.
    """

    encoders: list[Version]
    models: list[Version]


def lineage_of(name: str, uri: str) -> Lineage:
    """All that hangs together with a registered name, or with a shard set by (the begin of) its
    digest. Raises Refused where the registry has neither."""
    found = versions_of(name, uri)
    models = [version for version in found if ENCODER_DIGEST in version.tags]
    encoders = [version for version in found if ENCODER_DIGEST not in version.tags]
    if not found and BEGIN_OF_DIGEST.fullmatch(name):
        encoders = versions_tagged(SHARD_SET, name, uri)
        models = versions_tagged(ENCODER_SHARD_SET, name, uri)
    for encoder in encoders:
        if digest := encoder.tags.get(DIGEST):
            models += versions_tagged(ENCODER_DIGEST, digest, uri)
    for model in models:
        digest = model.tags[ENCODER_DIGEST]
        encoders += versions_tagged(DIGEST, digest, uri) or [_unregistered(model)]
    if not models and not encoders:
        raise Refused(
            f"{name}: no such name or digest of a shard set in the registry, which has "
            f"{', '.join(names(uri)) or 'none'}"
        )
    return Lineage(_once(encoders), _once(models))


def _unregistered(model: Version) -> Version:
    """The encoder of a relation model, by what that tells of it."""
    prefix = "embre.encoder."
    tags = {
        f"embre.{key.removeprefix(prefix)}": value
        for key, value in model.tags.items()
        if key.startswith(prefix)
    }
    return Version("", "", tags)


def _once(versions: list[Version]) -> list[Version]:
    """In their order; a version is known by its name, number and digest."""
    by_key = {(v.name, v.number, v.tags.get(DIGEST)): v for v in versions}
    return list(by_key.values())

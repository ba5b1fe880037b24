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
    """Relation models and their encoders.

    An encoder that is not registered has no number; its tags are taken from its relation models.
    """

    encoders: list[Version]
    models: list[Version]


def lineage_of(name: str, uri: str) -> Lineage:
    """The lineage of a registered name, or of a shard set given by (the start of) its digest.

    Raises Refused if the registry has neither.
    """
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
            f"{name}: the registry has no such name and no model of such a shard set; registered "
            f"names: {', '.join(names(uri)) or 'none'}"
        )
    return Lineage(_once(encoders), _once(models))


def _unregistered(model: Version) -> Version:
    """The encoder of a relation model, from the tags of the model."""
    prefix = "embre.encoder."
    tags = {
        f"embre.{key.removeprefix(prefix)}": value
        for key, value in model.tags.items()
        if key.startswith(prefix)
    }
    return Version("", "", tags)


def _once(versions: list[Version]) -> list[Version]:
    """Remove duplicates: versions of the same name, number and digest."""
    by_key = {(v.name, v.number, v.tags.get(DIGEST)): v for v in versions}
    return list(by_key.values())

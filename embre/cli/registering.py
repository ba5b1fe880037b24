"""Implements `embre register`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from embre.register import F1, register_run
from embre.tracking.lineage import ENCODER_DIGEST, SHARD_SET, lineage_of
from embre.tracking.registry import DIGEST
from embre.tracking.uri import refuse_missing, resolve_uri
from embre.tracking.versions import Version

DIGITS = 12  # shown of a digest
MODEL_COLUMNS = (
    "relation model",
    "aliases",
    *F1,
    "dev",
    "scoring_protocol",
    "fine-tuning run",
    "encoder",
)
ENCODER_COLUMNS = ("encoder", "aliases", "pretraining run", "steps", "shard set")


def run_register(
    run: Path, name: str, alias: str | None, if_better: str | None, tracking_uri: str | None
) -> Iterator[str]:
    """Register the model of a run (see `register_run`) and yield the lines to print."""
    found = register_run(run, name, alias, if_better, tracking_uri)
    what = "registered" if found.new else "was registered before:"
    yield f"{found.kind} {what} {name} version {found.version} in {found.uri}"
    if alias:
        yield f"models:/{name}@{alias}"


def show_lineage(name: str, tracking_uri: str | None) -> Iterator[str]:
    """Yield tables of the relation models and encoders related to a name or a shard set."""
    uri = resolve_uri(tracking_uri)
    refuse_missing(uri)
    found = lineage_of(name, uri)
    called = {v.tags.get(DIGEST, ""): f"{v.name} {v.number}" for v in found.encoders if v.name}
    models = [
        [
            f"{model.name} {model.number}",
            ", ".join(model.aliases),
            *(model.tags.get(f"embre.{metric}", "") for metric in F1),
            model.tags.get("embre.dev", "")[:DIGITS],
            model.tags.get("embre.scoring_protocol", ""),
            _run(model),
            called.get(model.tags[ENCODER_DIGEST], model.tags[ENCODER_DIGEST][:DIGITS]),
        ]
        for model in found.models
    ]
    encoders = [
        [
            f"{encoder.name} {encoder.number}" if encoder.name else _unregistered(encoder),
            ", ".join(encoder.aliases),
            _run(encoder),
            encoder.tags.get("embre.steps", ""),
            encoder.tags.get(SHARD_SET, "")[:DIGITS],
        ]
        for encoder in found.encoders
    ]
    yield from columns(MODEL_COLUMNS, models)
    if models:
        yield ""
    yield from columns(ENCODER_COLUMNS, encoders)


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table whose columns are as wide as they must be, `-` for what is not known."""
    if not rows:
        return
    lines = [heads, *([cell or "-" for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _run(version: Version) -> str:
    name, run_id = version.tags.get("embre.run", ""), version.run_id[:8]
    return f"{name} ({run_id})" if name and run_id else name


def _unregistered(encoder: Version) -> str:
    return f"{encoder.tags.get(DIGEST, '')[:DIGITS]} (not registered)"

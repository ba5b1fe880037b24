"""What `embre probe` prints, for people and as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from embre.cli.device import device_named
from embre.cli.options import folder_within
from embre.model.encoder_folder import PretrainedEncoder, load_pretrained
from embre.pretrain import ENCODER
from embre.probe.comparison import SYSTEMS, Comparison, probe_shards
from embre.probe.text import Answer, probe_text
from embre.provenance import read_lineage
from embre.refused import Refused
from embre.tracking.registry import fetch
from embre.tracking.uri import resolve_uri
from embre.wording import printable

NUM_TYPES = 3  # likeliest types that are named


def run_probe(
    name: str,
    text: str | None,
    shards: str | None,
    *,
    top: int,
    strips: int | None,
    as_json: bool,
    tracking_uri: str | None,
    device: str,
) -> list[RenderableType]:
    """What is to be printed of an encoder: its folder, its run's, or `models:/…`; asked about a
    text, or about the validation split of a shard set.

    Raises Refused unless one of the two is given.
    """
    if (text is None) == (shards is None):
        raise Refused("give a text with [[hidden]] mentions, or --shards FOLDER, and not both")
    if shards is None and strips is not None:
        raise Refused("--strips needs --shards")
    errors, found_device = Console(stderr=True, highlight=False), device_named(device)
    with TemporaryDirectory() as scratch, errors.status("loading the encoder") as status:
        folder = folder_within(Path(name), ENCODER)
        if name.startswith("models:/"):
            folder = fetch(name, resolve_uri(tracking_uri), Path(scratch) / "model")
        encoder = load_pretrained(folder, found_device)
        if text is not None:
            answers = probe_text(encoder, text, top)
            values, lines = answers_json(encoder, text, answers), answer_lines(answers)
        else:
            done = 0

            def progress() -> None:
                nonlocal done
                done += 1
                status.update(f"{done:,} strips and training shards read")

            assert shards is not None
            found = probe_shards(encoder, shards, strips, progress)
            values, lines = comparison_json(encoder, found), comparison_lines(encoder, found)
        return [Text(json.dumps(values))] if as_json else [*lines]


def answer_lines(answers: list[Answer]) -> Iterator[RenderableType]:
    """For each hidden mention what its type may be, and a table of the likeliest concepts."""
    for number, answer in enumerate(answers, 1):
        hidden, pieces = answer.hidden, answer.num_pieces
        kind = f"a {hidden.type}" if hidden.type else "of any type"
        words = "word piece" if pieces == 1 else "word pieces"
        yield Text.assemble(
            *("\n" if number > 1 else "", f"hidden {number}: "),
            (printable(hidden.surface), "bold"),
            f", {kind}, {pieces} {words}",
        )
        ordered = sorted(answer.types.items(), key=lambda item: -item[1])[:NUM_TYPES]
        likely = ", ".join(f"{name} {probability:.3f}" for name, probability in ordered)
        yield Text(f"P(type): {likely}", "dim")
        yield _candidates_table(answer)


def answers_json(encoder: PretrainedEncoder, text: str, answers: list[Answer]) -> dict[str, Any]:
    """The same as one object; see docs/FORMATS.md."""
    hidden = [
        {
            "surface": answer.hidden.surface,
            "type": answer.hidden.type,
            "pieces": answer.num_pieces,
            "types": answer.types,
            "concepts": [asdict(candidate) for candidate in answer.candidates],
        }
        for answer in answers
    ]
    return {"encoder": read_lineage(encoder.folder), "text": text, "hidden": hidden}


def comparison_lines(encoder: PretrainedEncoder, found: Comparison) -> Iterator[RenderableType]:
    """The table of the encoder beside the counts, what it rests on, and examples."""
    mentions, masking = found.mentions, found.source.settings.masking
    yield Text(
        f"{len(mentions.rows):,} hidden mentions in {len(mentions.doc_ids):,} validation "
        f"documents; counts of {found.num_train_documents:,} training documents (pieces of long "
        "documents count as documents)"
    )
    yield Text(
        f"hidden as in {found.masking_of} (unit {masking.unit}, entity_rate {masking.entity_rate}, "
        f"seed {found.source.seed}), all of them behind [MASK]; {mentions.num_unknown:,} more have "
        "no concept that the encoder knows",
        "dim",
    )
    if not found.own_shards:
        yield Text(
            "the encoder comes from another shard set: it may have been trained on these documents",
            "yellow",
        )
    yield _scores_table(found.scores(encoder.entities))
    if examples := example_rows(encoder, found):
        yield Text("\nright by the encoder and not by co-occurrence:", "bold")
    for row in examples:
        yield Text.assemble(
            f"{printable(row['document'])}: ",
            (printable(row["surface"]), "bold"),
            f" is {_concept(row['true'])}; counting says {_concept(row['counted'])}",
        )


def comparison_json(encoder: PretrainedEncoder, found: Comparison) -> dict[str, Any]:
    """The same as one object; see docs/FORMATS.md."""
    source, mentions = found.source, found.mentions
    return {
        "encoder": read_lineage(encoder.folder),
        "shard_set": source.shard_set.manifest.digest,
        "own_shards": found.own_shards,
        "masking": {
            "of": found.masking_of,
            "unit": source.settings.masking.unit,
            "entity_rate": source.settings.masking.entity_rate,
            "seed": source.seed,
        },
        "documents": len(mentions.doc_ids),
        "train_documents": found.num_train_documents,
        "mentions": len(mentions.rows),
        "unknown_mentions": mentions.num_unknown,
        "scores": found.scores(encoder.entities),
        "examples": example_rows(encoder, found),
    }


def example_rows(encoder: PretrainedEncoder, found: Comparison) -> list[dict[str, Any]]:
    """Mentions that the encoder identifies and co-occurrence does not."""
    mentions = found.mentions
    return [
        {
            "document": mentions.doc_ids[mentions.docs[number]],
            "surface": mentions.surfaces[number],
            "true": _named(encoder, int(mentions.rows[number])),
            "counted": _named(encoder, int(found.predicted[number])),
        }
        for number in found.examples()
    ]


def _named(encoder: PretrainedEncoder, row: int) -> dict[str, str]:
    values = encoder.entities.row(row)
    return {key: values[key] for key in ("type", "identifier", "name")}


def _concept(named: dict[str, str]) -> str:
    return printable(f"{named['type']}:{named['identifier']} ({named['name']})")


def _candidates_table(answer: Answer) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("P(identifier | type)" if answer.hidden.type else "P", justify="right")
    for name in ("concept", "name"):
        table.add_column(name, overflow="fold")
    table.add_column("mentions", justify="right")
    for candidate in answer.candidates:
        table.add_row(
            f"{candidate.probability:.4f}",
            Text(printable(f"{candidate.type}:{candidate.identifier}")),
            Text(printable(candidate.name)),
            f"{candidate.count:,}",
        )
    return table


def _scores_table(scores: dict[str, dict[str, dict[str, float]]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("\n\nof")
    table.add_column("\n\nmentions", justify="right")
    for score in ("top-1", "MRR"):
        for system in ("encoder", "frequency", "co-\noccurrence"):  # fits into 80 columns
            gap = "\n" * (2 - system.count("\n"))
            table.add_column(f"{score}{gap}{system}", justify="right")
    for group, values in scores[SYSTEMS[0]].items():
        numbers = [f"{scores[s][group][key]:.3f}" for key in ("top1", "mrr") for s in SYSTEMS]
        table.add_row(group, f"{values['mentions']:,.0f}", *numbers)
    return table

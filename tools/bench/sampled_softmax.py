"""The accuracy of a concept table trained with a sampled softmax, compared with the exact softmax.

    python tools/bench/sampled_softmax.py shards/gold backbones/minilm [--quick]

A frozen encoder reads mentions of real shards, which are not hidden; then only the entity head is
trained on their vectors, with an exact softmax or one over a sample of each type, and identifies
the mentions of the validation split among all concepts of the vocabulary. Both see the same
mentions in the same order from the same initial weights, so each seed gives a difference; their
mean has a standard error of a tenth of a point only after about twenty seeds, half an hour. The
last line is one JSON object.
"""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor

from embre.cli.options import run_script
from embre.config import DataConfig, EncoderConfig, MaskingConfig
from embre.model.backbone import load_encoder
from embre.model.concept_table import ConceptTable
from embre.model.heads import EntityHead
from embre.model.pretraining_model import PretrainingModel
from embre.shards.entities import EntityVocabulary, choose_entities
from embre.shards.shard_set import ShardSet
from embre.stream.batch import Batch
from embre.stream.order import stream_batches, validation_batches
from embre.stream.source import StreamSource
from embre.tokenization.tokenizer import load_tokenizer

# Every mention is a target and stays visible.
SEEN = MaskingConfig(objective="entity", entity_rate=1, replace_share=0, keep_share=1)
NEVER, OFTEN = 1 << 62, 1000  # `sample_above`; a tenth of a smaller type would be too few
DIMENSION, MENTIONS, PEAK_LR = 128, 512, 2e-3


class Mentions(NamedTuple):
    """Vectors (n, H), types and ids (n,) of mentions whose concepts are in the vocabulary."""

    vectors: Tensor
    types: Tensor
    ids: Tensor

    def take(self, chosen: Tensor) -> "Mentions":
        """The chosen mentions, sorted by type as the head requires."""
        order = chosen[self.types[chosen].argsort(stable=True)]
        return Mentions(*(part[order] for part in self))


def main(
    shards: Annotated[str, typer.Argument(help="A shard set made with the encoder's tokenizer.")],
    encoder: Annotated[Path, typer.Argument(help="Hugging Face folder of a BERT.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Few documents: no figures to quote.")
    ] = False,
) -> None:
    """Compare the exact and the sampled softmax."""
    console = Console(soft_wrap=True, highlight=False)
    strips, epochs, seeds = (4, 2, 2) if quick else (400, 36, 24)
    tokenizer, shard_set = load_tokenizer(encoder), ShardSet.open(shards)
    entities = choose_entities(shard_set, min_count=1, max_per_type=1_000_000)
    data = DataConfig(shards=shards, streams=1, strip_tokens=2048, validation_strips=strips // 4)
    source = StreamSource.build(shard_set, data, SEEN, entities, tokenizer, seed=0)
    settings = EncoderConfig(path=str(encoder), dropout=0)
    backbone = load_encoder(settings, tokenizer)
    head = head_of(backbone.config.hidden_size, entities, 0, 1)
    model = PretrainingModel(backbone, head, half_precision=False)
    train, validation = (
        read(model, islice(batches, limit), limit)
        for batches, limit in (
            (stream_batches(source, 0), strips),
            (validation_batches(source), strips // 4),
        )
    )
    largest = max(entities.sizes)
    console.print(
        f"{len(train.ids):,} mentions to learn from, {len(validation.ids):,} to identify; "
        f"{sum(entities.sizes):,} concepts, {largest:,} of the largest type"
    )
    found: dict[str, list[float]] = {"exact": []}
    for seed in range(seeds):
        found["exact"].append(accuracy(entities, train, validation, seed, epochs, 1.0))
        for share in (0.1, 0.3):
            part = accuracy(entities, train, validation, seed, epochs, share)
            found.setdefault(f"sample of {share:g}", []).append(part)
    exact = found.pop("exact")
    console.print(f"exact: {mean(exact):.2f} % identified, {[round(one, 2) for one in exact]}")
    result = {"exact": mean(exact), "exact_spread": stdev(exact)}
    for name, each in found.items():
        more = [sampled - full_block for sampled, full_block in zip(each, exact, strict=True)]
        points, error = mean(more), stdev(more) / len(more) ** 0.5
        console.print(f"{name}: {points:+.2f} points, standard error {error:.2f}")
        result |= {f"{name}, points": points, f"{name}, standard_error": error}
    print(json.dumps({key: round(value, 3) for key, value in result.items()}))


def head_of(hidden: int, entities: EntityVocabulary, seed: int, share: float) -> EntityHead:
    torch.manual_seed(seed)
    table = ConceptTable(entities.sizes, DIMENSION, OFTEN if share < 1 else NEVER, share)
    return EntityHead(hidden, len(entities.sizes), table)


@torch.no_grad()
def read(model: PretrainingModel, batches: Iterable[Batch], limit: int) -> Mentions:
    """The vectors of the mentions of batches."""
    model.eval()
    found = []
    for batch in track(list(batches), "reading", transient=True):
        _, vectors = model.hidden_targets(batch)
        known = sum(batch.num_known_by_type)
        found.append((vectors[:known], batch.mention_types[:known], batch.mention_ids[:known]))
    return Mentions(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def accuracy(
    entities: EntityVocabulary,
    train: Mentions,
    validation: Mentions,
    seed: int,
    epochs: int,
    share: float,
) -> float:
    """Train a head; the percentage of the validation mentions that it identifies."""
    head = head_of(train.vectors.shape[1], entities, seed, share)
    optimizer = torch.optim.AdamW(head.parameters(), lr=PEAK_LR)
    num_steps, step = epochs * -(-len(train.ids) // MENTIONS), 0
    for epoch in range(epochs):
        order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(train.ids)))
        for chosen_ids in order.split(MENTIONS):
            optimizer.param_groups[0]["lr"] = PEAK_LR * (1 - step / num_steps)
            torch.manual_seed(seed * 1_000_000 + step)
            losses = evaluate(head.train(), train.take(chosen_ids))
            optimizer.zero_grad()
            ((losses["type"] + losses["identifier"]) / len(chosen_ids)).backward()
            optimizer.step()
            step += 1
    with torch.no_grad():
        found = [
            evaluate(head.eval(), validation.take(part))["rank/identifier"] == 1
            for part in torch.arange(len(validation.ids)).split(MENTIONS)
        ]
    return 100 * float(torch.cat(found).float().mean())


def evaluate(head: EntityHead, mentions: Mentions) -> dict[str, Tensor]:
    counts = torch.bincount(mentions.types, minlength=head.types.out_features).tolist()
    return head(mentions.vectors, mentions.types, mentions.ids, counts)


if __name__ == "__main__":
    run_script(main)

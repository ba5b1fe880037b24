"""Micro-batches for a benchmark of the training step: made-up tokens, or those of a shard set.

Made-up documents have BioRED's lengths in PubMedBERT's tokens (mean 341; 364 weighted by tokens)
and its density of mentions. Tokens are random, because the time of a step does not depend on them;
so no tokenizer is needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from embre.config import DataConfig, MaskingConfig
from embre.entity_types import TYPE_INDEX
from embre.masking import Vocabulary
from embre.shards.entities import SCHEMA, EntityVocabulary, choose_entities
from embre.shards.mention_row import MENTION_ROW
from embre.shards.shard_set import ShardSet
from embre.stream.batch import Batch, make_batch
from embre.stream.examples import Examples, join
from embre.stream.layout import NUM_SPECIAL, BatchSettings
from embre.stream.order import rounds, strips
from embre.stream.source import StreamSource, StreamState
from embre.tokenization.tokenizer import SpecialTokens, load_tokenizer

MAX_TOKENS = 512
MEAN_TOKENS, SD_TOKENS = 341, 88
MEAN_MENTIONS, SD_MENTIONS, MEAN_MENTION_TOKENS = 33.8, 14.0, 2.5
SPECIAL = SpecialTokens(*range(5))
IGNORED = -100  # the label that Hugging Face's models ignore


@dataclass(frozen=True, slots=True)
class Texts:
    """Documents, and the settings of their packing and masking."""

    settings: BatchSettings
    examples: Examples

    def batches(self, objective: str, number: int) -> list[Batch]:
        """The first `number` micro-batches under an objective."""
        masking = MaskingConfig(objective=cast(Any, objective))
        settings = replace(self.settings, masking=masking)
        found = strips(iter([(self.examples, StreamState())]), settings.strip_tokens)
        pairs = zip(range(number), found, strict=False)
        laid = [make_batch(settings, members, slot, after) for slot, (members, after) in pairs]
        assert len(laid) == number, "more documents are needed"
        return laid


def made_up_texts(
    strip_tokens: int, num_strips: int, vocabulary: int, num_concepts: int, seed: int = 0
) -> Texts:
    """Random documents that fill the strips, and a vocabulary of concepts of all types."""
    rng = np.random.default_rng(seed)
    num_documents = num_strips * strip_tokens // (MEAN_TOKENS - 40) + 10
    limit = MAX_TOKENS - NUM_SPECIAL
    lengths = np.clip(rng.normal(MEAN_TOKENS, SD_TOKENS, num_documents), 24, limit).astype(int)
    rows = [_mentions(rng, int(length), num_concepts) for length in lengths]
    examples = Examples(
        [str(number) for number in range(num_documents)],
        rng.integers(len(SPECIAL), vocabulary, lengths.sum()).astype(np.uint16),
        np.concatenate([[0], lengths.cumsum()]),
        np.concatenate(rows),
        np.concatenate([[0], np.cumsum([len(some) for some in rows])]),
        np.zeros(num_documents, dtype=np.int64),
        rng.integers(1 << 62, size=num_documents, dtype=np.uint64),
    )
    num_types = len(TYPE_INDEX)
    hashes = np.arange(1, num_concepts + 1, dtype=np.uint64)
    ids = ((hashes - 1) // num_types).astype(np.int64)
    sizes = np.bincount((hashes - 1) % num_types, minlength=num_types).tolist()
    settings = BatchSettings(
        strip_tokens=strip_tokens,
        max_document_tokens=MAX_TOKENS,
        masking=MaskingConfig(),
        entities=EntityVocabulary(hashes, ids, tuple(sizes), SCHEMA.empty_table()),
        special=SPECIAL,
        vocabulary=Vocabulary(SPECIAL.mask, vocabulary, SPECIAL),
    )
    return Texts(settings, examples)


def _mentions(rng: np.random.Generator, length: int, num_concepts: int) -> np.ndarray:
    """Mentions of one document, without overlaps; concepts with low numbers are more frequent."""
    most = max(length // 4, 1)
    number = int(np.clip(rng.normal(MEAN_MENTIONS, SD_MENTIONS) * length / MEAN_TOKENS, 1, most))
    starts = np.sort(rng.choice(length - 1, number, replace=False))
    ends = starts + 1 + rng.poisson(MEAN_MENTION_TOKENS - 1, number)
    rows = np.zeros(number, dtype=MENTION_ROW)
    rows["start"], rows["end"] = starts, np.minimum(ends, np.append(starts[1:], length))
    drawn = (num_concepts ** rng.random(number)).astype(np.uint64)  # from 1 to num_concepts
    rows["concept"], rows["type"] = drawn, (drawn - 1) % len(TYPE_INDEX)
    return rows


def texts_of(folder: Path, strip_tokens: int, num_strips: int) -> Texts:
    """The first documents of a shard set, with its own tokenizer and concepts."""
    shard_set = ShardSet.open(folder)
    tokenizer = load_tokenizer(folder / "tokenizer")
    data = DataConfig(
        shards=shard_set.url, streams=1, strip_tokens=strip_tokens, max_document_tokens=MAX_TOKENS
    )
    source = StreamSource.build(
        shard_set,
        data,
        MaskingConfig(),
        choose_entities(shard_set, 2, 1_000_000),
        tokenizer,
        seed=0,
    )
    held, num_tokens = [], 0
    for members, _ in rounds(source, 0):
        held.append(members)
        num_tokens += len(members.tokens)
        if num_tokens > (num_strips + 1) * strip_tokens:
            return Texts(source.settings, join(held))
    raise AssertionError("a stream has no end")


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Documents as rows of 512 tokens: `ids`, `mask`, `labels` (R, 512)."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    num_tokens: int
    num_targets: int
    slot: int
    data_hash: int = 0

    @property
    def counts(self) -> dict[str, int]:
        return {"token": self.num_targets}

    def to(self, device: torch.device) -> "PaddedBatch":
        ids, mask, labels = (
            part.to(device, non_blocking=True) for part in (self.ids, self.mask, self.labels)
        )
        return replace(self, ids=ids, mask=mask, labels=labels)


def padded(batches: list[Batch], num_rows: int, pad: int) -> list[PaddedBatch]:
    """The masked documents padded to 512 tokens, `num_rows` per batch; a remainder is dropped."""
    rows = list(_documents(batches))
    found = []
    for at in range(0, len(rows) - num_rows + 1, num_rows):
        some = rows[at : at + num_rows]
        ids = torch.full((num_rows, MAX_TOKENS), pad)
        labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        for row, (tokens, wanted) in enumerate(some):
            ids[row, : len(tokens)], labels[row, : len(tokens)] = tokens, wanted
            mask[row, : len(tokens)] = 1
        targets = int((labels != IGNORED).sum())
        found.append(PaddedBatch(ids, mask, labels, int(mask.sum()), targets, len(found)))
    return found


def _documents(batches: list[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        labels = torch.full_like(batch.input_ids, IGNORED)
        labels[batch.rows[batch.token_target_rows]] = batch.token_labels
        edges = batch.cu_seqlens.tolist()
        for start, end in zip(edges, edges[1 : len(batch.doc_ids) + 1], strict=False):
            yield batch.input_ids[start:end], labels[start:end]

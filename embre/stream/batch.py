"""A micro-batch of pretraining: examples end to end in a strip, masked, padded to one length."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embre.data_hash import data_hash
from embre.entity_types import TYPE_INDEX
from embre.shards.entities import EntityVocabulary
from embre.stream.examples import NO_EXAMPLES, Examples
from embre.stream.layout import BatchSettings, lay, with_padding
from embre.stream.source import StreamState

# A single document without tokens.
NOTHING = replace(
    NO_EXAMPLES,
    doc_ids=[""],
    token_starts=np.zeros(2, dtype=np.int64),
    mention_starts=np.zeros(2, dtype=np.int64),
    offsets=np.zeros(1, dtype=np.int64),
    keys=np.zeros(1, dtype=np.uint64),
)


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch of pretraining: a strip of T tokens, D documents end to end, then padding.

    Sequences: `input_ids`, `position_ids` (T,); `cu_seqlens` (B + 1,) int32, the cumulative lengths
    of the B sequences: the D documents, then the padding in pieces. `max_seqlen` bounds all of them
    and is the same in every micro-batch of a run.
    Rows: `rows` (R,) are the sorted strip positions that a head reads, `row_cu_seqlens` (B + 1,)
    their cumulative number by sequence. Targets index rows.
    Token targets: `token_target_rows` (K,), `token_labels` (K,).
    Mention targets: `mention_spans` (M, 2) start and end, `num_span_rows` rows in all spans
    together, `mention_types` (M,), `mention_ids` (M,) the id within the type, -1 outside the
    vocabulary. Mentions in the vocabulary come first, sorted by type, `num_known_by_type` per type.
    Source: `slot` is the number of the stream (-1: empty batch), `state` the stream's state after
    this batch, `doc_ids` the D documents.
    """

    input_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    rows: Tensor
    row_cu_seqlens: Tensor
    token_target_rows: Tensor
    token_labels: Tensor
    mention_spans: Tensor
    num_span_rows: int
    mention_types: Tensor
    mention_ids: Tensor
    num_known_by_type: tuple[int, ...]
    slot: int
    state: StreamState
    doc_ids: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of targets by loss."""
        return {
            "token": len(self.token_labels),
            "type": len(self.mention_types),
            "identifier": sum(self.num_known_by_type),
        }

    @property
    def num_tokens(self) -> int:
        """Number of tokens that are not padding."""
        return int(self.cu_seqlens[len(self.doc_ids)]) if self.slot >= 0 else 0

    @property
    def data_hash(self) -> int:
        """32-bit hash of tokens and targets; call it on a CPU batch."""
        documents = self.cu_seqlens[: len(self.doc_ids) + 1]
        targets = (self.token_labels, self.mention_spans, self.mention_types, self.mention_ids)
        return data_hash(self.slot, (self.input_ids, documents, self.rows, *targets))

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to a device."""
        if self.input_ids.device == device:
            return self
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in ((name, getattr(self, name)) for name in self.__slots__)
        }
        return Batch(**moved)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle tensors as arrays. PyTorch would send each tensor from a loader process as a file
        descriptor, which the rank has to fetch one by one."""
        values = [getattr(self, name) for name in self.__slots__]
        return _unpacked, tuple(v.numpy() if isinstance(v, Tensor) else v for v in values)


def _unpacked(*values: Any) -> Batch:
    tensors: list[Any] = [torch.from_numpy(v) if isinstance(v, np.ndarray) else v for v in values]
    return Batch(*tensors)


def make_batch(settings: BatchSettings, members: Examples, slot: int, state: StreamState) -> Batch:
    """Lay examples end to end, mask them and pad to the strip's length."""
    strip, cu_seqlens, position_ids = lay(settings, members)
    masked = settings.hide(strip)
    size = settings.strip_tokens
    targets, num_known_by_type, ids = _mention_targets(
        settings.entities, strip.mentions[masked.mention_targets]
    )
    token_target_rows = np.flatnonzero(masked.token_targets)
    read = places_read(token_target_rows, targets["start"], targets["end"], size)
    row_at = np.concatenate([[0], np.cumsum(read)])  # (T + 1,) row of each position that is read
    spans = row_at[np.stack([targets["start"], targets["end"]], axis=1)]
    edges = with_padding(cu_seqlens, settings)
    return Batch(
        input_ids=_padded(masked.tokens, size, settings.special.pad),
        position_ids=_padded(position_ids, size, 0),
        cu_seqlens=torch.from_numpy(edges),
        max_seqlen=settings.max_document_tokens,
        rows=_tensor(np.flatnonzero(read)),
        row_cu_seqlens=torch.from_numpy(row_at[edges].astype(np.int32)),
        token_target_rows=_tensor(row_at[token_target_rows]),
        token_labels=_tensor(strip.tokens[token_target_rows]),
        mention_spans=_tensor(spans),
        num_span_rows=int(np.diff(spans).sum()),
        mention_types=_tensor(targets["type"]),
        mention_ids=_tensor(ids),
        num_known_by_type=num_known_by_type,
        slot=slot,
        state=state,
        doc_ids=tuple(members.doc_ids),
    )


def _mention_targets(
    entities: EntityVocabulary, rows: np.ndarray
) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
    """The rows in the order of a Batch, the number in the vocabulary by type, and the rows' ids."""
    ids = entities.ids_of(rows)
    order = np.lexsort((rows["type"], ids < 0))
    known = rows["type"][ids >= 0]
    return rows[order], tuple(np.bincount(known, minlength=len(TYPE_INDEX)).tolist()), ids[order]


def empty_batch(settings: BatchSettings) -> Batch:
    """A micro-batch without targets, for a rank with fewer streams than others.

    It does not change the update, because a loss is a sum over a global count. Its one document is
    [CLS] [SEP], so that every weight takes part in the backward pass.
    """
    return replace(make_batch(settings, NOTHING, -1, StreamState()), doc_ids=())


def places_read(
    token_target_rows: np.ndarray, starts: np.ndarray, ends: np.ndarray, strip_tokens: int
) -> np.ndarray:
    """(T,) bool: positions of a strip that are a token target or in a mention span.

    The first and the last position are always included: torch recompiles for a size of 0 or 1.
    """
    depth = np.zeros(strip_tokens + 1, dtype=np.int64)
    np.add.at(depth, starts, 1)
    np.add.at(depth, ends, -1)
    read = np.cumsum(depth[:-1]) > 0
    read[token_target_rows] = read[0] = read[-1] = True
    return read


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))


def _padded(array: np.ndarray, size: int, value: int) -> Tensor:
    padded = np.full(size, value, dtype=np.int64)
    padded[: len(array)] = array
    return torch.from_numpy(padded)

"""The hidden mentions of a validation split, and how well an encoder identifies each of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from embre.masking.entity import spread
from embre.model.encoder_folder import PretrainedEncoder
from embre.probe.co_occurrence import concept_rows, owners
from embre.refused import Refused
from embre.shards.documents import join_word_pieces, word_pieces
from embre.stream.batch import make_batch
from embre.stream.examples import Examples
from embre.stream.layout import BatchSettings, lay
from embre.stream.order import validation_strips
from embre.stream.source import StreamSource, StreamState


@dataclass(frozen=True, slots=True)
class Asked:
    """Hidden mentions of some documents, whose concepts are in the vocabulary; K of them.

    (K,) the vocabulary's `rows` of the true concepts, their `types` and `ids`, `ranks` that the
    encoder gives them within the type, `surfaces` as the text has them, and `docs` which of the D
    documents they are in. `doc_ids` (D,); `visible` (D,) the rows of the concepts that have a
    mention in sight. `num_unknown` hidden mentions more have another concept or none.
    """

    rows: np.ndarray
    types: np.ndarray
    ids: np.ndarray
    ranks: np.ndarray
    surfaces: list[str]
    docs: np.ndarray
    doc_ids: list[str]
    visible: list[np.ndarray]
    num_unknown: int


def ask(
    encoder: PretrainedEncoder, source: StreamSource, progress: Callable[[], None] = lambda: None
) -> Asked:
    """Hide mentions of the first `validation_strips` and let the encoder identify them.

    A document that is longer than the encoder reads counts as several, here and in training.
    Raises Refused where nothing is hidden of which the encoder knows the concept.
    """
    parts: list[Asked] = []
    for members, _ in validation_strips(source):
        parts.append(_ask(encoder, source.settings, members))
        progress()
    found = _join(parts) if parts else None
    if found is None or not len(found.rows):
        raise Refused(
            f"{source.shard_set.url}: no mention to be hidden in {len(parts)} strips of its "
            "validation split is of a concept that the encoder knows; take more with --strips, "
            "or a set with a larger --validation-share"
        )
    return found


def _ask(encoder: PretrainedEncoder, settings: BatchSettings, members: Examples) -> Asked:
    """The hidden mentions of one strip, in the order of its micro-batch."""
    strip, _, _ = lay(settings, members)
    masked = settings.hide(strip)
    covered, _ = spread(strip, masked.mention_targets)
    rows, owner = concept_rows(settings.entities, strip.mentions), owners(members)
    hidden = np.flatnonzero(masked.mention_targets & (rows >= 0))
    hidden = hidden[np.argsort(strip.mentions["type"][hidden], kind="stable")]
    types = strip.mentions["type"][hidden].astype(np.int64)
    ids = rows[hidden] - settings.entities.firsts[types]
    # In sight is what shows at least one word piece: whatever the encoder can see, counting may.
    hidden_before = np.concatenate([[0], np.cumsum(covered)])
    starts, ends = (strip.mentions[name].astype(np.int64) for name in ("start", "end"))
    in_sight = (hidden_before[ends] - hidden_before[starts] < ends - starts) & (rows >= 0)
    return Asked(
        rows=rows[hidden],
        types=types,
        ids=ids,
        ranks=_ranks(encoder, settings, members, types, ids),
        surfaces=[
            "".join(join_word_pieces(word_pieces(strip.tokens[start:end], encoder.tokenizer)))
            for start, end in zip(starts[hidden].tolist(), ends[hidden].tolist(), strict=True)
        ],
        docs=owner[hidden],
        doc_ids=members.doc_ids,
        visible=[np.unique(rows[in_sight & (owner == doc)]) for doc in range(len(members))],
        num_unknown=int(masked.mention_targets.sum()) - len(hidden),
    )


def _ranks(
    encoder: PretrainedEncoder,
    settings: BatchSettings,
    members: Examples,
    types: np.ndarray,
    ids: np.ndarray,
) -> np.ndarray:
    """(K,) the rank of each true concept, as a run's validation measures it."""
    batch = make_batch(settings, members, 0, StreamState())
    device = next(encoder.model.parameters()).device
    with torch.inference_mode():
        ranks = encoder.model(batch.to(device))["rank/identifier"].cpu().numpy()
    asked = batch.mention_types[: len(ranks)].numpy(), batch.mention_ids[: len(ranks)].numpy()
    assert np.array_equal(asked, (types, ids)), "the micro-batch asks for other mentions"
    return ranks


def _join(parts: list[Asked]) -> Asked:
    shifts = np.cumsum([0, *(len(part.doc_ids) for part in parts)])
    return Asked(
        rows=np.concatenate([part.rows for part in parts]),
        types=np.concatenate([part.types for part in parts]),
        ids=np.concatenate([part.ids for part in parts]),
        ranks=np.concatenate([part.ranks for part in parts]),
        surfaces=[surface for part in parts for surface in part.surfaces],
        docs=np.concatenate([p.docs + shift for p, shift in zip(parts, shifts, strict=False)]),
        doc_ids=[doc_id for part in parts for doc_id in part.doc_ids],
        visible=[rows for part in parts for rows in part.visible],
        num_unknown=sum(part.num_unknown for part in parts),
    )

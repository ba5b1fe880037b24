"""Hide the mentions of a validation split and rank their true concepts by an encoder."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from embre.masking.entity import covered_tokens
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
class RankedMentions:
    """The K hidden mentions of D documents whose concepts are in the vocabulary.

    (K,) per mention: vocabulary `rows` of the true concepts, their `types` and `ids`, their `ranks`
    within the type by the encoder (1 is best), `surfaces` in the text, and `docs`, the index of the
    document. (D,) per document: `doc_ids`, and `visible`, the rows of concepts with a visible
    mention. `num_unknown` further hidden mentions have no concept in the vocabulary.
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


def rank_hidden_mentions(
    encoder: PretrainedEncoder, source: StreamSource, progress: Callable[[], None] = lambda: None
) -> RankedMentions:
    """Hide mentions in the first `validation_strips` and rank their true concepts by the encoder.

    A document longer than the encoder's maximum counts as several, as in training. `progress` is
    called after each strip. Raises Refused if no hidden mention has a concept in the vocabulary.
    """
    parts: list[RankedMentions] = []
    for members, _ in validation_strips(source):
        parts.append(_rank_strip(encoder, source.settings, members))
        progress()
    found = _join(parts) if parts else None
    if found is None or not len(found.rows):
        raise Refused(
            f"{source.shard_set.url}: no hidden mention in {len(parts)} strips of the validation "
            "split has a concept in the encoder's vocabulary; raise --strips or use a set with a "
            "larger --validation-share"
        )
    return found


def _rank_strip(
    encoder: PretrainedEncoder, settings: BatchSettings, members: Examples
) -> RankedMentions:
    """Rank the hidden mentions of one strip, in the order of its micro-batch."""
    strip, _, _ = lay(settings, members)
    masked = settings.hide(strip)
    covered, _ = covered_tokens(strip, masked.mention_targets)
    rows, owner = concept_rows(settings.entities, strip.mentions), owners(members)
    hidden = np.flatnonzero(masked.mention_targets & (rows >= 0))
    hidden = hidden[np.argsort(strip.mentions["type"][hidden], kind="stable")]
    types = strip.mentions["type"][hidden].astype(np.int64)
    ids = rows[hidden] - settings.entities.firsts[types]
    # Visible: at least one word piece is not hidden, so counts see all that the encoder sees.
    hidden_before = np.concatenate([[0], np.cumsum(covered)])
    starts, ends = (strip.mentions[name].astype(np.int64) for name in ("start", "end"))
    visible = (hidden_before[ends] - hidden_before[starts] < ends - starts) & (rows >= 0)
    return RankedMentions(
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
        visible=[np.unique(rows[visible & (owner == doc)]) for doc in range(len(members))],
        num_unknown=int(masked.mention_targets.sum()) - len(hidden),
    )


def _ranks(
    encoder: PretrainedEncoder,
    settings: BatchSettings,
    members: Examples,
    types: np.ndarray,
    ids: np.ndarray,
) -> np.ndarray:
    """(K,) rank of each true concept, as the validation of a run computes it."""
    batch = make_batch(settings, members, 0, StreamState())
    device = next(encoder.model.parameters()).device
    with torch.inference_mode():
        ranks = encoder.model(batch.to(device))["rank/identifier"].cpu().numpy()
    targets = batch.mention_types[: len(ranks)].numpy(), batch.mention_ids[: len(ranks)].numpy()
    assert np.array_equal(targets, (types, ids)), "the micro-batch has other targets"
    return ranks


def _join(parts: list[RankedMentions]) -> RankedMentions:
    shifts = np.cumsum([0, *(len(part.doc_ids) for part in parts)])
    return RankedMentions(
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

"""Compare an encoder with two count baselines on the hidden mentions of a validation split.

    validation split ─rank_hidden_mentions─▶ RankedMentions ┐
    training split ─count─▶ TrainCounts ────────────────────┴▶ Comparison

Each system is given the true type of a mention and ranks all concepts of that type.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embre.config import ConfigError, DataConfig, MaskingConfig, PretrainConfig, load_config
from embre.model.encoder_folder import PretrainedEncoder
from embre.model.identifier_scores import GROUPS, frequency_bounds, score_sums
from embre.probe.co_occurrence import TrainCounts, count
from embre.probe.hidden_mentions import RankedMentions, rank_hidden_mentions
from embre.provenance import CONFIG, read_lineage
from embre.refused import Refused
from embre.shards.entities import EntityVocabulary
from embre.shards.shard_set import ShardSet
from embre.stream.source import StreamSource

SYSTEMS = ("encoder", "frequency", "co-occurrence")
DEFAULT_SEED = 13
NUM_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ranks of the true concepts of K hidden mentions by each of SYSTEMS.

    `ranks` (K,) per system, 1 is best; `predicted` (K,) the vocabulary row of the concept that
    co-occurrence ranks first. `masking_of` names the source of the masking settings; `own_shards`
    is false if the encoder was trained on another shard set.
    """

    source: StreamSource
    masking_of: str
    own_shards: bool
    mentions: RankedMentions
    num_train_documents: int
    ranks: dict[str, np.ndarray]
    predicted: np.ndarray

    def examples(self) -> list[int]:
        """Indices of the first NUM_EXAMPLES mentions, of distinct concepts, that the encoder
        identifies and co-occurrence does not."""
        encoder, counting = self.ranks[SYSTEMS[0]], self.ranks[SYSTEMS[2]]
        found = np.flatnonzero((encoder == 1) & (counting > 1))
        _, first = np.unique(self.mentions.rows[found], return_index=True)
        in_order = found[first][np.lexsort((found[first], self.mentions.docs[found[first]]))]
        return in_order[:NUM_EXAMPLES].tolist()

    def scores(self, entities: EntityVocabulary) -> dict[str, dict[str, dict[str, float]]]:
        """Top-1 and MRR by system and group of mentions (see `identifier_scores`)."""
        bounds, found = frequency_bounds(entities), {}
        for system, ranks in self.ranks.items():
            sums = score_sums(self.mentions.types, self.mentions.ids, ranks, bounds)
            found[system] = {
                group: {
                    "mentions": int(number),
                    "top1": sums[f"top1/{group}"] / number,
                    "mrr": sums[f"mrr/{group}"] / number,
                }
                for group in GROUPS
                if (number := sums[f"count/{group}"])
            }
        return found


def source_for(
    encoder: PretrainedEncoder, shards: str, num_strips: int | None, config: PretrainConfig | None
) -> StreamSource:
    """The source of a shard set's validation split, masked as the encoder's run masks it.

    Only mentions are hidden, and all by [MASK]. Without the config of the run, its defaults apply.
    Raises Refused if the set has no validation split.
    """
    shard_set = ShardSet.open(shards)
    if not shard_set.shards("validation"):
        raise Refused(
            f"{shards}: no validation split; shard again with a larger --validation-share"
        )
    data = config.data if config else DataConfig(shards=shards)
    masking = config.masking if config else MaskingConfig()
    changes: dict[str, Any] = {
        "shards": shards,
        "streams": 1,
        "max_document_tokens": min(data.max_document_tokens, encoder.max_tokens),
        "validation_strips": num_strips or data.validation_strips,
        "on_bad_shard": "fail",
    }
    only_mentions = {"objective": "entity", "replace_share": 0.0, "keep_share": 0.0}
    return StreamSource.build(
        shard_set,
        data.model_copy(update=changes),
        masking.model_copy(update=only_mentions),
        encoder.entities,
        encoder.tokenizer,
        config.seed if config else DEFAULT_SEED,
    )


def run_config(folder: Path) -> PretrainConfig | None:
    """The config of the run whose folder contains an encoder's folder; None if there is none.

    Raises ConfigError if the config cannot be read by this version.
    """
    path = folder.absolute().parent / CONFIG
    if not path.is_file():
        return None
    try:
        config = load_config(PretrainConfig, path)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; written by another version: copy {folder} out of its run to use the default "
            "settings"
        ) from error
    return config if config.name == read_lineage(folder).get("run") else None


def probe_shards(
    encoder: PretrainedEncoder,
    shards: str,
    num_strips: int | None,
    progress: Callable[[], None] = lambda: None,
) -> Comparison:
    """Rank the same hidden mentions of a validation split by the encoder and by the counts.

    `progress` is called after each validation strip and each training shard.
    """
    config = run_config(encoder.folder)
    source = source_for(encoder, shards, num_strips, config)
    mentions = rank_hidden_mentions(encoder, source, progress)
    counts = count(source, np.unique(np.concatenate(mentions.visible)), progress)
    by_frequency, naive_bayes_scores, predicted = by_counting(mentions, counts, encoder.entities)
    return Comparison(
        source=source,
        masking_of=f"run {config.name}" if config else "the defaults of a run",
        own_shards=read_lineage(encoder.folder).get("shard_set")
        == source.shard_set.manifest.digest,
        mentions=mentions,
        num_train_documents=counts.num_documents,
        ranks=dict(zip(SYSTEMS, (mentions.ranks, by_frequency, naive_bayes_scores), strict=True)),
        predicted=predicted,
    )


def by_counting(
    mentions: RankedMentions, counts: TrainCounts, entities: EntityVocabulary
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K,) ranks of the true concepts by frequency, (K,) ranks by co-occurrence, and (K,) the row
    of the concept that co-occurrence ranks first."""
    frequency, co_occurring, predicted = (
        np.zeros(len(mentions.rows), dtype=np.int64) for _ in range(3)
    )
    all_hashes = entities.table["hash"].to_numpy()
    # All mentions of one type in one document share the same scores.
    groups, places = np.unique(
        np.stack([mentions.docs, mentions.types]), axis=1, return_inverse=True
    )
    for number, (doc, kind) in enumerate(groups.T.tolist()):
        first = int(entities.firsts[kind])
        rows = slice(first, first + entities.sizes[kind])
        hashes = all_hashes[rows]
        frequent = counts.by_frequency(rows)
        beside = counts.naive_bayes_scores(rows, mentions.visible[doc].tolist())
        members = np.flatnonzero(places == number)
        predicted[members] = first + first_of(beside, hashes)
        for member in members.tolist():
            frequency[member] = rank_of(int(mentions.ids[member]), frequent, hashes)
            co_occurring[member] = rank_of(int(mentions.ids[member]), beside, hashes)
    return frequency, co_occurring, predicted


def rank_of(true: int, scores: np.ndarray, hashes: np.ndarray) -> int:
    """1-based rank of concept `true` by descending score; ties are broken by hash, which depends
    on neither frequency nor correctness."""
    equal = (scores == scores[true]) & (hashes < hashes[true])
    return 1 + int(np.count_nonzero(scores > scores[true]) + np.count_nonzero(equal))


def first_of(scores: np.ndarray, hashes: np.ndarray) -> int:
    """Index of the concept of rank 1."""
    best = np.flatnonzero(scores == scores.max())
    return int(best[np.argmin(hashes[best])])

"""The source of a stream, with damaged shards quarantined, and the state of a stream."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

from embre.config import DataConfig, MaskingConfig
from embre.refused import Refused
from embre.shards.entities import EntityVocabulary
from embre.shards.shard_set import DamagedShard, ShardEntry, ShardSet
from embre.stream.examples import NO_EXAMPLES, Examples, cut, join
from embre.stream.layout import NUM_SPECIAL, BatchSettings
from embre.tokenization.tokenizer import TextTokenizer

log = logging.getLogger(__name__)


class StreamState(NamedTuple):
    """Position of a stream: examples done in a round of an epoch."""

    epoch: int = 0
    round: int = 0
    done: int = 0


@dataclass(frozen=True, slots=True)
class StreamSource:
    """Everything needed to read a stream; small enough to send to a loader process.

    `quarantine` is the folder that lists damaged shards, which are skipped. If None, a damaged
    shard is an error.
    """

    shard_set: ShardSet
    data: DataConfig
    settings: BatchSettings
    seed: int
    quarantine: Path | None = None

    @classmethod
    def build(
        cls,
        shard_set: ShardSet,
        data: DataConfig,
        masking: MaskingConfig,
        entities: EntityVocabulary,
        tokenizer: TextTokenizer,
        seed: int,
        quarantine: Path | None = None,
    ) -> Self:
        """Build a source, checking that shards, tokenizer and settings match.

        Raises Refused if the set was made with another tokenizer or has too few shards.
        """
        if shard_set.manifest.tokenizer != tokenizer.fingerprint:
            raise Refused(
                f"{shard_set.url}: made with another tokenizer than the encoder's "
                f"({shard_set.manifest.vocabulary:,} against {tokenizer.vocabulary:,} tokens); "
                "shard again with --tokenizer set to the encoder's folder"
            )
        num_shards = len(shard_set.shards("train"))
        if num_shards < data.streams:
            raise Refused(
                f"{shard_set.url}: {num_shards} training shards for {data.streams} streams; lower "
                "data.streams or shard again with a smaller --shard-documents"
            )
        if data.on_bad_shard == "fail":
            quarantine = None
        elif quarantine:  # another set may have intact shards of the same names
            quarantine /= shard_set.manifest.digest[:16]
        settings = BatchSettings.of(
            tokenizer,
            strip_tokens=data.strip_tokens,
            max_document_tokens=data.max_document_tokens,
            masking=masking,
            entities=entities,
        )
        return cls(shard_set, data, settings, seed, quarantine)

    def read(self, shard: ShardEntry, epoch: int) -> Examples:
        """Read the examples of a shard in order; none if it is quarantined.

        A shard stays quarantined for the rest of the run: repaired midway, it would shift the
        examples that follow. Raises DamagedShard if there is no quarantine.
        """
        limit = self.settings.max_document_tokens - NUM_SPECIAL
        note = self.quarantine and self.quarantine / f"{shard.name}.txt"
        if note and note.exists():
            return NO_EXAMPLES
        try:
            blocks = self.shard_set.load(shard)
        except DamagedShard as error:
            if not note:
                raise
            log.warning("shard quarantined: %s", error)
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(f"{error}\n")
            return NO_EXAMPLES
        return join([cut(block, limit, self.seed, epoch) for block in blocks])

    def num_quarantined(self) -> int:
        """Number of quarantined shards."""
        return len(list(self.quarantine.glob("*.txt"))) if self.quarantine else 0

    def with_masking(self, masking: MaskingConfig) -> Self:
        """The same source with another masking."""
        return replace(self, settings=replace(self.settings, masking=masking))

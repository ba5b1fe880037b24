"""Small shard sets of invented documents, and the sources that stream them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embre.config import DataConfig, MaskingConfig
from embre.corpora import write_pubtator
from embre.corpora.assemble import as_checked
from embre.demo.corpus import make_corpus
from embre.document import Document
from embre.sharding.shard import TOKENIZER, ShardSettings, shard
from embre.shards.encode import encode_documents
from embre.shards.entities import choose_entities
from embre.shards.shard_set import ShardSet, pack_block
from embre.stream.examples import Examples, cut
from embre.stream.source import StreamSource
from embre.tally import Tally
from embre.tokenization.tokenizer import TextTokenizer, load_tokenizer

SMALL = ShardSettings(block_documents=2, shard_documents=4, validation_share=0.0, vocabulary=600)


def write_shards(
    folder: Path,
    docs: int | Iterable[Document],
    settings: ShardSettings = SMALL,
    hold_out: Iterable[str | Path] = (),
    tokenizer: Path | None = None,
    seed: int = 1,
) -> ShardSet:
    """The shard set `folder/shards` of documents, or of that many invented ones."""
    docs = make_corpus(docs, seed) if isinstance(docs, int) else docs
    text = folder / "docs.PubTator"
    write_pubtator(text, docs)
    held = [str(name) for name in hold_out]
    shard([str(text)], folder / "shards", tokenizer, held, settings)
    return ShardSet.open(folder / "shards")


def own_tokenizer(shard_set: ShardSet) -> TextTokenizer:
    """The tokenizer that was learnt for a shard set."""
    return load_tokenizer(Path(shard_set.url) / TOKENIZER)


def source_of(
    shard_set: ShardSet,
    masking: MaskingConfig | None = None,
    seed: int = 13,
    quarantine: Path | None = None,
    **data: Any,
) -> StreamSource:
    """A source of short strips, where most documents are cut into pieces."""
    sizes = {"streams": 3, "strip_tokens": 128, "max_document_tokens": 48} | data
    return StreamSource.build(
        shard_set,
        DataConfig(shards=shard_set.url, **sizes),
        masking or MaskingConfig(),
        choose_entities(shard_set, min_count=2, max_per_type=1000),
        own_tokenizer(shard_set),
        seed,
        quarantine,
    )


def whole_examples(
    docs: Iterable[Document], tokenizer: TextTokenizer, seed: int = 13, epoch: int = 0
) -> Examples:
    """Documents as examples, uncut and in their order."""
    encoded = encode_documents([as_checked(doc) for doc in docs], tokenizer, Tally())
    block = pack_block(encoded, 0, len(encoded.doc_ids), tokenizer.vocabulary)
    return cut(block, len(block.tokens), seed, epoch)

"""A shard set that the tests of the stream read, and what is in it."""

import numpy as np
import pytest

from embre.corpora.assemble import as_checked
from embre.demo.corpus import make_corpus
from embre.shards.encode import encode_documents
from embre.shards.shard_set import ShardSet
from embre.stream.source import StreamSource
from embre.tally import Tally
from tests.shard_sets import own_tokenizer, source_of, write_shards
from tests.stream.steps import NUM_DOCUMENTS


@pytest.fixture(scope="package")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Ten shards of four documents, most of them longer than a piece may be."""
    return write_shards(tmp_path_factory.mktemp("set"), NUM_DOCUMENTS)


@pytest.fixture(scope="package")
def source(shard_set: ShardSet) -> StreamSource:
    return source_of(shard_set)


@pytest.fixture(scope="package")
def documents(shard_set: ShardSet) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tokens and mentions of every document, not from the shards but from its text."""
    found = {}
    for doc in make_corpus(NUM_DOCUMENTS, seed=1):
        encoded = encode_documents([as_checked(doc)], own_tokenizer(shard_set), Tally())
        found[doc.doc_id] = encoded.tokens, encoded.mentions
    return found

"""A shard set is what its manifest says: readable by anyone, reproducible, refused when damaged."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import webdataset

from embre.corpora.assemble import as_checked
from embre.demo.corpus import make_corpus
from embre.entity_types import TYPE_INDEX
from embre.sharding.shard import TOKENIZER, ShardSettings
from embre.shards.encode import encode_documents
from embre.shards.mention_row import MENTION_ROW
from embre.shards.shard_set import MANIFEST, Block, ShardSet, pack_block, write_shard
from embre.tally import Tally
from tests.shard_sets import own_tokenizer, write_shards
from tests.tiny import document

NUM_DOCUMENTS = 14
SETTINGS = ShardSettings(block_documents=2, shard_documents=4, validation_share=0.3, vocabulary=600)


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("set"), NUM_DOCUMENTS, SETTINGS)


@pytest.fixture
def copied(shard_set: ShardSet, tmp_path: Path) -> Path:
    """A copy of the shard set that a test may damage."""
    for file in Path(shard_set.url).iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def blocks_of(shard_set: ShardSet) -> list[Block]:
    return [block for shard in shard_set.manifest.shards for block in shard_set.load(shard)]


def assert_same_block(first: Block, second: Block) -> None:
    assert first.doc_ids == second.doc_ids
    for name in ("tokens", "docs", "mentions"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype == getattr(second, name).dtype


def test_what_is_written_is_what_is_loaded(shard_set: ShardSet) -> None:
    tokenizer = own_tokenizer(shard_set)
    docs = {doc.doc_id: as_checked(doc) for doc in make_corpus(NUM_DOCUMENTS, seed=1)}
    blocks = blocks_of(shard_set)
    assert sorted(name for block in blocks for name in block.doc_ids) == sorted(docs)
    for block in blocks:
        together = encode_documents([docs[n] for n in block.doc_ids], tokenizer, Tally())
        assert_same_block(block, pack_block(together, 0, len(block.doc_ids), tokenizer.vocabulary))
        for name, start, end in zip(
            block.doc_ids, block.starts()[:-1], block.starts()[1:], strict=True
        ):
            alone = encode_documents([docs[name]], tokenizer, Tally())
            np.testing.assert_array_equal(block.tokens[start:end], alone.tokens)
            spans = block.mentions[
                (block.mentions["start"] >= start) & (block.mentions["end"] <= end)
            ]
            np.testing.assert_array_equal(spans["start"] - start, alone.mentions["start"])
            np.testing.assert_array_equal(spans["concept"], alone.mentions["concept"])


def test_a_block_of_documents_with_empty_passages_comes_back(tmp_path: Path) -> None:
    block = Block(
        tokens=np.arange(5, dtype=np.uint16),
        docs=np.array([[0, 0], [0, 0], [0, 3], [1, 3]], dtype=np.uint32),
        mentions=np.zeros(0, dtype=MENTION_ROW),
        doc_ids=["a.b", "ü/2"],
    )
    assert block.starts().tolist() == [0, 3, 5]
    write_shard(tmp_path / "train-000000.tar", "train", [block])
    samples = plain_samples(tmp_path / "train-000000.tar")
    assert samples[0]["meta.json"] == {"documents": ["a.b", "ü/2"]}


@pytest.mark.parametrize(("vocabulary", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_token_ids_take_two_bytes_where_they_fit(
    shard_set: ShardSet, vocabulary: int, dtype: type
) -> None:
    docs = [as_checked(doc) for doc in make_corpus(1, seed=1)]
    encoded = encode_documents(docs, own_tokenizer(shard_set), Tally())
    assert pack_block(encoded, 0, 1, vocabulary).tokens.dtype == dtype


def test_two_runs_write_the_same_bytes(shard_set: ShardSet, tmp_path: Path) -> None:
    again = write_shards(tmp_path, NUM_DOCUMENTS, SETTINGS)
    assert again.manifest == shard_set.manifest
    names = [*(entry.name for entry in again.manifest.shards), MANIFEST, "concepts.parquet"]
    for name in names:
        digests = {
            hashlib.sha256((Path(found.url) / name).read_bytes()).hexdigest()
            for found in (again, shard_set)
        }
        assert len(digests) == 1, name


def plain_samples(path: Path) -> list[dict]:
    return list(webdataset.WebDataset(str(path), shardshuffle=False).decode())


def test_plain_webdataset_reads_arrays_and_json(shard_set: ShardSet) -> None:
    for entry in shard_set.manifest.shards:
        samples = plain_samples(Path(shard_set.url) / entry.name)
        documents = [name for sample in samples for name in sample["meta.json"]["documents"]]
        assert len(documents) == entry.documents
        assert sum(len(sample["tokens.npy"]) for sample in samples) == entry.tokens
        for sample in samples:
            assert sample["tokens.npy"].dtype == np.uint16
            assert sample["docs.npy"].shape[1] == 2
            rows = sample["mentions.npy"]
            assert rows.dtype.names == ("start", "end", "type", "concept")
            assert (rows["start"] < rows["end"]).all()
            assert rows["end"].max() <= len(sample["tokens.npy"])


def test_no_key_has_a_dot_and_no_two_are_the_same(shard_set: ShardSet) -> None:
    keys = [
        sample["__key__"]
        for entry in shard_set.manifest.shards
        for sample in plain_samples(Path(shard_set.url) / entry.name)
    ]
    assert len(set(keys)) == len(keys) == len(blocks_of(shard_set))
    assert not [key for key in keys if "." in key]


def test_the_manifest_adds_up(shard_set: ShardSet) -> None:
    manifest = shard_set.manifest
    docs = make_corpus(NUM_DOCUMENTS, seed=1)
    whole = manifest.total()
    assert whole.documents == NUM_DOCUMENTS
    assert whole.mentions == {
        name: sum(m.type == name for doc in docs for m in doc.mentions) for name in TYPE_INDEX
    }
    splits = [manifest.total(split) for split in ("train", "validation")]
    assert min(split.documents for split in splits) > 0
    for field in ("documents", "tokens", "bytes"):
        assert sum(getattr(split, field) for split in splits) == getattr(whole, field)
    for entry in manifest.shards:
        data = (Path(shard_set.url) / entry.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.bytes, entry.sha256)
        blocks = shard_set.load(entry)
        assert sum(len(block.doc_ids) for block in blocks) == entry.documents
        assert sum(len(block.tokens) for block in blocks) == entry.tokens
        assert sum(len(block.mentions) for block in blocks) == sum(entry.mentions.values())
    assert whole.tokens == sum(len(block.tokens) for block in blocks_of(shard_set))


def test_a_mention_of_two_concepts_counts_once(tmp_path: Path) -> None:
    docs = [document("both <braf|Gene|673,5604> and <kras|Gene|3845> matter")]
    manifest = write_shards(tmp_path, docs).manifest
    assert manifest.total().mentions["Gene"] == 2
    assert manifest.concepts["rows"] == 3


def test_a_truncated_shard_is_refused_by_name(copied: Path) -> None:
    entry = ShardSet.open(copied).manifest.shards[0]
    path = copied / entry.name
    path.write_bytes(path.read_bytes()[:-1024])
    with pytest.raises(ValueError, match=rf"{entry.name}.*damaged"):
        ShardSet.open(copied).load(entry)


def test_one_flipped_bit_is_refused_by_name(copied: Path) -> None:
    first, second = ShardSet.open(copied).manifest.shards[:2]
    data = bytearray((copied / second.name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / second.name).write_bytes(data)
    assert ShardSet.open(copied).load(first)
    with pytest.raises(ValueError, match=rf"{second.name}.*damaged"):
        ShardSet.open(copied).load(second)


def test_a_shard_that_is_gone_is_named(copied: Path) -> None:
    entry = ShardSet.open(copied).manifest.shards[0]
    (copied / entry.name).unlink()
    with pytest.raises(FileNotFoundError, match=entry.name):
        ShardSet.open(copied).load(entry)


def test_without_a_manifest_there_is_no_shard_set(copied: Path) -> None:
    (copied / MANIFEST).unlink()
    for place in (copied, next(copied.glob("*.tar"))):
        with pytest.raises(FileNotFoundError, match=r"no shard set here.*shard_pubtator"):
            ShardSet.open(place)


def test_another_format_is_refused(copied: Path) -> None:
    values = json.loads((copied / MANIFEST).read_text())
    (copied / MANIFEST).write_text(json.dumps(values | {"format": 3}))
    with pytest.raises(ValueError, match="shard format 3, not 2"):
        ShardSet.open(copied)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}'])
def test_a_broken_manifest_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=rf"{MANIFEST}: not a shard manifest"):
        ShardSet.open(tmp_path)


@pytest.mark.parametrize(
    "name",
    "../x.tar /tmp/y.tar a::https://h/x a::https://h/x.tar .x.tar x/y.tar x.tar.gz x.tar\n".split(
        " "
    ),
)
def test_a_shard_that_is_not_in_the_folder_of_its_manifest_is_refused(
    copied: Path, name: str
) -> None:
    values = json.loads((copied / MANIFEST).read_text())
    values["shards"][1]["name"] = name
    (copied / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"{MANIFEST}: shards\.1: .*not the name") as refused:
        ShardSet.open(copied)
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "pipe:cat /etc/passwd",
        "pipe://cat",
        "http://x/y",
        "simplecache::s3://x",
        "memory://x",
        "simplecache::/x",
        "file:///x::/y",
        "https://a::file:///etc",
    ],
)
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="only file, s3, gs, https are read"):
        ShardSet.open(url)


def test_no_variable_of_webdataset_turns_a_shard_into_a_command(
    shard_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own opener would run what GOPEN_REWRITE makes of a path; ours never goes there."""
    canary = tmp_path / "canary"
    monkeypatch.setenv("GOPEN_REWRITE", f".*=pipe:touch {canary}")
    assert ShardSet.open(shard_set.url).manifest == shard_set.manifest
    assert sum(len(block.doc_ids) for block in blocks_of(shard_set)) == NUM_DOCUMENTS
    assert not canary.exists()
    with webdataset.gopen(f"{shard_set.url}/train-000000.tar") as stream:
        stream.read()
    assert canary.exists(), "this variable does nothing, so the test shows nothing"


def test_a_shard_set_opens_from_a_file_url(shard_set: ShardSet) -> None:
    found = ShardSet.open(f"file://{shard_set.url}/")
    assert found.manifest == shard_set.manifest
    assert found.load(found.manifest.shards[0])


def test_the_digest_names_the_data(shard_set: ShardSet, tmp_path: Path) -> None:
    tokenizer = Path(shard_set.url) / TOKENIZER
    other = write_shards(tmp_path, NUM_DOCUMENTS, SETTINGS, tokenizer=tokenizer, seed=2)
    assert other.manifest.tokenizer == shard_set.manifest.tokenizer
    assert other.manifest.digest != shard_set.manifest.digest

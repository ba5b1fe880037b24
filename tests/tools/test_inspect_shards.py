"""tools/inspect_shards.py: shows what is there, and finds whatever is wrong with a shard set."""

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import webdataset
from rich.text import Text
from typer import Typer
from typer.testing import CliRunner, Result

from embre.entity_types import TYPE_INDEX
from embre.shards.check import check_shards
from embre.shards.documents import ConceptNames, find_documents, join_word_pieces
from embre.shards.entities import CONCEPTS
from embre.shards.shard_set import MANIFEST, ShardSet
from embre.shards.statistics import STATISTICS, statistics_of_set, write_statistics
from tests.shard_sets import own_tokenizer, write_shards
from tests.tiny import document, tiny_tokenizer
from tools.inspect_shards import document_text, main

DOCS = [
    document("<BRAF|Gene|673> causes <melanoma|Disease|D1> and <p53|Gene|->.", doc_id="11"),
    document("<BRAF|Gene|673> and <AKT1,2|Gene|207,208> in <mice|Species|10090>.", doc_id="12"),
    *(document(f"A study of <aspirin|Chemical|D2> {n}.", doc_id=str(n)) for n in range(13, 20)),
]


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("set"), DOCS)


@pytest.fixture
def copied(shard_set: ShardSet, tmp_path: Path) -> Path:
    """A copy of the shard set that a test may damage."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for file in Path(shard_set.url).iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def inspect(*arguments: object) -> Result:
    app = Typer()
    app.command()(main)
    return CliRunner().invoke(
        app, [str(argument) for argument in arguments], env={"COLUMNS": "200"}
    )


def flat(text: str) -> str:
    return " ".join(text.split())


def put(folder: Path, name: str, **changes: np.ndarray) -> None:
    """Write a shard anew with other arrays in its first block, and a manifest that believes it."""
    samples = list(webdataset.WebDataset(str(folder / name), shardshuffle=False))
    for key, array in changes.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        samples[0][f"{key}.npy"] = buffer.getvalue()
    with webdataset.TarWriter(str(folder / name), encoder=False) as writer:
        for sample in samples:
            writer.write({k: v for k, v in sample.items() if k == "__key__" or k[0] != "_"})
    believe(folder, name)


def believe(folder: Path, name: str) -> None:
    """Put the size and digest of a file as it now is into the manifest."""
    manifest = ShardSet.open(folder).manifest
    data = (folder / name).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    shards = [
        msgspec.structs.replace(entry, bytes=len(data), sha256=digest)
        if entry.name == name
        else entry
        for entry in manifest.shards
    ]
    rewrite(folder, shards=shards)


def rewrite(folder: Path, **fields: object) -> None:
    manifest = msgspec.structs.replace(ShardSet.open(folder).manifest, **fields)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))


def test_a_sound_set_is_verified_in_one_line(shard_set: ShardSet) -> None:
    for url in (shard_set.url, f"file://{shard_set.url}"):
        found = inspect(url, "--verify")
        assert found.exit_code == 0, found.output
        assert re.fullmatch(
            r"sound: 3 shards, 9 documents, [\d,]+ tokens and 13 mentions .*", flat(found.output)
        )


def test_every_damaged_shard_is_named_and_no_other(copied: Path) -> None:
    first, second, third = (entry.name for entry in ShardSet.open(copied).manifest.shards)
    data = bytearray((copied / first).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / first).write_bytes(data)
    (copied / third).unlink()
    found = inspect(copied, "--verify")
    assert found.exit_code == 1
    assert f"{first}:" in found.output and f"{third}:" in found.output
    assert second not in found.output and "SHA-256" in found.output


def first_block(folder: Path):
    shard_set = ShardSet.open(folder)
    return shard_set.load(shard_set.manifest.shards[0])[0]


def broken_mentions(change: Callable[[np.ndarray, Path], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        rows = first_block(folder).mentions.copy()
        change(rows, folder)
        put(folder, ShardSet.open(folder).manifest.shards[0].name, mentions=rows)

    return damage


def into_the_next_document(rows: np.ndarray, folder: Path) -> None:
    rows["end"][0] = first_block(folder).starts()[1] + 1


def to_another_concept(rows: np.ndarray, folder: Path) -> None:
    rows["concept"][0] = 12345


def to_another_type(rows: np.ndarray, folder: Path) -> None:
    rows["type"] = TYPE_INDEX["Variant"]


def without_end(rows: np.ndarray, folder: Path) -> None:
    rows["end"][-1] = rows["start"][-1]


def to_no_type(rows: np.ndarray, folder: Path) -> None:
    rows["type"][0] = 77


def to_the_end(rows: np.ndarray, folder: Path) -> None:
    rows[:] = np.roll(rows, -1)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (broken_mentions(into_the_next_document), "a mention outside its document"),
        (broken_mentions(without_end), "a mention outside its document"),
        (broken_mentions(to_another_concept), "1 mention rows whose concept is not in"),
        (broken_mentions(to_another_type), "mentions of type Variant, 0 in the manifest"),
        (broken_mentions(to_no_type), "a mention of an unknown type"),
        (broken_mentions(to_the_end), "the mentions are not sorted by start"),
    ],
)
def test_a_wrong_mention_is_found_behind_a_right_digest(
    copied: Path, damage: Callable[[Path], None], why: str
) -> None:
    damage(copied)
    (name, reasons), *others = check_shards(ShardSet.open(copied)).items()
    assert name == "train-000000.tar" and not others
    assert why in "; ".join(reasons)


def test_wrong_tokens_and_passages_are_found(copied: Path) -> None:
    name, block = "train-000000.tar", first_block(copied)
    tokens = block.tokens.copy()
    tokens[0] = 60_000
    put(copied, name, tokens=tokens)
    assert check_shards(ShardSet.open(copied)) == {
        name: [f"a token id beyond the vocabulary of {ShardSet.open(copied).manifest.vocabulary}"]
    }
    put(copied, name, tokens=block.tokens[:-1])
    assert "tokens" in "; ".join(check_shards(ShardSet.open(copied))[name])
    put(copied, name, tokens=block.tokens, docs=block.docs[block.docs[:, 0] == 0])
    assert check_shards(ShardSet.open(copied))[name][0].startswith("the document numbers do not")


def test_a_tar_that_is_none_is_a_finding_and_no_crash(copied: Path) -> None:
    (copied / "train-000001.tar").write_bytes(b"no tar at all" * 100)
    believe(copied, "train-000001.tar")
    found = inspect(copied, "--verify")
    assert found.exit_code == 1 and "train-000001.tar:" in found.output


def test_counts_of_the_manifest_are_held_against_the_blocks(copied: Path) -> None:
    first, *others = ShardSet.open(copied).manifest.shards
    wrong = msgspec.structs.replace(first, documents=99, mentions=first.mentions | {"Gene": 50})
    rewrite(copied, shards=[wrong, *others])
    (reasons,) = check_shards(ShardSet.open(copied)).values()
    assert reasons[0] == f"{first.documents} documents, 99 in the manifest"
    assert "mentions of type Gene, 50 in the manifest" in reasons[1]


def test_a_document_that_is_there_twice_is_named(copied: Path) -> None:
    first, second, third = ShardSet.open(copied).manifest.shards
    (copied / third.name).write_bytes((copied / first.name).read_bytes())
    same = msgspec.structs.replace(first, name=third.name)
    rewrite(copied, shards=[first, second, same])
    ids = [name for block in ShardSet.open(copied).load(first) for name in block.doc_ids]
    found = check_shards(ShardSet.open(copied))
    assert list(found) == [third.name]
    assert f"{len(ids)} duplicate documents ({', '.join(ids[:3])}" in found[third.name][0]


def test_the_concept_table_and_the_statistics_are_checked(copied: Path) -> None:
    shard_set = ShardSet.open(copied)
    counted = statistics_of_set(shard_set)
    rows = counted.rows | {"Gene": 1000}
    write_statistics(copied, shard_set.manifest, msgspec.structs.replace(counted, rows=rows))
    assert check_shards(shard_set) == {STATISTICS: ["differs from the counts of the shards"]}
    write_statistics(copied, shard_set.manifest, counted)
    # A shard of the set less: the table then counts too much.
    rewrite(copied, shards=shard_set.manifest.shards[:-1])
    found = check_shards(ShardSet.open(copied))
    assert list(found) == [CONCEPTS] and "another count than in the shards" in found[CONCEPTS][0]
    with (copied / CONCEPTS).open("ab") as file:
        file.write(b"x")
    found = inspect(copied, "--verify")
    assert found.exit_code == 1 and f"{CONCEPTS}: not the table of the manifest" in found.output


def test_the_tables_show_what_is_there(shard_set: ShardSet) -> None:
    found = inspect(shard_set.url, "--top", 1, "--entities-min-count", 2)
    assert found.exit_code == 0, found.output
    shown = flat(found.output)
    assert "train │ 3 │ 9 │" in shown
    assert "Gene │ 4 │ 30.8% │ 75.0%" in shown  # of 13 mentions; p53 has no identifier
    assert "Gene │ 3 │ 1 │ 50.0% │ 40.0%" in shown  # rows: BRAF twice of 4, and of 5
    assert "Gene │ 673 │ BRAF │ 2" in shown and "AKT1" not in shown
    assert shard_set.manifest.digest in shown and "docs.PubTator" in shown


@pytest.mark.parametrize("keep_manifest", [True, False])
def test_a_set_that_is_missing_or_not_complete_is_said_plainly(
    tmp_path: Path, keep_manifest: bool
) -> None:
    if keep_manifest:
        (tmp_path / MANIFEST).write_text("{")
    for option in ((), ("--verify",), ("--documents", 1)):
        found = inspect(tmp_path, *option)
        assert found.exit_code == 2
        assert MANIFEST in found.stderr and "Traceback" not in found.output


@pytest.mark.parametrize("option", [("--id", "1"), ("--documents", "1")])
def test_verify_leaves_no_option_out_silently(shard_set: ShardSet, option: tuple[str, str]) -> None:
    found = inspect(shard_set.url, "--verify", *option)
    assert found.exit_code == 2 and "--verify shows no documents" in flat(found.stderr)


def shown_text(shard_set: ShardSet, doc_id: str, length: int | None = None) -> list[Text]:
    (doc,) = find_documents(shard_set, 0, [doc_id])
    names = ConceptNames.of(shard_set)
    return list(document_text(doc, own_tokenizer(shard_set), names, length))


def test_mentions_stand_in_colour_with_what_they_are(shard_set: ShardSet) -> None:
    (text,) = shown_text(shard_set, "11")
    assert text.plain == ("braf[Gene:673 BRAF] causes melanoma[Disease:D1 melanoma] and p53[Gene].")
    styles = {text.plain[s.start : s.end].strip(): str(s.style) for s in text.spans if s.style}
    assert styles["braf"] == "bold magenta" and styles["melanoma"] == "bold red"
    assert styles["[Disease:D1 melanoma]"] == "dim"
    (text,) = shown_text(shard_set, "12")
    assert "[Gene:207 AKT1,2; Gene:208 AKT1,2]" in text.plain
    (text,) = shown_text(shard_set, "12", length=1)
    assert text.plain == "braf[Gene:673 BRAF]"


def test_documents_are_shown_by_number_and_by_id(shard_set: ShardSet) -> None:
    tokenizer = ("--tokenizer", Path(shard_set.url) / "tokenizer")
    for option in ((), tokenizer):
        found = inspect(shard_set.url, "--documents", 2, "--id", "19", *option)
        assert found.exit_code == 0, found.output
        assert len(re.findall(r"train-00000\d.tar, \d+ tokens", found.output)) in (2, 3)
        assert "[Chemical:D2 aspirin] 19." in found.output
    found = inspect(shard_set.url, "--id", "11", "--id", "nowhere")
    assert found.exit_code == 2 and "no document nowhere" in found.stderr


def test_control_characters_of_the_data_are_written_out(tmp_path: Path) -> None:
    docs = [document("<BRAF\x1b[31m|Gene|673> [red]is\x9b2J.", doc_id="\x1b[2J7"), *DOCS[2:]]
    shard_set = write_shards(tmp_path, docs)
    for options in (("--documents", 20), ()):
        found = inspect(shard_set.url, *options)
        assert found.exit_code == 0 and "BRAF\\x1b[31m" in found.output
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", found.output)
        assert not options or "\\x1b[2J7  train-" in found.output


def test_another_tokenizer_is_refused_with_both_fingerprints(
    shard_set: ShardSet, copied: Path, tmp_path: Path
) -> None:
    other = tiny_tokenizer(tmp_path / "other")
    found = inspect(shard_set.url, "--documents", 1, "--tokenizer", tmp_path / "other")
    assert found.exit_code == 2
    assert other.fingerprint in found.stderr and shard_set.manifest.tokenizer in found.stderr
    found = inspect(copied, "--documents", 1)  # the copy is without its tokenizer
    assert found.exit_code == 2 and "give its folder with --tokenizer" in flat(found.stderr)


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ("p ##53 ( tp ##53 ) , p < 0 . 05 .", "p53 (tp53), p < 0.05."),
        ("in 2010 . we", "in 2010. we"),
        ("beta - catenin / wnt [ 3h ]", "beta-catenin/wnt [3h]"),
        ("", ""),
    ],
)
def test_word_pieces_are_joined_readably(pieces: str, text: str) -> None:
    assert "".join(join_word_pieces(pieces.split())) == text

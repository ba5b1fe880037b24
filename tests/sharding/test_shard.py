"""Whatever the format, the same documents give the same shard set; what is left out is counted."""

import gzip
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from embre.corpora import read_documents, write_pubtator
from embre.demo.corpus import make_corpus
from embre.document import Concept
from embre.held_out import read_hold_out_list
from embre.sharding.order import Rows
from embre.sharding.parts import split_and_place
from embre.sharding.shard import TOKENIZER, ShardSettings, _shards_to_do, shard
from embre.sharding.tasks import Progress
from embre.sharding.work_folder import WorkFolder
from embre.shards.concept_hash import concept_hash
from embre.shards.entities import CONCEPTS
from embre.shards.shard_set import MANIFEST, Manifest, ShardSet
from embre.tally import Tally
from tests.bioc_json_files import write_bioc_json
from tests.shard_sets import SMALL, write_shards
from tests.tiny import document
from tools.shard_pubtator import main

ROOT = Path(__file__).resolve().parents[2]
BIORED_FILES = ("Dev.PubTator", "Dev.BioC.XML", "Dev.BioC.JSON")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PubTator file of twelve invented documents."""
    path = tmp_path_factory.mktemp("demo") / "demo.PubTator"
    write_pubtator(path, make_corpus(12, seed=1))
    return path


@pytest.fixture(scope="module")
def biored_dev(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    """The manifest of BioRED Dev by the name of the file that it was sharded from."""
    folder = tmp_path_factory.mktemp("biored")
    return {
        name: shard(
            [str(corpora / "biored" / name)],
            folder / name,
            corpora / "pubmedbert",
            [],
            ShardSettings(),
        )[0]
        for name in BIORED_FILES
    }


def doc_ids(shard_set: ShardSet, split: str) -> list[str]:
    return [
        name
        for entry in shard_set.shards(split)
        for block in shard_set.load(entry)
        for name in block.doc_ids
    ]


def test_three_formats_of_biored_give_one_shard_set(biored_dev: dict[str, Manifest]) -> None:
    first, *others = biored_dev.values()
    assert first.total().documents == 100
    for other in others:
        assert other.token_digest == first.token_digest
        assert other.total() == first.total()
        assert other.concepts == first.concepts
        assert other.shards == first.shards
    assert not first.dropped


def test_another_text_has_another_token_digest(demo: Path, tmp_path: Path) -> None:
    docs = make_corpus(12, seed=1)
    longer = replace(docs[3], text=docs[3].text[:-1] + "!")
    tokenizer = tmp_path / "a" / "out" / TOKENIZER
    shard([str(demo)], tmp_path / "a" / "out", None, [], SMALL)
    changed = write_shards(tmp_path, [*docs[:3], longer, *docs[4:]], tokenizer=tokenizer)
    same = ShardSet.open(tmp_path / "a" / "out").manifest
    assert same.tokenizer == changed.manifest.tokenizer
    assert same.token_digest != changed.manifest.token_digest


@pytest.mark.slow
def test_the_tool_gives_what_the_function_gives(
    biored_dev: dict[str, Manifest], corpora: Path, tmp_path: Path
) -> None:
    dev = corpora / "biored" / "Dev.BioC.JSON"
    command = [sys.executable, "tools/shard_pubtator.py", dev, "--out", tmp_path]
    command += ["--tokenizer", corpora / "pubmedbert", "--no-shipped-hold-out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ShardSet.open(tmp_path).manifest == biored_dev["Dev.BioC.JSON"]
    assert biored_dev["Dev.PubTator"].token_digest in done.stdout


@pytest.mark.parametrize(
    ("existing", "message"), [(True, "holds a complete"), (False, "does not exist")]
)
def test_the_tool_leaves_with_two_and_a_remedy(
    demo: Path, tmp_path: Path, existing: bool, message: str
) -> None:
    if existing:
        shard([str(demo)], tmp_path, None, [], SMALL)
    app = typer.Typer()
    app.command()(main)
    source = demo if existing else tmp_path / "absent.PubTator"
    result = CliRunner().invoke(app, [str(source), "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_held_out_documents_are_left_out_by_list_and_by_corpus(tmp_path: Path) -> None:
    docs = make_corpus(12, seed=1)
    (tmp_path / "test.txt").write_text(f"{docs[0].doc_id}\r\n {docs[5].doc_id} \n\n77\n")
    write_pubtator(tmp_path / "dev.PubTator", docs[5:8])
    lists = [tmp_path / "test.txt", tmp_path / "dev.PubTator"]
    shard_set = write_shards(tmp_path, docs, hold_out=lists)
    kept = [doc.doc_id for doc in (*docs[1:5], *docs[8:])]
    assert sorted(doc_ids(shard_set, "train")) == sorted(kept)
    assert shard_set.manifest.held_out == {"test.txt": 2, "dev.PubTator": 2}


@pytest.mark.parametrize("by", ["list", "corpus"])
def test_an_article_is_held_out_under_another_id_too(tmp_path: Path, by: str) -> None:
    docs = make_corpus(8, seed=1)
    twins = [replace(doc, doc_id=str(number), pmid=None) for number, doc in enumerate(docs[2:4])]
    if by == "list":  # a list has no texts: they are those of the documents with its ids
        held = tmp_path / "test.txt"
        held.write_text("\n".join(doc.doc_id for doc in docs[2:4]))
    else:
        held = tmp_path / "dev.PubTator"
        spaced = [replace(doc, text=doc.text.upper()) for doc in docs[2:4]]
        write_pubtator(held, spaced)
    shard_set = write_shards(tmp_path, [*twins, *docs], hold_out=[held])
    kept = [doc.doc_id for doc in (*docs[:2], *docs[4:])]
    assert sorted(doc_ids(shard_set, "train")) == sorted(kept)
    assert shard_set.manifest.held_out == {held.name: 4}


def test_one_text_under_two_ids_is_a_copy(tmp_path: Path) -> None:
    docs = make_corpus(3, seed=1)
    shard_set = write_shards(tmp_path, [*docs, replace(docs[1], doc_id="7", pmid=None)])
    assert shard_set.manifest.dropped == {"document/same_text": 1}


def test_a_pmc_article_is_one_whatever_the_format(tmp_path: Path) -> None:
    docs = make_corpus(3, seed=1)
    other = replace(docs[1], text=docs[1].text[:-1] + "!", doc_id="PMC12", pmid=None)
    write_bioc_json(tmp_path / "bioc.json", [other])
    for doc_id in ("PMC12", "pmc12"):
        pubtator = tmp_path / f"{doc_id}.PubTator"
        write_pubtator(pubtator, [replace(other, doc_id=doc_id, text=docs[1].text)])
        inputs = [str(tmp_path / "bioc.json"), str(pubtator)]
        manifest, _ = shard(inputs, tmp_path / f"out-{doc_id}", None, [], SMALL)
        assert manifest.dropped == {"document/same_id": 1} and manifest.total().documents == 1


def test_biored_test_ids_are_read_from_a_plain_list(corpora: Path) -> None:
    found = read_hold_out_list(str(corpora / "biored" / "Test.pmids.txt"))
    assert len(found.ids) == 100 and not found.prints
    assert all(name.isdecimal() for name in found.ids)


def test_a_corpus_with_the_name_of_a_list_is_read_as_a_corpus(tmp_path: Path) -> None:
    docs = make_corpus(3, seed=1)
    write_pubtator(tmp_path / "CDR.PubTator.txt", docs)
    found = read_hold_out_list(str(tmp_path / "CDR.PubTator.txt"))
    assert found.ids == {doc.doc_id for doc in docs} and len(found.prints) >= 3


def test_a_hold_out_list_that_is_not_there_is_an_error(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no-such\.txt"):
        shard([str(demo)], tmp_path, None, [str(tmp_path / "no-such.txt")], SMALL)


def test_of_two_versions_of_an_article_the_longer_stays(demo: Path, tmp_path: Path) -> None:
    docs = make_corpus(12, seed=1)
    shorter = replace(docs[0], text=docs[0].text[: docs[0].passages[0].end], mentions=())
    shorter = replace(shorter, passages=docs[0].passages[:1])
    write_pubtator(tmp_path / "more.PubTator", [docs[4], docs[9], shorter])
    inputs = [str(demo), str(tmp_path / "more.PubTator")]
    alone, _ = shard([str(demo)], tmp_path / "alone", None, [], SMALL)
    tokenizer = tmp_path / "alone" / TOKENIZER
    for name, order in (("one", inputs), ("other", inputs[::-1])):
        manifest, _ = shard(order, tmp_path / name, tokenizer, [], SMALL)
        assert manifest.dropped == {"document/same_pmid": 3}
        assert manifest.shards == alone.shards
        assert {source["name"] for source in manifest.sources} == {"demo.PubTator", "more.PubTator"}


def test_what_is_read_is_written_dropped_or_held_out(demo: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.PubTator"
    empty.write_text("1|t| \n1|a|\n\n")
    (tmp_path / "ids.txt").write_text("\n".join(d.doc_id for d in make_corpus(2, seed=1)))
    steps: list[Progress] = []
    manifest, _ = shard(
        [str(demo), str(demo), str(empty)],
        tmp_path / "out",
        None,
        [str(tmp_path / "ids.txt")],
        SMALL,
        steps.append,
    )
    dropped = {k: n for k, n in manifest.dropped.items() if k.startswith("document/")}
    assert dropped == {"document/same_pmid": 10, "document/without_text": 1}
    assert manifest.held_out == {"ids.txt": 4}
    assert manifest.documents_read == sum(step.documents_read for step in steps) == 25
    written = manifest.total().documents
    assert written == sum(step.documents_written for step in steps) == 25 - 4 - 11


def test_no_document_is_an_error_that_says_what_became_of_them(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"demo\.PubTator: no document to shard \(12 held out"):
        shard([str(demo)], tmp_path / "out", None, [str(demo)], SMALL)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises((ValueError, OSError), match=f"{tmp_path / 'in'}"):
        shard([str(tmp_path / "in")], tmp_path / "out", None, [], SMALL)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_a_complete_shard_set_is_not_touched(demo: Path, tmp_path: Path) -> None:
    first, _ = shard([str(demo)], tmp_path, None, [], SMALL)
    before = files_of(tmp_path)
    again, _ = shard([str(demo)], tmp_path, None, [], SMALL)
    assert again == first
    with pytest.raises(FileExistsError, match="remove the folder or choose another"):
        shard([str(demo)], tmp_path, None, [], replace(SMALL, vocabulary=500))
    assert before == files_of(tmp_path)


@pytest.mark.parametrize("name", ["in.gz", ""])
def test_a_complete_set_is_not_taken_for_that_of_a_changed_input(
    demo: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "in").mkdir()
    file, source, out = tmp_path / "in" / "in.gz", tmp_path / "in" / name, tmp_path / "out"
    file.write_bytes(gzip.compress(demo.read_bytes(), compresslevel=0))
    (tmp_path / "in" / "notes").write_text("no corpus")
    first, _ = shard([str(source)], out, None, [], SMALL)
    before = files_of(out)
    os.utime(file, (2**32, 2**32))
    assert shard([str(source)], out, None, [], SMALL)[0] == first
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=f"another '{source.name}', .* choose another --out or"):
        shard([str(source)], out, None, [], SMALL)
    assert before == files_of(out)


@pytest.mark.parametrize("below", ["", "set"])
def test_a_file_in_the_place_of_the_folder_is_named(demo: Path, tmp_path: Path, below: str) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OSError, match="out.*: --out is a file or within a file; choose a folder"):
        shard([str(demo)], tmp_path / "out" / below, None, [], SMALL)
    assert (tmp_path / "out").read_text() == "mine"


def test_leftovers_of_a_killed_run_are_cleared(demo: Path, tmp_path: Path) -> None:
    for name in ("train-000001.tar.01234567.partial", f"{MANIFEST}.89abcdef.partial", "notes.txt"):
        (tmp_path / name).write_text("half a file")
    manifest, _ = shard([str(demo)], tmp_path, None, [], SMALL)
    files = {file.name for file in tmp_path.iterdir()}
    wanted = {entry.name for entry in manifest.shards}
    card = {"README.md", "card", "statistics.json", "dropped.json"}
    assert files == wanted | card | {MANIFEST, CONCEPTS, TOKENIZER, "notes.txt"}


def test_shards_and_blocks_have_the_sizes_asked_for(demo: Path, tmp_path: Path) -> None:
    shard([str(demo)], tmp_path, None, [], replace(SMALL, block_documents=2, shard_documents=5))
    shard_set = ShardSet.open(tmp_path)
    assert [entry.documents for entry in shard_set.shards("train")] == [4, 4, 4]
    for entry in shard_set.shards("train"):
        assert [len(block.doc_ids) for block in shard_set.load(entry)] == [2, 2]


def test_the_validation_split_is_stable_when_the_corpus_grows(tmp_path: Path) -> None:
    settings = replace(SMALL, validation_share=0.3)
    (tmp_path / "small").mkdir()
    (tmp_path / "large").mkdir()
    small = write_shards(tmp_path / "small", 12, settings)
    large = write_shards(tmp_path / "large", 24, settings)
    known = {doc.doc_id for doc in make_corpus(12, seed=1)}
    for split in ("train", "validation"):
        before, after = doc_ids(small, split), doc_ids(large, split)
        assert before == [name for name in after if name in known]
        assert before and len(after) > len(before)


def test_a_place_is_what_it_always_was() -> None:
    """Else a grown dump would mix training and validation documents of an earlier set."""
    assert split_and_place("12345678", 0.01) == (False, 2592667933772731912)
    assert split_and_place("PMC4272812", 0.5) == (False, 12670800032751989323)


def test_the_validation_split_has_its_share_and_grows_with_it() -> None:
    names = [str(number) for number in range(20_000)]
    chosen = {
        share: {name for name in names if split_and_place(name, share)[0]}
        for share in (0, 0.1, 0.2, 1)
    }
    assert not chosen[0]
    assert chosen[1] == set(names)
    assert len(chosen[0.1]) == pytest.approx(2000, abs=200)
    assert chosen[0.1] < chosen[0.2]


def test_the_concept_table_counts_mentions_and_names_the_commonest_form(tmp_path: Path) -> None:
    texts = [
        "<BRAF|Gene|673> and <braf|Gene|673> in melanoma of patients",
        "inhibitors of <braf|Gene|673,5604> for the <skin|Disease|->",
    ]
    docs = [document(text, doc_id=str(number)) for number, text in enumerate(texts)]
    shard_set = write_shards(tmp_path, docs)
    rows = pq.read_table(f"{shard_set.url}/{CONCEPTS}").to_pylist()
    braf, mek = (concept_hash(Concept("Gene", number)) for number in ("673", "5604"))
    assert [tuple(row.values()) for row in rows] == [
        (braf, "Gene", "673", 3, "braf"),
        (mek, "Gene", "5604", 1, "braf"),
    ]


def test_shards_hold_the_documents_of_the_corpus_in_order_of_their_places(
    biored_dev: dict[str, Manifest], corpora: Path, tmp_path: Path
) -> None:
    docs = list(read_documents(corpora / "biored" / "Dev.PubTator", Tally()))
    settings = replace(ShardSettings(), validation_share=0.0)
    pubmedbert = corpora / "pubmedbert"
    shard([str(corpora / "biored" / "Dev.PubTator")], tmp_path, pubmedbert, [], settings)
    shard_set = ShardSet.open(tmp_path)
    names = sorted((doc.doc_id for doc in docs), key=lambda name: split_and_place(name, 0.0)[1])
    assert doc_ids(shard_set, "train") == names
    counted = Counter(m.type for doc in docs for m in doc.mentions)
    assert shard_set.manifest.total().mentions == counted


def test_shards_of_something_else_are_not_touched(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "train-000000.tar").write_text("of another set")
    with pytest.raises(FileExistsError, match="was not written by a run of this folder"):
        shard([str(demo)], tmp_path, None, [], SMALL)
    assert (tmp_path / "train-000000.tar").read_text() == "of another set"


@pytest.mark.parametrize("out", ["in/out", "link/out", "elsewhere/../in/out", "in"])
@pytest.mark.parametrize("source", ["in", "link"])
def test_a_set_is_not_written_into_its_input(
    demo: Path, tmp_path: Path, source: str, out: str
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(demo, tmp_path / "in")
    (tmp_path / "link").symlink_to("in")
    with pytest.raises(ValueError, match="is within the input"):
        shard([str(tmp_path / source)], tmp_path / out, None, [], SMALL)


def test_a_set_may_be_written_beside_its_input(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(demo, tmp_path / "in")
    shard([str(tmp_path / "in")], tmp_path / "in" / ".." / "out", None, [], SMALL)
    assert (tmp_path / "out" / MANIFEST).exists()


def test_a_call_does_not_go_on_past_shards_that_are_done(tmp_path: Path) -> None:
    """It would read all that lies between its first row and its last."""
    work, num_shards = WorkFolder(tmp_path), 8
    work.folder.mkdir()
    for number in (2, 3, 6):
        work.shard_record(f"train-{number:06d}").touch()
    rows = Rows(*np.zeros((3, 4 * num_shards), dtype=np.int64))
    calls = _shards_to_do({"train": rows}, [], SMALL, work, "run")
    names = [[int(task.name[-6:]) for task in tasks] for *_, tasks in calls]
    assert names == [[0, 1], [4, 5], [7]]


def test_a_hold_out_corpus_that_is_damaged_is_an_error(demo: Path, tmp_path: Path) -> None:
    packed = gzip.compress(demo.read_bytes())
    (tmp_path / "dev.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match="not all of this hold-out corpus"):
        shard([str(demo)], tmp_path / "out", None, [str(tmp_path / "dev.gz")], SMALL)


def run_tool(*given: object) -> tuple[int, str]:
    """Exit code and output of `tools/shard_pubtator.py`."""
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, [str(one) for one in given])
    return result.exit_code, " ".join(result.output.split())


def test_the_tool_leaves_no_option_out_silently(demo: Path, tmp_path: Path) -> None:
    more = ("--ray", "127.0.0.1:9", "--processes", 999)
    code, said = run_tool(demo, "--out", tmp_path / "out", *more)
    assert code == 2 and "--processes cannot be combined with --ray" in said


def damaged_gzip(data: bytes) -> bytes:
    packed = gzip.compress(data, mtime=0)  # the ids of tests may not depend on the time
    return packed[: len(packed) // 2]


def one_unreadable_in(num_documents: int) -> bytes:
    lines = [f"{n}|t|gene number {n} in mice\n\n" for n in range(1, num_documents)]
    return "".join(lines).encode() + b"999999|t|a \0 in a title\n\n"


@pytest.mark.parametrize(
    ("name", "data", "missing"),
    [
        ("half.gz", damaged_gzip(one_unreadable_in(3000)), "half.gz: .*(file/broken_archive, 1)"),
        ("half.xml", b"<collection><document><id>1</id>", "half.xml:1 (document/cut_off, 1)"),
        ("two.txt", one_unreadable_in(50), "two.txt: 1 of 50 documents cannot be read"),
        ("few.txt", one_unreadable_in(200), None),
        ("README", b"no corpus", None),
    ],
    ids=["archive", "xml", "two unreadable", "few unreadable", "no corpus"],
)
def test_an_input_that_is_not_read_to_its_end_fails_the_tool_unless_accepted(
    demo: Path, tmp_path: Path, name: str, data: bytes, missing: str | None
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(demo, tmp_path / "in")
    (tmp_path / "in" / name).write_bytes(data)
    folder = name == "README" or name.endswith((".gz", ".xml"))
    source, out = tmp_path / "in" / ("" if folder else name), tmp_path / "out"
    command = [source, demo, "--out", out, "--vocabulary", 600, "--processes", 1]
    code, said = run_tool(*command)
    assert (out / MANIFEST).exists() == (not missing)
    if missing:
        before, _, after = missing.partition(".*")
        assert f"error: {source.name}: " in said
        assert before in said and after in said and "--accept-damaged" in said
        assert run_tool(*command, "--accept-damaged")[0] == 0
    manifest = ShardSet.open(out).manifest
    assert [one["name"] for one in manifest.sources if "damaged" in one] == (
        [source.name] if missing else []
    )
    assert code == (1 if missing else 0)
    if missing:
        assert str(tmp_path / "in") not in (out / MANIFEST).read_text()
        assert run_tool(*command)[0] == 1, "also when it is there already"
        assert run_tool(*command, "--accept-damaged")[0] == 0

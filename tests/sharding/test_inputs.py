"""Inputs are found by name, pattern, folder or URL; their names keep machine and secret out."""

import gzip
import json
import os
import re
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from embre.corpora import sources
from embre.corpora.sources import Source
from embre.sharding import inputs
from embre.sharding.inputs import Input, check_inputs, find_inputs
from embre.sharding.shard import ShardSettings, shard
from embre.sharding.tokenizer import nothing_to_shard
from embre.tally import Tally
from tests.tiny import tiny_tokenizer

TEXT = "1|t|the gene\n1|a|in mice\n\n1\t0\t4\tBRAF\tGene\t673\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files, one of them deeper."""
    (tmp_path / "deep").mkdir()
    for name, size in (("b.PubTator", 20), ("a.PubTator", 10), ("deep/c.PubTator", 40)):
        (tmp_path / name).write_bytes(b"x" * size)
    return tmp_path


def found(*names: object) -> list[tuple[str, int]]:
    return [(source.name, source.bytes) for source in find_inputs([str(name) for name in names])]


def test_files_come_in_the_order_given_and_patterns_in_that_of_names(folder: Path) -> None:
    assert found(folder / "b.PubTator", folder / "*.PubTator") == [
        ("b.PubTator", 20),
        ("a.PubTator", 10),
        ("b.PubTator", 20),
    ]
    assert found(folder / "**" / "*.PubTator") == [
        ("a.PubTator", 10),
        ("b.PubTator", 20),
        ("c.PubTator", 40),
    ]
    assert (
        found(folder / "[bc].PubTator")
        == found(folder / "?.PubTator")[1:]
        == found(folder / "b.PubTator")
    )


def test_a_folder_is_one_input_with_the_bytes_of_all_its_files(folder: Path) -> None:
    assert found(folder) == [(folder.name, 70)]
    assert found(f"{folder}/") == [(folder.name, 70)]


@pytest.mark.parametrize("name", [".", "./", "deep/..", "../{}"])
def test_a_folder_has_its_name_however_it_is_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(folder)
    assert found(name.format(folder.name)) == [(folder.name, 70)]


def test_an_input_changes_with_the_youngest_of_its_files(folder: Path) -> None:
    os.utime(folder / "a.PubTator", (5, 5))
    os.utime(folder / "deep" / "c.PubTator", (2**32, 2**32))
    assert find_inputs([str(folder)])[0].modified == 2**32
    assert find_inputs([str(folder / "a.PubTator")])[0].modified == 5


def test_linked_folders_are_followed_and_each_is_read_once(folder: Path) -> None:
    inner = folder / "in"
    inner.mkdir()
    (inner / "own").mkdir()
    (inner / "own" / "d.PubTator").write_bytes(b"x" * 5)
    (inner / "a_link").symlink_to(folder / "deep")
    (inner / "again").symlink_to(inner / "own")
    (inner / "b.PubTator").symlink_to(folder / "b.PubTator")
    (folder / "deep" / "back").symlink_to(inner)
    names = [file.name for file in sources.list_files(sources.locate(str(inner)))]
    assert names == [f"{inner}/{n}" for n in ("a_link/c.PubTator", "b.PubTator", "own/d.PubTator")]
    assert found(inner) == [("in", 65)]


@pytest.mark.parametrize("name", ["", "deep", "deep/gone", "deep/g*"])
def test_a_link_to_nothing_is_named(folder: Path, name: str) -> None:
    (folder / "deep" / "gone").symlink_to("nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"deep/gone: .* link \(to nowhere\); remove or repair"
    ):
        find_inputs([str(folder / name)])


def test_a_file_whose_name_looks_like_a_pattern_is_taken_by_its_name(folder: Path) -> None:
    (folder / "[ab].PubTator").write_bytes(b"x" * 5)
    assert found(folder / "[ab].PubTator") == [("[ab].PubTator", 5)]


def test_a_pattern_and_a_name_without_a_file_are_named(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing matches .*\*\.xml"):
        find_inputs([f"{folder}/*.xml"])
    with pytest.raises(FileNotFoundError, match=r"absent\.xml' does not exist"):
        find_inputs([f"{folder}/a.PubTator", f"{folder}/absent.xml"])


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/*.xml",
        "ftp://host/a*",
        "pipe:cat *",
        "pipe://cat *",
        "memory://x/*",
        "simplecache::s3://bucket/*.xml",
        "simplecache::file:///etc/*",
        "filecache::https://host/a?token=1",
        "http://127.0.0.1/a.xml",
    ],
)
def test_other_urls_are_refused_also_as_patterns(url: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match="cannot read|nothing matches"):
        find_inputs([url])


def test_a_pattern_of_file_urls_is_spelt_out(folder: Path) -> None:
    assert found(f"file://{folder}/*.PubTator") == [("a.PubTator", 10), ("b.PubTator", 20)]
    assert found(f"file://{folder}/a.PubTator") == [("a.PubTator", 10)]


def test_a_name_has_no_folder_and_no_secret() -> None:
    for source in ("https://user@host/data/a.xml.gz?X-Signature=5eCr3t/*", "/home/me/a.xml.gz"):
        assert Input(source, 1, 0.0).name == "a.xml.gz"


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder, but no list of what is in it, as a bucket with signed URLs has it."""

    def do_GET(self) -> None:
        self.send_error(404) if self.path.endswith("/") else super().do_GET()

    def do_HEAD(self) -> None:
        self.send_error(404) if self.path.endswith("/") else super().do_HEAD()

    def log_message(self, *message: object) -> None:
        pass


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serves the folder; plain http, which we refuse elsewhere, in place of https."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(sources, "SCHEMES", ("http", "file"))
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_a_file_of_a_web_server_is_found(server: str) -> None:
    assert found(f"{server}/deep/c.PubTator") == [("c.PubTator", 40)]


def test_files_of_a_listing_are_not_asked_for_one_by_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [Source(None, f"b/{n}", f"s3://b/{n}", 40, f"40 etag-{n}") for n in range(3)]
    monkeypatch.setattr(inputs, "list_files", lambda source: listed)
    (one,) = find_inputs([str(folder)])
    assert one.bytes == 120


def test_a_signed_url_is_found_where_its_folder_is_not_readable(server: str) -> None:
    assert found(f"{server}/deep/c.PubTator?token=5eCr3t") == [("c.PubTator", 40)]


def test_what_is_said_of_a_url_that_is_not_read_keeps_its_secret(server: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent: not found") as absent:
        find_inputs([f"{server}/absent?token=5eCr3t"])
    with pytest.raises(ValueError, match="cannot read 'ftp://host/a'") as refused:
        find_inputs(["ftp://me:5eCr3t@host/a?token=5eCr3t"])
    said = nothing_to_shard([f"{server}/a?token=5eCr3t", "b"], {}, Tally())
    assert f"{server}/a, b: no document" in said
    assert "5eCr3t" not in said + str(absent.value) + str(refused.value)


@pytest.mark.parametrize("name", [".", "in", "../{}/in/", "in/in.PubTator", "../{}/in"])
def test_a_place_is_told_with_the_name_of_its_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "in.PubTator").write_text(TEXT)
    (tmp_path / "i").write_text(TEXT.replace("1", "2"))
    tiny_tokenizer(tmp_path / "tokenizer")
    monkeypatch.chdir(tmp_path / "in" if name == "." else tmp_path)
    out = tmp_path / "out"
    inputs = [name.format(tmp_path.name), "../i" if name == "." else "i"]
    shard(inputs, out, tmp_path / "tokenizer", [], ShardSettings())
    (lost,) = json.loads((out / "dropped.json").read_text()).values()
    place = "in.PubTator:4" if name.endswith("in.PubTator") else "in/in.PubTator:4"
    assert [found.partition(": ")[0] for found in lost["first"]] == [place, "i:4"]


def test_what_a_shard_set_says_of_its_inputs_names_no_folder(tmp_path: Path) -> None:
    (tmp_path / "in.PubTator").write_text(TEXT)
    tiny_tokenizer(tmp_path / "tokenizer")
    out = tmp_path / "out"
    shard([str(tmp_path / "in.PubTator")], out, tmp_path / "tokenizer", [], ShardSettings())
    for file in out.rglob("*"):
        if file.is_file():
            assert str(tmp_path).encode() not in file.read_bytes(), file.name


RELATION_ROW = b"1\tDisease|D1\tcause\n"


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("relation2pubtator3.gz", gzip.compress(RELATION_ROW, mtime=0), "contains no documents"),
        ("table.tsv", RELATION_ROW, "contains no documents"),
        ("empty.PubTator", b"", "contains no documents"),
        ("broken.gz", b"\x1f\x8b\xff\xff", "cannot be unpacked"),
    ],
)
def test_a_file_that_holds_no_documents_is_refused_before_anything_is_read(
    tmp_path: Path, name: str, data: bytes, why: str
) -> None:
    good, bad, out = tmp_path / "good.PubTator", tmp_path / name, tmp_path / "out"
    good.write_text(TEXT)
    bad.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: {why}.*leave it out"):
        shard([str(good), str(bad)], out, None, [], ShardSettings())
    assert not out.exists()


def test_a_folder_or_an_archive_may_hold_other_files(tmp_path: Path) -> None:
    folder, archive = tmp_path / "in", tmp_path / "in.tar"
    folder.mkdir()
    (folder / "README").write_text("no corpus")
    (folder / "a.PubTator").write_text(TEXT)
    with tarfile.open(archive, "w") as tar:
        for member in ("README", "a.PubTator"):
            tar.add(folder / member, member)
    check_inputs(find_inputs([str(folder), str(archive)]), tmp_path / "out")

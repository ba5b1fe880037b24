"""Files, folders and archives: the format is told by what is in them."""

import gzip
import io
import sys
import tarfile
from pathlib import Path

import pytest

from embre.corpora import read_documents, write_pubtator
from embre.tally import Tally

TEXT = b"7|t|BRAF in melanoma\n7|a|Yes.\n7\t0\t4\tBRAF\tGene\t673\n\n"
XML = (
    b"<?xml version='1.0'?>\n<!-- a dump -->\n<!DOCTYPE collection SYSTEM 'BioC.dtd'>\n"
    b"<collection><document><id>7</id><passage><infon key='type'>title</infon><offset>0</offset>"
    b"<text>BRAF in melanoma</text><annotation><infon key='type'>Gene</infon>"
    b"<infon key='identifier'>673</infon><location offset='0' length='4'/><text>BRAF</text>"
    b"</annotation></passage><passage><infon key='type'>abstract</infon><offset>17</offset>"
    b"<text>Yes.</text></passage></document></collection>"
)


def ids(source: str | Path, tally: Tally | None = None) -> list[str]:
    return [doc.doc_id for doc in read_documents(source, Tally() if tally is None else tally)]


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("content", [TEXT, XML])
def test_the_name_of_a_file_says_nothing(tmp_path, content):
    plain, packed = tmp_path / "a.json", tmp_path / "b"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    expected = list(read_documents(plain, Tally()))
    assert len(expected) == 1 and len(expected[0].mentions) == 1
    assert list(read_documents(str(packed), Tally())) == expected
    assert list(read_documents(f"file://{plain}", Tally())) == expected


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_is_read_member_by_member(tmp_path, mode):
    members = {"out/1.XML": XML, "out/2.txt.gz": gzip.compress(TEXT), "out/README": b"Hello."}
    tally = Tally()
    assert ids(make_tar(tmp_path / "dump", members, mode), tally) == ["7", "7"]
    assert tally.counts == {"file/unknown_format": 1}
    assert tally.examples["file/unknown_format"][0].endswith("dump/out/README")


def test_members_that_point_elsewhere_are_refused(tmp_path):
    path = make_tar(tmp_path / "dump.tar", {"../up": TEXT, "/etc/abs": TEXT, "good": TEXT})
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    tally = Tally()
    assert ids(path, tally) == ["7"]
    assert tally.counts == {"member/unsafe_name": 2, "member/not_a_file": 1}


def test_a_folder_is_read_file_by_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.xml").write_bytes(XML)
    (tmp_path / "sub" / "b.txt").write_bytes(TEXT)
    (tmp_path / "sub" / "tags.tsv").write_bytes(b"pubmed_id\ttype\n7\tGene\n")
    tally = Tally()
    assert ids(tmp_path, tally) == ["7", "7"]
    assert tally.examples["file/unknown_format"] == [f"{tmp_path}/sub/tags.tsv"]


@pytest.mark.parametrize("content", [TEXT, XML])
def test_a_cut_archive_costs_only_its_own_rest(tmp_path, content):
    whole = gzip.compress(content)
    (tmp_path / "a.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.gz").write_bytes(whole)
    tally = Tally()
    assert ids(tmp_path, tally)[-1:] == ["7"]
    assert tally.counts["file/broken_archive"] == 1


def test_a_tar_cut_in_the_middle_gives_what_is_there(tmp_path):
    path = make_tar(tmp_path / "dump.tar", {"1": TEXT, "2": TEXT * 4000})
    path.write_bytes(path.read_bytes()[:150_000])
    tally = Tally()
    assert len(ids(path, tally)) > 1
    assert tally.counts["file/broken_archive"] >= 1


def test_appended_tars_are_read_to_the_last(tmp_path):
    data = make_tar(tmp_path / "dump.tar", {"1": TEXT, "2": TEXT}).read_bytes()
    (tmp_path / "dump.tar").write_bytes(data + data + bytes(700))
    tally = Tally()
    assert ids(tmp_path / "dump.tar", tally) == ["7"] * 4 and not tally.counts
    (tmp_path / "dump.tar").write_bytes(data + b"rest")
    assert ids(tmp_path / "dump.tar", tally) == ["7"] * 2
    assert tally.counts == {"file/broken_archive": 1}


@pytest.mark.parametrize("lost", [6, 1])
def test_damage_behind_the_last_member_of_a_packed_tar_is_counted(tmp_path, lost):
    # The checksum is behind the end marker of the tar.
    path = make_tar(tmp_path / "dump.tar.gz", {"1": TEXT}, "w:gz")
    path.write_bytes(path.read_bytes()[:-lost])
    tally = Tally()
    assert ids(path, tally) == ["7"]
    assert tally.counts == {"file/broken_archive": 1}


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.txt.* does not exist; give a PubTator"):
        read_documents(tmp_path / "nowhere.txt", Tally())
    with pytest.raises(FileNotFoundError, match="is empty"):
        ids(tmp_path)


def test_a_file_that_is_no_corpus_is_named(tmp_path):
    (tmp_path / "README").write_text("Hello.")
    with pytest.raises(ValueError, match="cannot tell the format of .*README.* begins like none"):
        ids(tmp_path / "README")
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="it is empty"):
        ids(tmp_path / "empty")


def test_a_store_without_its_driver_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(OSError, match="pip install -c constraints.txt -e '.\\[s3\\]'"):
        read_documents("s3://bucket/dump.PubTator", Tally())


@pytest.mark.parametrize("source", ["pipe:cat /etc/passwd", "http://x/y", "simplecache::file://x"])
def test_other_kinds_of_url_are_refused(source):
    with pytest.raises(ValueError, match="cannot read"):
        read_documents(source, Tally())


@pytest.mark.parametrize("name", ["out.txt", "deep/out.txt"])
def test_written_documents_read_back_the_same(tmp_path, name):
    (tmp_path / "in").write_bytes(TEXT)
    documents = list(read_documents(tmp_path / "in", Tally()))
    write_pubtator(tmp_path / name, documents)
    assert list(read_documents(tmp_path / name, Tally())) == documents
    before, name = sorted(tmp_path.rglob("*")), tmp_path / name
    with pytest.raises(AttributeError):
        write_pubtator(name, [*documents, None])
    assert sorted(tmp_path.rglob("*")) == before
    assert list(read_documents(name, Tally())) == documents, "what was there before"


@pytest.mark.parametrize("folder", ["pubtator_gold", "pubtator_bulk", "pubtator3", "bc5cdr"])
def test_every_real_file_is_read_without_an_exception(corpora, folder):
    tally = Tally()
    assert sum(1 for _ in read_documents(corpora / folder, tally)) > 0
    assert not {"document/unreadable", "file/broken_xml", "file/broken_json"} & set(tally.counts)

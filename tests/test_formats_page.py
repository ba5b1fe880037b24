"""The worked example of docs/FORMATS.md, carried out: what the page says is what comes out."""

import json
import re
import shlex
from pathlib import Path

import pytest

from embre.document import Concept
from embre.held_out import HELD_LIST_HEAD, hold_out_lines
from embre.shards.concept_hash import concept_hash
from embre.shards.shard_set import ShardSet
from tests.sharding.test_shard import run_tool

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "FORMATS.md").read_text()


def blocks(section: str, language: str = "") -> list[str]:
    """The code blocks of a section, by the language that they name."""
    _, _, text = PAGE.partition(f"\n### {section} ")
    text = text or PAGE.partition(f"\n## {section}. ")[2]
    text = re.split(r"\n##+ ", text)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.PubTator").write_text(blocks("1.2")[0])
    return tmp_path


def test_the_shard_set_of_the_page(two: Path) -> None:
    given = re.search(r"^    python tools/shard_pubtator.py (.*?)\n\n", PAGE, re.M | re.S)
    assert given
    code, said = run_tool(*shlex.split(given[1].replace("\\\n", " ")))
    assert code == 0, said
    manifest, dropped = (json.loads(block) for block in blocks("1.2", "json"))
    assert json.loads((two / "set" / "manifest.json").read_text()) == manifest
    assert json.loads((two / "set" / "dropped.json").read_text()) == dropped
    found = ShardSet.open(two / "set")
    (block,) = found.load(found.shards("train")[0])
    docs = re.search(r"`docs.npy` is `(.*?)`, `mentions.npy` has (\d+) rows", PAGE)
    assert docs and block.docs.tolist() == json.loads(docs[1])
    assert len(block.mentions) == int(docs[2])


def test_the_numbers_that_the_page_shows(two: Path) -> None:
    assert f"`Gene:673` is {concept_hash(Concept('Gene', '673'))}." in PAGE
    (shown,) = blocks("7")
    assert shown.splitlines() == [HELD_LIST_HEAD, *sorted(hold_out_lines(["two.PubTator"], None))]

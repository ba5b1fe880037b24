"""Predictions for hidden mentions equal those of a plain BERT and a plain softmax."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from embre.entity_types import TYPE_INDEX
from embre.model.encoder_folder import HEAD, PretrainedEncoder, load_pretrained
from embre.probe.marked_text import Hidden, parse
from embre.probe.text import probe_text
from tests.cli.test_app import call
from tests.probes import DIMENSION, export, vocabulary
from tests.tiny import tiny_tokenizer

CPU = torch.device("cpu")
CONCEPTS = (
    ("Gene", "673", 50, "BRAF"),
    ("Gene", "7157", 20, "p53 [red]\x1b[31m"),
    ("Gene", "672", 5, "BRCA1"),
    ("Disease", "D008545", 9, "melanoma"),
)
WITHIN = {"673": 0.2, "7157": 0.7, "672": 0.1, "D008545": 1.0}
TYPES = (0.6, 0.3, 0.05, 0.03, 0.01, 0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with random weights."""
    folder = tmp_path_factory.mktemp("random")
    tiny_tokenizer(folder / "tokenizer")
    return export(folder / "encoder", folder / "tokenizer", vocabulary(*CONCEPTS))


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that takes every mention for the same: the probabilities above."""
    folder = tmp_path_factory.mktemp("by_hand")
    tiny_tokenizer(folder / "tokenizer")
    table = torch.randn(len(CONCEPTS), DIMENSION)
    table[:, 0] = torch.tensor([math.log(WITHIN[row[1]]) for row in CONCEPTS])
    weights = {
        "project.2.weight": torch.zeros(DIMENSION),
        "project.2.bias": torch.eye(DIMENSION)[0],
        "types.weight": torch.zeros(len(TYPES), DIMENSION),
        "types.bias": torch.tensor(TYPES).log(),
        "concepts.weight": table,
    }
    return export(folder / "run/encoder", folder / "tokenizer", vocabulary(*CONCEPTS), weights)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> PretrainedEncoder:
    return load_pretrained(folder, CPU)


def test_a_table_set_by_hand_gives_its_probabilities_names_and_counts(by_hand: Path) -> None:
    given, open_type = probe_text(
        load_pretrained(by_hand, CPU), "[[braf|Gene]] causes [[ab]].", top=10
    )
    assert [(c.identifier, c.name, c.count) for c in given.candidates] == [
        (identifier, name, count)
        for _, identifier, count, name in (CONCEPTS[1], CONCEPTS[0], CONCEPTS[2])
    ]
    for candidate in given.candidates:
        assert candidate.probability == pytest.approx(WITHIN[candidate.identifier], rel=1e-5)
    assert list(given.types.values()) == pytest.approx(TYPES, rel=1e-5)
    assert list(given.types) == list(TYPE_INDEX)
    assert [c.identifier for c in open_type.candidates] == ["7157", "D008545", "673", "672"]
    found = [c.probability for c in open_type.candidates]
    assert found == pytest.approx([0.42, 0.3, 0.12, 0.06], rel=1e-5)
    assert (given.num_pieces, open_type.num_pieces) == (1, 2)


def test_predictions_equal_those_of_plain_transformers(
    encoder: PretrainedEncoder, folder: Path
) -> None:
    (answer,) = probe_text(encoder, "a gene [[ab|Gene]] causes melanoma", top=10)
    tokenizer = encoder.tokenizer
    before, after = (tokenizer.encode([t]).ids.tolist() for t in ("a gene", "causes melanoma"))
    hidden = [tokenizer.special.mask] * 2
    ids = [tokenizer.special.cls, *before, *hidden, *after, tokenizer.special.sep]
    plain = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    head = encoder.model.entity_head
    with torch.no_grad():
        states = plain(input_ids=torch.tensor([ids])).last_hidden_state[0]
        vector = states[1 + len(before) : 3 + len(before)].mean(0)
        found = head.project(vector)
        genes = (load_file(folder / HEAD)["entity_head.concepts.weight"][:3] @ found).softmax(0)
        types = head.types(found).softmax(0)
    wanted = dict(zip(("673", "7157", "672"), genes.tolist(), strict=True))
    assert {c.identifier: c.probability for c in answer.candidates} == pytest.approx(
        wanted, rel=1e-4
    )
    assert list(answer.types.values()) == pytest.approx(types.tolist(), rel=1e-4)


def test_probabilities_sum_to_1(encoder: PretrainedEncoder) -> None:
    given, open_type = probe_text(encoder, "[[?|Gene]] and [[?]]", top=100)
    assert sum(given.types.values()) == pytest.approx(1, abs=1e-6)
    assert sum(c.probability for c in given.candidates) == pytest.approx(1, abs=1e-6)
    of_known = open_type.types["Gene"] + open_type.types["Disease"]
    assert sum(c.probability for c in open_type.candidates) == pytest.approx(of_known, abs=1e-6)


def test_only_the_length_of_a_hidden_mention_is_visible(encoder: PretrainedEncoder) -> None:
    def numbers(surface: str, text: str = "a gene[[{}|Gene]]s causes melanoma") -> list[float]:
        (answer,) = probe_text(encoder, text.format(surface), top=3)
        return [c.probability for c in answer.candidates] + list(answer.types.values())

    assert numbers("ab") == numbers("xy") == numbers("??") == numbers(" [) ")
    assert numbers("ab") != numbers("abc")
    assert numbers("ab") != numbers("ab", "a gene[[{}|Gene]]s treats melanoma")


def test_each_of_several_hidden_mentions_has_its_own_answer(encoder: PretrainedEncoder) -> None:
    both = probe_text(encoder, "[[ab|Disease]] and [[braf|Gene]] in mice", top=3)
    assert [(a.hidden.surface, a.num_pieces) for a in both] == [("ab", 2), ("braf", 1)]
    assert [len(a.candidates) for a in both] == [1, 3]
    assert both[0].types != both[1].types


def test_marks_are_parsed() -> None:
    def hidden(text: str) -> tuple[Hidden, ...]:
        return parse(text).hidden

    assert hidden("[[BRCA1|Gene]]") == (Hidden("BRCA1", "Gene"),)
    assert hidden("x [[BRCA1]] y [[?|disease]]") == (Hidden("BRCA1", None), Hidden("?", "Disease"))
    assert hidden("[[p|SUB|V|600|E|Variant]]") == (Hidden("p|SUB|V|600|E", "Variant"),)
    assert hidden("[[a|GeneOrGeneProduct]]") == (Hidden("a", "Gene"),)
    assert hidden("[1] [[[3H]]]")[0].surface == "[3H]"
    assert parse("x [[a]] y").segments == ["x ", "a", " y"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no mark", "hides no mention; mark what is hidden as"),
        ("[[a|Gen]]", "did you mean Gene?"),
        ("[[a|Thing]]", "known: Gene, Disease"),
        ("[[a|Chemical]]", "no concept of this type; leave the type out: [[a]]"),
        ("[[|Gene]]", "hides nothing"),
        ("[[\x00]]", "hides no word piece"),
        ("[[a", "not closed"),
        ("caf\udce9 [[a]]", "not UTF-8"),
        ("[[a]] b]]", "not closed or not opened"),
        ("[[a]] " + "gene " * 126, "129 tokens and the encoder reads at most 128; shorten it"),
    ],
)
def test_malformed_texts_are_refused(encoder: PretrainedEncoder, text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        probe_text(encoder, text, top=3)
    assert message in str(error.value)
    assert probe_text(encoder, "[[a]] " + "gene " * 125, top=1), "the longest that it reads"


def test_the_command_prints_safe_tables_and_json(
    by_hand: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[[braf|Gene]] causes [[x]]"
    run, encoder = str(by_hand.parent), str(by_hand)
    code, out, _ = call(["probe", run, text, "--top", "2"], monkeypatch, capsys)
    assert code == 0 and "\x1b" not in out
    lines = [line.split() for line in out.splitlines()]
    assert ["0.7000", "Gene:7157", "p53", "[red]\\x1b[31m", "20"] in lines
    assert ["0.4200", "Gene:7157", "p53", "[red]\\x1b[31m", "20"] in lines
    code, out, _ = call(["probe", encoder, text, "--json"], monkeypatch, capsys)
    found = json.loads(out)
    assert code == 0 and found["text"] == text and found["encoder"] == {"run": "small"}
    assert [(h["surface"], h["type"], h["pieces"]) for h in found["hidden"]] == [
        ("braf", "Gene", 1),
        ("x", None, 1),
    ]
    assert found["hidden"][0]["concepts"][0] == {
        "probability": pytest.approx(0.7, rel=1e-5),
        "type": "Gene",
        "identifier": "7157",
        "name": CONCEPTS[1][3],
        "count": 20,
    }
    assert found["hidden"][1]["types"]["Gene"] == pytest.approx(0.6, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/none", "[[a]]"], "not an encoder of embre pretrain; give the `encoder` folder"),
        (["{}/tokenizer", "[[a]]"], "no config.json"),
        (["{}/encoder"], "give a text with [[hidden]] mentions, or --shards FOLDER"),
        (["{}/encoder", "[[a]]", "--shards", "x"], "and not both"),
        (["{}/encoder", "--shards", "{}/none"], "no shard set here"),
        (["{}/encoder", "a"], "hides no mention"),
        (["{}/encoder", "[[a]]", "--device", "gpu"], "--device gpu: give cpu, or cuda"),
        (["{}/encoder", "[[a]]", "--device", "cuda:99"], "GPUs on this machine; give --device cpu"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    folder: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [word.replace("{}", str(folder.parent)) for word in arguments]
    code, _, error = call(["probe", *words], monkeypatch, capsys)
    assert code == 2 and message in error and error.count("\n") == 1


def test_a_folder_that_does_not_fit_together_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = export(tmp_path / "encoder", folder.parent / "tokenizer", vocabulary(*CONCEPTS))
    state = load_file(copy / HEAD)
    state["entity_head.concepts.weight"] = state["entity_head.concepts.weight"][:-1].clone()
    save_file(state, copy / HEAD)
    with pytest.raises(ValueError, match="does not fit concepts.parquet"):
        load_pretrained(copy, CPU)
    (copy / HEAD).write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="copy the encoder again"):
        load_pretrained(copy, CPU)
    (copy / "concepts.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="damaged"):
        load_pretrained(copy, CPU)
    (copy / HEAD).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {HEAD}, so this is not an encoder"):
        load_pretrained(copy, CPU)

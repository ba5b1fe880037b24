"""tools/show_masking.py: what it shows is what the run would be trained on."""

import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer import Typer
from typer.testing import CliRunner, Result

from embre.config import PretrainConfig, load_config
from embre.demo.corpus import make_corpus
from embre.masking import OBJECTIVES
from embre.shards.shard_set import ShardSet
from embre.stream.masked_documents import MaskedDocument, masked_documents
from embre.stream.order import stream_batches
from embre.stream.source import StreamState
from tests.shard_sets import source_of, write_shards
from tests.tiny import document
from tools.show_masking import main

STREAM, STREAMS = 1, 2
ALL_MASKED = (
    "masking.objective=entity",
    "masking.entity_rate=1",
    "masking.replace_share=0",
    "masking.keep_share=0",
)
UNKNOWN = "type only, not in the entity vocabulary"
HOSTILE = document(
    "<[red]BRAF\x1b[31m|Gene|673> and [bold]melanoma[/bold] :smile: \x1b]0;title\x07 in "
    "<m\u202eice\x9b2J|Species|->.",
    doc_id="[link]\x1b[2J7",
)


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("set"), 30)


def config_of(folder: Path, shards: str, **data: object) -> Path:
    path = folder / "run.yaml"
    values = {
        "name": "look",
        "encoder": {"path": f"{shards}/tokenizer"},
        "data": {
            "shards": shards,
            "streams": STREAMS,
            "strip_tokens": 128,
            "max_document_tokens": 48,
            **data,
        },
        "train": {"steps": 1},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def show(config: Path, *arguments: object, **env: str) -> Result:
    app = Typer()
    app.command()(main)
    return CliRunner().invoke(
        app, [str(config), *map(str, arguments)], env={"COLUMNS": "80", **env}
    )


def parts(output: str) -> tuple[list[str], list[str], list[tuple[int, str, str, str]]]:
    """The texts before and after masking, without the legend, and the lines of targets."""
    before = re.findall(r"^before: (.*)$", output, re.M)[1:]
    after = re.findall(r"^after:  (.*)$", output, re.M)[1:]
    targets = re.findall(r"^ +(\d+) × (.*) → (.*) \((.*)\)$", output, re.M)
    return before, after, [(int(times), *rest) for times, *rest in targets]


def laid(docs: list[MaskedDocument], name: str, special: int | bool) -> np.ndarray:
    """A column of documents end to end, with what stands for [CLS] and [SEP]."""
    columns = [np.pad(getattr(doc, name), 1, constant_values=special) for doc in docs]
    return np.concatenate(columns)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("epoch", [0, 2])
def test_the_documents_and_targets_are_those_of_training(
    shard_set: ShardSet, tmp_path: Path, objective: str, epoch: int
) -> None:
    run = load_config(PretrainConfig, config_of(tmp_path, shard_set.url))
    masking = run.masking.model_copy(update={"objective": objective})
    source = source_of(shard_set, masking, run.seed, streams=STREAMS)
    docs = masked_documents(source, STREAM, epoch)
    num_targets = 0
    for batch in islice(stream_batches(source, STREAM, StreamState(epoch)), 4):
        here = list(islice(docs, len(batch.doc_ids)))
        assert tuple(doc.doc_id for doc in here) == batch.doc_ids
        asked = laid(here, "token_targets", False)
        np.testing.assert_array_equal(
            np.flatnonzero(asked), batch.rows[batch.token_target_rows].numpy()
        )
        np.testing.assert_array_equal(laid(here, "before", -1)[asked], batch.token_labels.numpy())
        seen = laid(here, "after", -1)
        inside = seen >= 0
        np.testing.assert_array_equal(seen[inside], batch.input_ids.numpy()[: len(seen)][inside])
        rows = np.concatenate([doc.mentions[doc.targets] for doc in here])
        shift = np.repeat(
            batch.cu_seqlens.numpy()[: len(here)] + 1, [doc.targets.sum() for doc in here]
        )
        spans = np.stack([rows["start"], rows["end"]], axis=1) + shift[:, None]
        identifiers = np.concatenate([doc.identifiers[doc.targets] for doc in here])
        shown = zip(spans.tolist(), rows["type"].tolist(), identifiers.tolist(), strict=True)
        first, last = batch.mention_spans.T
        places = torch.stack([batch.rows[first], batch.rows[last - 1] + 1], dim=1)
        targets = places, batch.mention_types, batch.mention_ids
        wanted = zip(*(part.tolist() for part in targets), strict=True)
        assert sorted(shown) == sorted(wanted)
        num_targets += asked.sum() + len(rows)
    assert num_targets


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_lines_count_the_targets_of_the_batch(
    shard_set: ShardSet, tmp_path: Path, objective: str
) -> None:
    config = config_of(tmp_path, shard_set.url)
    masking = load_config(PretrainConfig, config).masking.model_copy(
        update={"objective": objective}
    )
    source = source_of(shard_set, masking, streams=STREAMS)
    batch = next(stream_batches(source, STREAM))
    override = f"masking.objective={objective}"
    options = ("--stream", STREAM, "--documents", len(batch.doc_ids))
    found = show(config, override, *options)
    assert found.exit_code == 0, found.output
    before, after, targets = parts(found.output)
    counts = batch.counts
    assert len(before) == len(after) == len(batch.doc_ids)
    assert f"\n{batch.doc_ids[0]}, " in found.output
    assert sum(times for times, *_ in targets) == counts["type"]
    identified = sum(times for times, *_, what in targets if what == "type and identifier")
    assert identified == counts["identifier"]
    assert found.output.rstrip().endswith(
        f"targets: {counts['token']} tokens, {counts['type']} types, "
        f"{counts['identifier']} identifiers"
    )
    assert f"objective {objective}, unit concept, entity_rate 0.2" in found.output


def plain_text(before: str) -> str:
    return re.sub(r"[‹«]|\|\w+[›»]", "", before)


def test_a_hidden_mention_is_in_the_text_before_and_not_in_the_one_after(tmp_path: Path) -> None:
    docs = [
        document(f"<BRAF{n}|Gene|{n}> causes <melanoma|Disease|D1> in study {n}.", doc_id=str(n))
        for n in range(100, 120)
    ]
    config = config_of(tmp_path, write_shards(tmp_path, docs).url)
    found = show(config, *ALL_MASKED, "--documents", 5)
    before, after, targets = parts(found.output)
    assert len(before) == 5
    for text, masked in zip(before, after, strict=True):
        assert re.search(r"«braf1\d\d\|Gene» causes «melanoma\|Disease» in", text)
        assert "braf" not in masked and "melanoma" not in masked
        assert re.fullmatch(r"(\[MASK\] )+causes( \[MASK\])+ in study \d+\.", masked)
    assert targets.count((1, "melanoma", "Disease:D1 melanoma", "type and identifier")) == 5
    number = targets[0][1].removeprefix("braf")
    assert targets[0] == (1, f"braf{number}", f"Gene:{number} BRAF{number}", UNKNOWN)
    assert "10 of 10 mentions hidden" in found.output


def test_the_surface_text_of_each_target_stands_above(shard_set: ShardSet, tmp_path: Path) -> None:
    found = show(config_of(tmp_path, shard_set.url), "--documents", 20)
    blocks = found.output.split("\n\n")[1:-1]
    assert len(blocks) == 20
    num_targets = 0
    for block in blocks:
        (text,) = re.findall(r"^before: (.*)$", block, re.M)
        for times, surface in re.findall(r"^ +(\d+) × (.*) → ", block, re.M):
            assert text.count(f"«{surface}|") >= int(times)
            num_targets += int(times)
    assert num_targets > 5


def test_unit_concept_hides_all_mentions_of_a_concept(tmp_path: Path) -> None:
    text = " and ".join(["<BRAF|Gene|673>", "<AKT|Gene|207>"] * 4)
    docs = [document(f"{text} of {n}.", doc_id=str(n)) for n in range(40)]
    shards = write_shards(tmp_path, docs).url
    config = config_of(tmp_path, shards, max_document_tokens=128)
    counts = {}
    for unit in ("concept", "mention"):
        rate = ("masking.entity_rate=0.5", f"masking.unit={unit}")
        before, _, _ = parts(show(config, *rate, "--documents", 15).output)
        counts[unit] = {text.count(f"«{name}|Gene»") for text in before for name in ("braf", "akt")}
    assert counts["concept"] == {0, 4}
    assert len(counts["mention"]) > 2


def test_replaced_and_kept_tokens_have_their_marks(shard_set: ShardSet, tmp_path: Path) -> None:
    config = config_of(tmp_path, shard_set.url)
    rates = ("masking.objective=token", "masking.token_rate=1")
    kept = parts(show(config, *rates, "masking.keep_share=1", "masking.replace_share=0").output)
    assert all("≠" not in text and "[MASK]" not in text for text in kept[1])
    assert [text.replace("=", "") for text in kept[1]] == [plain_text(text) for text in kept[0]]
    replaced = parts(show(config, *rates, "masking.keep_share=0", "masking.replace_share=1").output)
    assert all(text.count("≠") > 10 for text in replaced[1])


def test_colours_stand_in_place_of_marks(shard_set: ShardSet, tmp_path: Path) -> None:
    config = config_of(tmp_path, shard_set.url)
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "NO_COLOR": ""}
    found = show(config, *ALL_MASKED, **terminal)
    assert found.exit_code == 0 and not re.search("[‹›«»]", found.stdout)
    assert "\x1b[1;7;35m" in found.stdout  # a hidden gene
    assert "\x1b[7;35m[MASK]\x1b[0m" in found.stdout
    assert not re.search("\x1b\\[(?![\\d;]*m)", found.stdout)


def test_what_looks_like_markup_or_escapes_is_shown_as_text(tmp_path: Path) -> None:
    docs = [HOSTILE, *make_corpus(8, seed=1)]
    config = config_of(tmp_path, write_shards(tmp_path, docs).url, streams=1)
    found = show(config, *ALL_MASKED, "--documents", 100)
    assert found.exit_code == 0, found.output
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", found.output)
    assert "[link]\\x1b[2J7, " in found.output
    assert "Gene:673 [red]BRAF\\x1b[31m" in found.output
    assert "[bold] melanoma [/bold]: smile:" in found.output
    assert "(type only, no identifier)" in found.output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["data.shards=nowhere"], "manifest.json"),
        (["encoder.path=nowhere"], "nowhere: no such folder; give a Hugging Face folder"),
        (["encoder.path={folder}"], "no readable tokenizer; give a Hugging Face folder"),
        (["masking.objective=entities"], "masking.objective: Input should be 'entity'"),
        (["--stream", "2"], "--stream 2: the last stream of the run is 1"),
        (["data.streams=99"], "lower data.streams"),
    ],
)
def test_an_error_is_one_line_with_its_remedy(
    shard_set: ShardSet, tmp_path: Path, arguments: list[str], why: str
) -> None:
    given = [argument.format(folder=tmp_path) for argument in arguments]
    found = show(config_of(tmp_path, shard_set.url), *given)
    assert found.exit_code == 2 and not found.stdout
    assert re.fullmatch(r"error: [^\n]+\n", found.stderr) and why in found.stderr


def test_a_damaged_shard_is_left_out_where_the_run_leaves_it_out(tmp_path: Path) -> None:
    shard_set = write_shards(tmp_path, 30)
    first = Path(shard_set.url) / shard_set.manifest.shards[0].name
    first.write_bytes(first.read_bytes()[:-1])
    config = config_of(tmp_path, shard_set.url, streams=1)
    found = show(config)
    assert found.exit_code == 2 and first.name in found.stderr
    found = show(config, "data.on_bad_shard=quarantine", "--documents", 1000)
    assert found.exit_code == 0 and not (tmp_path / "runs").exists()

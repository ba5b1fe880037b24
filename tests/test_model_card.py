"""Model cards: metadata for the hub, scores, and no paths."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModel, AutoTokenizer

from embre.config import FinetuneConfig, PairConfig, PretrainConfig, check_config
from embre.corpora import CORPORA
from embre.evaluation.scoring import METRICS, Score
from embre.model_card import base_model, write_encoder_card, write_relation_card
from embre.provenance import CARD, LINEAGE, folder_digest
from embre.relations.model_folder import save_relation_model
from embre.relations.scored_pairs import OTHERS, Decision
from embre.tracking.registry import EXAMPLE
from tests.tiny import tiny_relation_model, tiny_tokenizer

ENCODER = {"run": "base", "steps": 7, "shard_set": "5" * 64, "digest": "e" * 64}
SCORES = {
    kind: {metric: {"precision": 0.5, "recall": 0.25, "f1": value} for metric in METRICS}
    for kind, value in (("dev", 0.3333), ("floor", 0.1))
}


BY_TYPE = {
    "Bind": {"pair_type": Score(1, 1, 1), "all": Score(0, 2, 2)},
    "Association": {"pair_type": Score(3, 1, 0), "all": Score(2, 2, 1)},
}


def config_of(folder: Path, **encoder: object) -> FinetuneConfig:
    values = {
        "name": "biored-small",
        "storage": str(folder / "runs"),
        "encoder": {"path": str(folder / "backbone"), **encoder},
        "data": {
            "train": str(folder / "Train.PubTator"),
            "dev": str(folder / "Dev.PubTator"),
            "extra_corpora": [{"corpus": "bc5cdr", "train": str(folder / "cdr.txt")}],
        },
        "pairs": {"detection_head": "relation"},
        "train": {"steps": 6},
    }
    return check_config(FinetuneConfig, values, "test")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    tiny_tokenizer(folder / "backbone")
    loaded = tiny_relation_model(folder / "backbone")
    all_pairs = replace(loaded, decision=Decision(thresholds={OTHERS: 0.0}))
    save_relation_model(folder / "model", all_pairs)
    told = {"run": "biored-small", "train": "a" * 64, "dev": "b" * 64, "extra_corpora.0": "c" * 64}
    (folder / "model" / LINEAGE).write_text(json.dumps({**told, "encoder": ENCODER}))
    config, schema = config_of(folder), CORPORA["biored"]
    write_relation_card(folder / "model", config, schema, SCORES, BY_TYPE, 100)
    return folder / "model"


def test_the_hub_reads_the_card_of_a_relation_model(model: Path) -> None:
    card = ModelCard.load(model / CARD)
    assert card.data.base_model == "base" and card.data.datasets == ["biored", "bc5cdr"]
    assert card.data.license == "unknown" and "relation-extraction" in card.data.tags
    results = card.data.eval_results
    assert [(found.metric_name, found.metric_value) for found in results][-1] == (
        "F1 pair + type + novelty",
        0.3333,
    )
    assert {found.dataset_name for found in results} == {"Dev.PubTator (100 documents)"}
    assert {found.dataset_revision for found in results} == {"b" * 64}


def test_the_card_has_intended_use_and_origin(model: Path) -> None:
    text = (model / CARD).read_text()
    for said in (
        "| pair + type + novelty | 0.5000 | 0.2500 | 0.3333 | 0.1000 |",
        "| Association | 3 | 0.7500 | 1.0000 | 0.8571 |\n| Bind | 2 | 0.5000 | 0.5000 | 0.5000 |",
        "thresholds for a document were fitted on the others",
        "Not for diagnosis",
        f"| train | {'a' * 64} |",
        f"| extra_corpora.0 | {'c' * 64} |",
        f"shard set with the digest `{'5' * 64}`",
    ):
        assert said in text, said
    assert str(model.parent) not in text


def run_code(text: str, folder: str, model: Path, tmp_path: Path) -> None:
    """Carry out the Python of a page, about this model."""
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "in.PubTator").write_text(EXAMPLE[0])
    assert folder in code
    code = code.replace(folder, str(model)).replace("YOUR", str(tmp_path / "in"))
    exec(compile(code, "page", "exec"), {})


def test_the_code_in_the_card_runs(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_code((model / CARD).read_text(), "FOLDER", model, tmp_path)
    assert capsys.readouterr().out.startswith("1 Disease:")


def test_the_code_in_the_guide_runs(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = (Path(__file__).resolve().parents[1] / "docs" / "GUIDE.md").read_text()
    run_code(guide, "runs/biored-minilm/relation_model", model, tmp_path)
    assert capsys.readouterr().out.startswith("1 [('Disease:")


def test_without_novelty_the_card_does_not_mention_it(tmp_path: Path, model: Path) -> None:
    (tmp_path / LINEAGE).write_text((model / LINEAGE).read_text())
    write_relation_card(tmp_path, config_of(tmp_path), CORPORA["bc5cdr"], SCORES, {}, 100)
    text = (tmp_path / CARD).read_text()
    head, body = text.split("# biored-small")
    assert "novelty" not in head and "states it as new" not in body and "pair + novelty" not in body


@pytest.mark.parametrize(
    ("pairs", "said", "not_said"),
    [
        ({"tasks": "relation"}, ["pair + type"], ["ovelty", "states it as new"]),
        (
            {"tasks": "novelty"},
            ["pair + novelty", "states it as new", "Not trained on relation types"],
            ["type + novelty", "pair + type", "Bind"],
        ),
    ],
)
def test_the_card_has_no_untrained_task(
    tmp_path: Path, model: Path, pairs: dict[str, str], said: list[str], not_said: list[str]
) -> None:
    (tmp_path / LINEAGE).write_text((model / LINEAGE).read_text())
    config = config_of(tmp_path).model_copy(update={"pairs": PairConfig.model_validate(pairs)})
    write_relation_card(tmp_path, config, CORPORA["biored"], SCORES, BY_TYPE, 100)
    text = (tmp_path / CARD).read_text()
    for words in said:
        assert words in text, words
    for words in not_said:
        assert words not in text, words


def test_plain_transformers_reads_the_folder_with_the_markers(model: Path) -> None:
    bert = AutoModel.from_pretrained(model, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    assert len(tokenizer) <= bert.config.vocab_size
    markers = [token for token in tokenizer.get_added_vocab() if "Gene" in token]
    assert markers and all(tokenizer.tokenize(token) == [token] for token in markers)
    files = {path.name for path in model.iterdir()}
    assert files == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *(LINEAGE, CARD),
    }


def test_an_edited_card_does_not_change_the_digest(model: Path) -> None:
    digest = folder_digest(model)
    text = (model / CARD).read_text()
    (model / CARD).write_text(text.replace("license: unknown", "license: mit"))
    assert folder_digest(model) == digest
    (model / CARD).write_text(text)


def test_the_card_of_an_encoder_has_its_last_validation(tmp_path: Path) -> None:
    values = {
        "name": "pubtator-small",
        "encoder": {"path": str(tmp_path / "backbone"), "new": {}},
        "data": {"shards": str(tmp_path / "shards"), "streams": 2},
        "train": {"steps": 7},
    }
    config = check_config(PretrainConfig, values, "test")
    (tmp_path / LINEAGE).write_text(json.dumps({k: v for k, v in ENCODER.items() if k != "digest"}))
    validations = [
        {"step": step, "validation/accuracy/type": share, "validation/accuracy/type/Gene": 0.0}
        for step, share in ((3, 0.25), (7, 0.5))
    ]
    write_encoder_card(tmp_path, config, validations)
    text = (tmp_path / CARD).read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["pipeline_tag"] == "fill-mask" and "base_model" not in front
    assert "| accuracy/type | 0.500 |" in text and "0.250" not in text
    assert "5" * 64 in text and str(tmp_path) not in text
    write_encoder_card(tmp_path, config, [])
    assert "## Results" not in (tmp_path / CARD).read_text()


@pytest.mark.parametrize(
    ("told", "lineage", "name"),
    [
        ("nreimers/MiniLM-L6-H384-uncased", {}, "nreimers/MiniLM-L6-H384-uncased"),
        ("/home/somebody/minilm", {}, "backbone"),
        ("", {}, "backbone"),
        ("nreimers/MiniLM", ENCODER, "base"),
    ],
)
def test_a_base_model_is_a_name_without_path(
    tmp_path: Path, told: str, lineage: dict[str, object], name: str
) -> None:
    config = config_of(tmp_path).encoder
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "config.json").write_text(json.dumps({"_name_or_path": told}))
    assert base_model(config, lineage) == name
    assert base_model(config_of(tmp_path, new={}).encoder, lineage) == ""

"""The command: what a wrong request gets is one line that says what to do, and exit code 2."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from embre.cli import app as cli
from embre.cli import studying
from embre.cli.options import run_script
from embre.corpora import write_pubtator
from embre.demo.corpus import make_corpus
from embre.launch.driver import LAUNCHERS
from embre.sharding.shard import ShardSettings, shard
from tests.tiny import document
from tools import hold_out_list


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_pubtator(folder / "gold.PubTator", make_corpus(20, seed=3))
    for name, size in (("one", 300), ("other", 320)):
        settings = ShardSettings(block_documents=5, shard_documents=5, vocabulary=size)
        shard([str(folder / "gold.PubTator")], folder / name, None, [], settings)
    (folder / "empty").touch()
    (folder / "none.json").write_text('{"documents": []}')
    (folder / "run.yaml").write_text(
        f"name: small\nencoder: {{path: {folder}/one/tokenizer, new: {{}}}}\n"
        f"train: {{steps: 1}}\ndata: {{shards: {folder}/one, streams: 2, strip_tokens: 2048}}\n"
    )
    return folder


def call(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["embre", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    printed = capsys.readouterr()
    return int(stopped.value.code or 0), printed.out, printed.err


Refusal = Callable[[str], str]


@pytest.fixture
def refusal(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refusal:
    """Carries out a command that is refused, in which {} is `made`, and returns the error."""

    def carry_out(arguments: str) -> str:
        words = [word.replace("{}", str(made)) for word in arguments.split()]
        code, _, error = call(words, monkeypatch, capsys)
        assert code == 2
        return error

    return carry_out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pretrain {}/none.yaml", "no such config"),
        ("pretrain {}/run.yaml data.stream=3", "did you mean streams?"),
        ("pretrain {}/run.yaml train.steps=[", "train.steps: the value is not valid YAML"),
        ("pretrain {}/run.yaml train.steps=!!python/object/apply:os.getpid", "not valid YAML"),
        ("pretrain {}/run.yaml data.shards={}/none storage={}/runs", "no shard set here"),
        ("pretrain {}/run.yaml data.shards={}/other storage={}/runs", "another tokenizer"),
        (
            "pretrain {}/run.yaml data.shards=pipe:true storage={}/runs",
            "data.shards: pipe:true: only",
        ),
        ("pretrain {}/run.yaml encoder.path={}/none storage={}/runs", "no such folder"),
        (
            "pretrain {}/run.yaml data.max_document_tokens=1024 storage={}/runs",
            "at most 512 tokens",
        ),
        ("pretrain {}/run.yaml encoder.new=null storage={}/runs", "no config.json"),
        ("pretrain {}/run.yaml storage=s3://bucket/runs", "a folder that all machines share"),
        ("pretrain {}/run.yaml launch.workers=2 storage={}/runs", "set launch.launcher=ray"),
        ("evaluate --gold {}/none --pred {}/gold.PubTator", "does not exist"),
        ("evaluate --gold {}/run.yaml --pred {}/gold.PubTator", "cannot tell the format"),
        ("predict {}/one {}/gold.PubTator --out {}/predicted", "config.json"),
        ("predict {}/one {}/gold.PubTator --out {}/p --gpus 0.5", "--gpus needs --ray"),
        ("predict {}/one {} --out {}/p --ray x --processes 2", "cannot be combined with --ray"),
        ("predict {}/one {} --out {}/p --ray x --device cuda", "needs the GPUs of a task"),
        ("predict {}/one {} --out {}/p --device gpu", "--device gpu: give cpu, or cuda for a GPU"),
        ("predict {}/one {} --out {}/p --device cuda:99", "GPUs on this machine; give --device cp"),
        ("predict {}/one {} --out {}/p --ray x --device mps", "--device mps: give cpu, or cuda"),
        (
            "evaluate --gold {}/gold.PubTator --pred {}/gold.PubTator --config {}/x --every-pair",
            "both choose which pairs are scored",
        ),
        (
            "report --gold {}/gold.PubTator --pred {}/gold.PubTator --out {}/r.html --config {}/x "
            "--every-pair",
            "both choose which pairs are scored",
        ),
        (
            "report --pred {}/gold.PubTator --out {}/r.html --every-pair",
            "how --gold is scored; give it",
        ),
        ("pretrain {}", "give the YAML file of a config"),
        ("pretrain {}/empty", "the file is empty"),
        ("register {} --name x", "no finished run"),
        ("register --show x --alias y", "or --show NAME alone to look"),
        ("study {}/run.yaml --gpus 1", "--gpus needs --ray"),
        ("study {}/run.yaml --ray x --processes 2", "cannot be combined with --ray"),
        ("probe {}/one [[?]] --strips 3", "--strips needs --shards"),
        (
            "evaluate --gold {}/gold.PubTator --pred {}/gold.PubTator --train {}/gold.PubTator",
            "--train needs --out",
        ),
        ("report --pred {}/none --out {}/r.html", "does not exist"),
        ("report --pred {}/none.json --out {}/r.html", "no document in it"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    refusal: Refusal, arguments: str, message: str
) -> None:
    error = refusal(arguments)
    assert message in error
    assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("predict MODEL {}/gold.PubTator --out {}/run.yaml", "is a file: give a folder"),
        ("evaluate --gold {}/x --pred {}/x --out {}/run.yaml", "is a file: give a folder"),
        ("report --pred {}/gold.PubTator --out {}", "is a folder: give the name of the file"),
        ("report --pred {}/gold.PubTator --out s3://bucket/x.html", "is a URL: write to a local"),
        ("demo --out s3://bucket/demo", "is a URL: write to a local"),
    ],
)
def test_an_output_in_a_wrong_place_is_refused_before_the_work(
    refusal: Refusal, arguments: str, message: str
) -> None:
    assert message in " ".join(refusal(arguments).replace("│", " ").split())


@pytest.mark.parametrize("command", ["pretrain", "finetune", "study"])
def test_a_config_that_would_run_code_is_refused_and_does_not(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    canary = tmp_path / "canary"
    evil = f"!!python/object/apply:os.mkdir [{canary}]"
    (tmp_path / "evil.yaml").write_text(f"name: small\nstorage: {evil}\n")
    code, _, error = call([command, f"{tmp_path}/evil.yaml"], monkeypatch, capsys)
    assert code == 2 and "evil.yaml:2: not a YAML file" in error and error.count("\n") == 1
    (tmp_path / "fine.yaml").write_text("name: small\n")
    code, _, error = call([command, f"{tmp_path}/fine.yaml", f"name={evil}"], monkeypatch, capsys)
    assert code == 2 and error.startswith("error: name: ") and error.count("\n") == 1
    assert not canary.exists()


@pytest.mark.parametrize("rewrite", [None, "pipe:=pipe:", "pipe:.*=/"])
def test_a_pipe_as_shards_is_refused_by_its_key_before_a_cluster_is_asked_for(
    made: Path,
    tmp_path: Path,
    rewrite: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started: list[object] = []
    monkeypatch.setitem(LAUNCHERS, "ray", lambda *given: started.append(given))
    if rewrite:
        monkeypatch.setenv("GOPEN_REWRITE", rewrite)
    words = ["pretrain", f"{made}/run.yaml", f"storage={tmp_path}/runs", "launch.launcher=ray"]
    words.append(f"data.shards=pipe:touch {tmp_path}/canary")
    code, _, error = call(words, monkeypatch, capsys)
    assert code == 2 and error.startswith("error: data.shards: pipe:touch ")
    assert error.count("\n") == 1 and not started
    assert not list(tmp_path.rglob("canary")) and not (tmp_path / "runs" / "small").exists()


def test_an_unknown_command_has_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["pretrian"], monkeypatch, capsys)[0] == 2


COMMANDS = [
    command.callback.__name__ for command in cli.app.registered_commands if command.callback
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown, _ = call([command, "--help"], monkeypatch, capsys)
    assert len(COMMANDS) > 10 and code == 0 and "Usage" in shown


@pytest.mark.parametrize(("kind", "key"), [("pretrain", "masking"), ("study", "seeds")])
def test_the_schema_of_a_config_is_printed(
    kind: str, key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown, _ = call(["schema", kind], monkeypatch, capsys)
    assert code == 0 and key in json.loads(shown)["properties"]
    assert call(["schema", "predict"], monkeypatch, capsys)[0] == 2


def test_print_config_shows_defaults_and_overrides(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", f"{made}/run.yaml", "train.steps=7", "--print-config"]
    code, shown, _ = call(words, monkeypatch, capsys)
    assert code == 0 and "steps: 7" in shown and "entity_rate: 0.2" in shown


def test_a_table_of_a_study_is_written_without_a_run(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / "fine.yaml").write_text(
        "name: x\nencoder: {path: x}\ntrain: {steps: 1}\ndata: {train: x, dev: x}\n"
    )
    (made / "study.yaml").write_text(
        f"name: small\nstorage: {made}/studies\nseeds: [1]\n"
        f"backbones: {{plain: {{path: {made}/one/tokenizer}}}}\n"
        f"corpora: {{biored: {made}/fine.yaml}}\n"
    )
    code, shown, _ = call(["study", f"{made}/study.yaml", "--table"], monkeypatch, capsys)
    table = made / "studies/small/study.md"
    assert code == 0 and f"table: {table}" in shown and table.read_text() in shown
    assert not list(table.parent.glob("*/"))


def test_a_study_that_ctrl_c_ends_says_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(studying, "carry_out_study", interrupted)
    config = Path(__file__).resolve().parents[2] / "configs/study/embre.yaml"
    code, shown, _ = call(["study", str(config)], monkeypatch, capsys)
    assert code == 130 and "run the same command again to resume" in shown


def test_evaluating_gold_against_itself_gives_ones(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = f"{made}/gold.PubTator"
    code, shown, _ = call(["evaluate", "--gold", gold, "--pred", gold], monkeypatch, capsys)
    assert code == 0 and shown.count("1.0000  1.0000  1.0000") == 4


def test_an_evaluation_compares_two_systems_and_leaves_its_files(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gold, out = f"{made}/gold.PubTator", made / "evaluated"
    docs = [replace(doc, relations=doc.relations[1:]) for doc in make_corpus(20, seed=3)]
    write_pubtator(made / "fewer.PubTator", docs)
    words = ["evaluate", "--gold", gold, "--pred", f"{made}/fewer.PubTator", "--other", gold]
    code, shown, _ = call([*words, "--train", gold, "--out", str(out)], monkeypatch, capsys)
    assert code == 0 and "p (over documents alone)" in shown and "0.0001" in shown
    names = {path.name for path in out.iterdir()}
    assert names == {"evaluation.json", "errors.tsv", "confusion.png", "report.html"}
    assert json.loads((out / "evaluation.json").read_text())["groups"]["seen in training"]


def test_a_report_counts_as_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "<V600E|Variant|rs113488022> of <BRAF|Gene|673>"
    pair = ("Variant:rs113488022", "Gene:673")
    for name, label in (("gold", "lies_in"), ("said", "within")):
        docs = [document(text, [(*pair, label, None)])]
        write_pubtator(tmp_path / f"{name}.PubTator", docs)
    (tmp_path / "run.yaml").write_text(
        "name: mine\nencoder: {path: x}\ntrain: {steps: 1}\ndata: {train: x, dev: x, corpus: "
        "{name: mine, legal: {Gene Variant: [within]}, label_map: {lies_in: within}}}\n"
    )
    page = tmp_path / "page.html"
    words = ["report", "--pred", f"{tmp_path}/said.PubTator", "--out", str(page)]
    words += ["--gold", f"{tmp_path}/gold.PubTator"]
    for more, hint, f1 in (
        ([], True, ["0.000"] * 4),
        (["--every-pair"], False, ["1.000", "0.000", "1.000", "0.000"]),
        (["--config", f"{tmp_path}/run.yaml"], False, ["1.000"] * 4),
    ):
        code, shown, _ = call([*words, *more], monkeypatch, capsys)
        assert code == 0 and f"{page}: 1 documents" in shown
        assert ("for another corpus give --every-pair" in shown) == hint
        assert re.findall(r"<dt>F1 [\w +]+</dt><dd>([\d.]+)</dd>", page.read_text()) == f1


def test_a_report_shows_the_relations_that_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "<V600E|Variant|rs113488022> of <BRAF|Gene|673> in <melanoma|Disease|D008545>"
    ill, variant = ("Gene:673", "Disease:D008545"), ("Variant:rs113488022", "Gene:673")
    gold = document(text, [(*ill, "Association", True), (*variant, "lies_in", True)])
    said = document(text, [(*ill, "Association", True)])
    for name, doc in (("gold", gold), ("said", said)):
        write_pubtator(tmp_path / f"{name}.PubTator", [doc])
    page = tmp_path / "page.html"
    words = ["report", "--pred", f"{tmp_path}/said.PubTator", "--out", str(page)]
    code, _, _ = call([*words, "--gold", f"{tmp_path}/gold.PubTator"], monkeypatch, capsys)
    assert code == 0 and "<dd>1.000</dd>" in page.read_text()
    assert "lies_in" not in page.read_text(), "it is not scored, so nobody missed it"


def test_an_evaluation_of_no_predicted_document_is_refused_where_those_alone_count(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = [replace(doc, doc_id=f"9{doc.doc_id}") for doc in make_corpus(2, seed=3)]
    write_pubtator(made / "foreign.PubTator", docs)
    words = ["evaluate", "--gold", f"{made}/gold.PubTator", "--pred", f"{made}/foreign.PubTator"]
    code, shown, _ = call(words, monkeypatch, capsys)
    assert code == 0 and "gold_document/not_predicted" in shown
    code, _, error = call([*words, "--official"], monkeypatch, capsys)
    assert code == 2 and "was predicted" in error


def test_a_predicted_concept_that_is_not_mentioned_is_no_free_guess(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (made / "gold.PubTator").read_text()
    doc_id = text.split("|")[0]
    guess = f"{doc_id}\tAssociation\tD000001\tD000002\tNovel\n"
    (made / "guess.PubTator").write_text(text.replace("\n\n", f"\n{guess}\n", 1))
    words = ["evaluate", "--gold", f"{made}/gold.PubTator", "--pred", f"{made}/guess.PubTator"]
    code, _, error = call(words, monkeypatch, capsys)
    assert code == 2 and "does not mention" in error


def test_the_doctor_names_what_a_run_would_be_refused_for(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown, _ = call(["doctor", f"{made}/run.yaml"], monkeypatch, capsys)
    assert code == 0 and "pretrain: small: backbone and data are there and fit" in shown
    words = ["doctor", f"{made}/run.yaml", "launch.workers=2"]
    code, shown, _ = call(words, monkeypatch, capsys)
    assert code == 1 and "the local launcher is one process" in shown
    broken = made / "broken.yaml"
    broken.write_text((made / "run.yaml").read_text().replace("/one,", "/other,"))
    code, shown, _ = call(["doctor", str(broken)], monkeypatch, capsys)
    assert code == 1 and "another tokenizer" in shown


def test_scripts_give_help_as_the_command_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).resolve().parents[2]
    scripts = [*root.glob("tools/**/*.py"), *root.glob("cluster/*.py")]
    run = [path.name for path in scripts if "__main__" in path.read_text()]
    assert [path.name for path in scripts if "\n    run_script(main)" in path.read_text()] == run
    monkeypatch.setattr("sys.argv", ["hold_out_list.py", "-h"])
    with pytest.raises(SystemExit) as stopped:
        run_script(hold_out_list.main)
    assert not stopped.value.code and "Write a list of documents" in capsys.readouterr().out

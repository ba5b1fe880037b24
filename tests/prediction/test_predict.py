"""`embre predict` as a run: what is done stays done, what changed is done again."""

import errno
import gzip
import json
import re
import shutil
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import fsspec
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from embre import corpora
from embre.cli import app as cli
from embre.cli import predicting
from embre.corpora import read_documents, sources, write_pubtator
from embre.corpora.sources import Source
from embre.demo.corpus import make_corpus
from embre.document import Document
from embre.object_store import StoreFailed
from embre.prediction import predict, tasks
from embre.prediction import record as predict_record
from embre.prediction import slices as predict_slices
from embre.prediction.predict import REPORT, Predicted, predict_files
from embre.prediction.progress import Progress
from embre.prediction.record import RECORD, is_done, locked, outputs_in, read_record
from embre.prediction.slices import MIN_BYTES, PredictedSlice, SliceStore, is_large
from embre.prediction.tasks import PredictSettings, Task, model_of, predict_file, predict_slice
from embre.relations import decode
from embre.relations.model_folder import SETTINGS_KEY, load_relation_model, save_relation_model
from embre.relations.scored_pairs import OTHERS, Decision
from embre.tally import Tally
from embre.tokenization.cached import CachedTokenizer
from embre.tracking.runs import client_of
from embre.workers import Processes
from tests.bioc_json_files import write_bioc_json
from tests.predicting import predict_inputs
from tests.tiny import tiny_relation_model, tiny_tokenizer

DOCS = make_corpus(24, seed=7)
EVERY = PredictSettings(threshold=0.0)
HAVE_PAIRS = ("a.PubTator", "sub/b.json", "sub/c.xml")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained relation model, by which nothing is related."""
    found = tmp_path_factory.mktemp("model")
    tiny_tokenizer(found / "tokenizer", [doc.text for doc in DOCS], size=500)
    loaded = tiny_relation_model(found / "tokenizer")
    decision = Decision(thresholds={OTHERS: 1.0})
    save_relation_model(found / "relation_model", replace(loaded, decision=decision))
    return found / "relation_model"


def as_xml(docs: Iterable[Document]) -> str:
    """Documents in BioC-XML, without their relations."""
    parts = []
    for doc in docs:
        parts.append(f"<document><id>{doc.doc_id}</id>")
        for passage in doc.passages:
            text = escape(doc.text[passage.start : passage.end])
            parts.append(f'<passage><infon key="type">{passage.kind}</infon>')
            parts.append(f"<offset>{passage.start}</offset><text>{text}</text>")
            for m in doc.mentions:
                if passage.start <= m.start < passage.end:
                    parts.append(
                        f'<annotation id="{m.start}"><infon key="type">{m.source_type}</infon>'
                        f'<infon key="identifier">{escape(m.source_identifier)}</infon>'
                        f'<location offset="{m.start}" length="{m.end - m.start}"/>'
                        f"<text>{escape(m.text)}</text></annotation>"
                    )
            parts.append("</passage>")
        parts.append("</document>")
    return f'<?xml version="1.0"?><collection><source>me</source>{"".join(parts)}</collection>'


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder of inputs: a file of each format, one without relations or pairs, and no corpus."""
    folder = tmp_path / "in"
    write_pubtator(folder / "a.PubTator", DOCS[:12])
    write_bioc_json(folder / "sub" / "b.json", DOCS[12:16])
    (folder / "sub" / "c.xml").write_text(as_xml(DOCS[16:20]))
    none = [replace(doc, mentions=(), relations=()) for doc in DOCS[20:]]
    write_pubtator(folder / "none.PubTator", none)
    (folder / "README").write_text("nothing to read")
    return folder


def run(model: Path, given: Path, settings: PredictSettings = EVERY, **more: object) -> Predicted:
    out = given.parent / "out"
    return predict_inputs(model, [str(given)], out, "test", settings, **more)


def test_what_is_done_is_not_done_again(model: Path, given: Path, monkeypatch) -> None:
    first = run(model, given)
    assert (first.documents, first.done_before, first.predicted_now) == (24, 0, 24)
    assert [str(p.relative_to(given.parent / "out")) for p in first.files] == [
        "a.PubTator",
        "none.PubTator",
        "sub/b.json",
        "sub/c.xml",
    ]
    assert first.tally.counts["file/unknown_format"] == 1
    assert (given / "none.PubTator").read_bytes() == first.files[1].read_bytes()
    before = [path.stat().st_mtime_ns for path in first.files]
    again = run(model, given)
    assert (again.documents, again.done_before, again.predicted_now) == (24, 5, 0)
    assert (again.relations, again.tally) == (first.relations, first.tally)
    assert [path.stat().st_mtime_ns for path in again.files] == before

    write_pubtator(given / "a.PubTator", DOCS[:13])
    (given.parent / "out" / "sub" / "b.json").unlink()
    third = run(model, given)
    assert (third.documents, third.done_before, third.predicted_now) == (25, 3, 17)
    assert run(model, given, overwrite=True).predicted_now == 25


def test_each_format_comes_out_as_it_came_in_with_relations(model: Path, given: Path) -> None:
    given_xml = (given / "sub" / "c.xml").read_text()
    files = dict(zip(("a", "none", "b", "c"), run(model, given).files, strict=True))
    for name, docs in (("a", DOCS[:12]), ("b", DOCS[12:16]), ("c", DOCS[16:20])):
        found = list(read_documents(files[name], Tally()))
        assert [(doc.doc_id, doc.text) for doc in found] == [(doc.doc_id, doc.text) for doc in docs]
        # Gold relations of the input have no probability.
        assert all(r.probability for doc in found for r in doc.relations)
        assert [doc.mentions for doc in found] == [doc.mentions for doc in docs]
        assert all(doc.relations for doc in found)
    written = files["c"].read_text()
    relations = re.findall(r"\s*<relation\b.*?</relation>", written, re.DOTALL)
    assert len(relations) == sum(len(doc.relations) for doc in read_documents(files["c"], Tally()))
    for relation in relations:
        written = written.replace(relation, "", 1)
    assert re.sub(r"\s+<", "<", written) == re.sub(r"\s+<", "<", given_xml)


def test_a_run_that_was_stopped_goes_on(model: Path, given: Path, monkeypatch) -> None:
    real, seen = predict.predict_file, []

    def stopped(task, progress=None):
        seen.append(task.target)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(predict, "predict_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(model, given)
    names = ("a.PubTator.0123abcd.partial", "predicted.jsonl.89abcdef.partial")
    leftovers = [given.parent / "out" / name for name in names]
    for leftover in leftovers:
        leftover.touch()
    monkeypatch.setattr(predict, "predict_file", real)
    assert run(model, given).done_before == 2
    assert not any(leftover.exists() for leftover in leftovers)


def test_other_models_and_thresholds_are_refused(model: Path, given: Path, tmp_path: Path) -> None:
    run(model, given)
    with pytest.raises(ValueError, match="another threshold; choose another --out, or .*overwrite"):
        run(model, given, PredictSettings())
    save_relation_model(tmp_path / "other", tiny_relation_model(model))
    with pytest.raises(ValueError, match="another model; choose"):
        run(tmp_path / "other", given)
    assert run(tmp_path / "other", given, overwrite=True).predicted_now == 24
    (tmp_path / "out" / RECORD).write_text("{")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is unknown: .*another --out, or remo"):
            run(tmp_path / "other", given, overwrite=overwrite)


def test_the_threshold_decides(model: Path, given: Path) -> None:
    assert run(model, given, PredictSettings()).relations == 0
    every = run(model, given, overwrite=True)
    found = [
        r.probability for f in every.files for d in read_documents(f, Tally()) for r in d.relations
    ]
    middle = sorted(p for p in found if p is not None)[len(found) // 2]
    fewer = run(model, given, PredictSettings(threshold=middle), overwrite=True)
    assert 0 < fewer.relations < every.relations == len(found)


def test_files_are_cut_as_documents_are(model: Path, given: Path) -> None:
    loaded = load_relation_model(model, torch.device("cpu"))
    mine = replace(loaded, decision=loaded.decision.at(0.0))
    docs = [*read_documents(given / "a.PubTator", Tally())]
    (file,) = predict_inputs(
        model, [str(given / "a.PubTator")], given.parent / "out", "test", EVERY
    ).files
    relations = [doc.relations for doc in read_documents(file, Tally())]
    assert [len(some) for some in relations] == [
        len(doc.relations) for doc in decode.predict(mine, docs)
    ]
    assert isinstance(model_of(model, "this test", EVERY).builder.words, CachedTokenizer)


def test_tables_beside_the_files(model: Path, given: Path) -> None:
    run(model, given)
    found = run(model, given, replace(EVERY, parquet=True))
    assert found.predicted_now == 24, "tables were not there"
    assert run(model, given, replace(EVERY, parquet=True)).predicted_now == 0
    rows = pq.read_table(given.parent / "out" / "relations").to_pylist()
    expected = [
        (doc.doc_id, *relation.head, *relation.tail, relation.type, relation.novel)
        for file in found.files
        for doc in read_documents(file, Tally())
        for relation in doc.relations
    ]
    assert sorted(tuple(row.values())[:7] for row in rows) == sorted(expected)
    assert {row["file"] for row in rows} == {str(given / n) for n in HAVE_PAIRS}
    assert all(0 < row["probability"] < 1 for row in rows)


def test_processes_write_the_same_files(model: Path, given: Path, tmp_path: Path) -> None:
    alone = {path: path.read_bytes() for path in run(model, given).files}
    progress, settings = Progress(), replace(EVERY, one_thread=True)
    with Processes(2, "embre.prediction.tasks") as workers:
        found = run(model, given, settings, workers=workers, overwrite=True, progress=progress)
    assert progress.documents == found.predicted_now == 24
    assert progress.stored_bytes == progress.total_bytes
    assert {path: path.read_bytes() for path in found.files} == alone


def test_the_record_lists_what_was_not_read(model: Path, given: Path) -> None:
    run(model, given)
    files = read_record(given.parent / "out").files
    assert files["README"].dropped == {"file/unknown_format": 1}
    assert files["a.PubTator"].documents == 12


def test_a_file_that_cannot_be_opened_is_listed(model: Path, tmp_path: Path) -> None:
    source = Source(fsspec.filesystem("file"), str(tmp_path / "gone"), "gone")
    settings = replace(EVERY, parquet=True)
    found = predict_file(Task(model, "", settings, source, "1", 0, tmp_path / "out", "gone"))
    assert found.dropped == {"file/unreadable": 1} and not found.bytes
    assert not is_done(found, "gone", "1", tmp_path / "out", parquet=False), "once more"
    assert not list(tmp_path.rglob("*.*")), "no half a table either"


@pytest.mark.parametrize("workers", [None, "other"])
def test_one_file_that_fails_does_not_stop_the_others(
    model: Path, given: Path, monkeypatch: pytest.MonkeyPatch, small_slices: None, workers
) -> None:
    run(model, given)
    write_bioc_json(given / "sub" / "b.json", DOCS[12:15])
    before = (given.parent / "out" / "sub" / "b.json").read_bytes()
    real = sources.StoredFile._read

    def failing(stored, most: int) -> bytes:
        if stored._source.path.endswith("b.json") and most > 1:
            raise OSError(errno.EIO, "a bad sector")
        return real(stored, most)

    with monkeypatch.context() as patched:
        patched.setattr(sources.StoredFile, "_read", failing)
        found = run(model, given, workers=Counting() if workers else None, overwrite=True)
    assert found.not_read == [str(given / "sub" / "b.json")]
    assert found.documents == 20 and found.tally.counts["file/unreadable"] == 1
    assert "a bad sector" in found.tally.examples["file/unreadable"][0]
    assert (given.parent / "out" / "sub" / "b.json").read_bytes() == before
    again = run(model, given)
    assert (again.done_before, again.documents) == (4, 23) and not again.not_read


def test_a_full_disk_stops_the_run(
    model: Path, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(corpora, "write_copy", full)
    with pytest.raises(OSError, match="No space left"):
        run(model, given)


def test_an_error_of_ours_names_the_file(
    model: Path, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "rows_of", lambda doc: {}[doc])
    with pytest.raises(RuntimeError, match=f"{given}/a.PubTator, slice 0: KeyError: Document"):
        run(model, given)


@pytest.mark.parametrize("wrong", ["model", "encoder", "input", "out"])
def test_a_wrong_path_leaves_nothing_behind(
    wrong: str,
    model: Path,
    given: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = {"model": model, "input": given, "out": given.parent / "new" / "out"}
    encoder = shutil.copytree(model, given.parent / "encoder")
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k != SETTINGS_KEY})
    )
    others = {"encoder": ("model", encoder), "out": ("out", given / "out")}
    name, path = others.get(wrong, (wrong, Path("none")))
    words[name] = path
    monkeypatch.setattr(
        "sys.argv",
        ["embre", "predict", *map(str, (words["model"], words["input"], "--out", words["out"]))],
    )
    before = sorted(given.parent.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and capsys.readouterr().err.startswith("error: ")
    assert sorted(given.parent.rglob("*")) == before


def test_two_inputs_of_one_name_are_refused(model: Path, given: Path, tmp_path: Path) -> None:
    other = tmp_path / "more"
    write_pubtator(other / "a.PubTator.gz", DOCS[:1])
    for inputs in ([str(given), str(other)], [str(given)]):
        with pytest.raises(
            ValueError, match="output a.PubTator is also .*rename .* or .* by name,"
        ):
            predict_inputs(model, inputs, tmp_path / "out", "test")
        shutil.copy(other / "a.PubTator.gz", given)
    (given / "a.PubTator.gz").unlink()
    with pytest.raises(ValueError, match="lies within the input"):
        predict_inputs(model, [str(given)], given / "out", "test")
    with pytest.raises(FileNotFoundError, match="no config.json"):
        predict_inputs(given, [str(given)], tmp_path / "out", "test")
    with pytest.raises(ValueError, match="no document to predict.*unknown_format"):
        predict_inputs(model, [str(given / "README")], tmp_path / "out", "test")


class InMemory(MemoryFileSystem):
    """A store in memory, for `gs://`."""

    protocol = "gs"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("gs://", "memory://"))


def test_inputs_in_a_bucket(
    model: Path, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_registry, "gs", InMemory)
    bucket = InMemory()
    for name in HAVE_PAIRS:
        bucket.pipe_file(f"/bucket/{name}", (given / name).read_bytes())
    local = run(model, given)
    found = predict_inputs(model, ["gs://bucket"], tmp_path / "far", "test", EVERY)
    assert [path.read_bytes() for path in found.files] == [
        path.read_bytes() for path in local.files if path.name != "none.PubTator"
    ]
    asked: list[str] = []
    with monkeypatch.context() as patched:
        real = InMemory.info

        def info(bucket: InMemory, path: str, **options: object):
            asked.extend([path] if path.endswith(HAVE_PAIRS) else [])
            return real(bucket, path, **options)

        patched.setattr(InMemory, "info", info)
        again = predict_inputs(model, ["gs://bucket"], tmp_path / "far", "test", EVERY)
    assert again.done_before == 3
    assert not asked, "the listing says size and version of each file"
    bucket.pipe_file("/bucket/a.PubTator", (given / "none.PubTator").read_bytes())
    again = predict_inputs(model, ["gs://bucket"], tmp_path / "far", "test", EVERY)
    assert (again.done_before, again.predicted_now) == (2, 4)


def test_the_command_says_how_fast_and_what_was_not_taken(
    model: Path, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = given.parent / "out"
    words = ["predict", str(model), str(given), "--out", str(out), "--threshold", "0", "--parquet"]
    monkeypatch.setattr("sys.argv", ["embre", *words])
    for said in ("24 documents in ", "5 files were done before"):
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        shown = capsys.readouterr().out
        assert not stopped.value.code and said in shown and "file/unknown_format" in shown
    assert (out / "relations" / "sub" / "b.json.parquet").is_file()


def test_the_folder_of_a_run_is_taken_for_its_model(
    model: Path, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model.name == "relation_model"
    out, documents = given.parent / "out", str(given / "a.PubTator")
    words = ["predict", str(model.parent), documents, "--out", str(out), "--json"]
    monkeypatch.setattr("sys.argv", ["embre", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code and json.loads(capsys.readouterr().out)["predicted_now"] == 12


def test_a_report_of_some_documents_says_how_many_there_are(
    model: Path, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cards(page: Path) -> dict[str, str]:
        found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.read_text("utf-8"))
        return {name: value for name, value in found if "documents" in name.lower()}

    assert cards(run(model, given).report) == {"documents": "24"}
    monkeypatch.setattr(predict, "MOST_REPORTED", 5)
    in_all = "documents predicted, the first 5 are here"
    assert cards(run(model, given).report) == {"documents": "5", in_all: "24"}


def test_the_summary_as_json_is_all_of_the_output(
    model: Path, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (given / "cut.PubTator.gz").write_bytes(gzip.compress((given / "a.PubTator").read_bytes())[:-9])
    out = given.parent / "out"
    monkeypatch.setattr(predicting, "LOG_EVERY_S", 0.0)  # progress lines, which are no JSON
    words = ["predict", str(model), str(given), "--out", str(out), "--threshold", "0", "--json"]
    monkeypatch.setattr("sys.argv", ["embre", *words])

    def with_a_lost_node(*given: Any) -> Predicted:
        print("(raylet) Raylet is terminated.")  # as Ray does
        return predict_files(*given)

    monkeypatch.setattr(predicting, "predict_files", with_a_lost_node)
    for before in (0, 6):
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 1
        found = json.loads(capsys.readouterr().out)
        assert (found["documents"], found["done_before"]) == (36, before)
        assert found["not_read"] == [f"{given}/cut.PubTator.gz"]
        assert all(Path(file).is_file() for file in [*found["files"], found["report"]])
        assert found["dropped"]["file/broken_archive"] == 1
        assert found["relations"] > 0 and found["seconds"] > 0


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "run the same command again to predict what is not done"),
        (["--overwrite"], "run the same command again, without --overwrite, to predict"),
    ],
)
def test_a_command_stopped_by_ctrl_c_says_how_to_go_on(
    model: Path,
    given: Path,
    more: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predicting, "predict_files", stopped)
    words = ["predict", str(model), str(given), "--out", str(given.parent / "out"), *more]
    monkeypatch.setattr("sys.argv", ["embre", *words])
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        cli.main()
    assert told in " ".join(capsys.readouterr().out.split())


def test_an_input_that_was_not_read_to_its_end_fails_the_command_at_its_end(
    model: Path, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole_xml = (given / "sub" / "c.xml").read_text()
    (given / "sub" / "c.xml").write_text(whole_xml[: whole_xml.rindex("</document>")])
    (given / "d.PubTator.gz").write_bytes(gzip.compress((given / "a.PubTator").read_bytes())[:-40])
    out = given.parent / "out"
    monkeypatch.setattr("sys.argv", ["embre", "predict", str(model), str(given), "--out", str(out)])
    for _ in range(2):  # and of what is done already the same is said
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        told = capsys.readouterr()
        assert stopped.value.code == 1
        named = f"error: {given}/d.PubTator.gz, {given}/sub/c.xml: not read to the end, {out}"
        assert named in told.err
        assert "report.html" in told.out
    assert {name for name in files_in(out) if name.endswith(("or", "json", "jsonl", "xml"))} == {
        *("a.PubTator", "none.PubTator", "d.PubTator", RECORD, "sub/b.json", "sub/c.xml")
    }
    assert [*read_documents(out / "sub" / "c.xml", Tally())]


def test_the_command_asks_for_what_its_options_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(predicting, "run_prediction", lambda *a, **k: (seen.append((a, k)), [])[1])
    out = str(tmp_path)
    call(["predict", "MODEL", "a", "--out", out], monkeypatch)
    call(
        ["predict", "models:/m@champion", "a", "b", "--out", out, "--device", "cuda"]
        + ["--threshold", "0.25", "--parquet", "--overwrite", "--processes", "3"]
        + ["--ray", "auto", "--gpus", "0.5", "--tracking-uri", "sqlite:///m.db", "--json"],
        monkeypatch,
    )
    for _, options in seen:
        del options["console"]
    plain = {
        "device": "cpu",
        "threshold": None,
        "parquet": False,
        "overwrite": False,
        "processes": 1,
        "ray": None,
        "gpus": 0,
        "tracking_uri": None,
        "as_json": False,
    }
    full = {
        "device": "cuda",
        "threshold": 0.25,
        "parquet": True,
        "overwrite": True,
        "processes": 3,
        "ray": "auto",
        "gpus": 0.5,
        "tracking_uri": "sqlite:///m.db",
        "as_json": True,
    }
    assert seen == [
        (("MODEL", ["a"], tmp_path), plain),
        (("models:/m@champion", ["a", "b"], tmp_path), full),
    ]


class Counting:
    """Workers in this process that look like others, and count the calls of each function."""

    number = 16

    def __init__(self) -> None:
        self.calls: list[str] = []

    def run(self, function, calls):
        for call in calls:
            self.calls.append(function.__name__)
            yield function(*call)


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of a few documents, and every file is large."""
    monkeypatch.setattr(corpora, "SLICE_BYTES", 4000)
    monkeypatch.setattr(predict_slices, "MIN_BYTES", 0)


def test_a_large_file_is_done_in_slices_and_comes_out_the_same(
    model: Path, given: Path, small_slices: None
) -> None:
    settings = replace(EVERY, parquet=True)
    alone = run(model, given, settings)
    before = {path: path.read_bytes() for path in alone.files}
    rows = pq.read_table(given.parent / "out" / "relations")
    workers, progress = Counting(), Progress()
    found = run(model, given, settings, workers=workers, overwrite=True, progress=progress)
    assert workers.calls.count("predict_slice") > 8
    assert progress.documents == found.predicted_now == 24
    assert progress.stored_bytes == progress.total_bytes
    assert (found.relations, found.tally) == (alone.relations, alone.tally)
    assert {path: path.read_bytes() for path in found.files} == before
    assert pq.read_table(given.parent / "out" / "relations") == rows
    assert not (given.parent / "out" / predict_slices.FOLDER).exists()


def test_an_archive_is_done_in_slices_over_its_files(
    model: Path, given: Path, small_slices: None
) -> None:
    with tarfile.open(given.parent / "all.tgz", "w:gz") as archive:
        archive.add(given, "in")
    shutil.rmtree(given)
    given.mkdir()
    shutil.move(given.parent / "all.tgz", given)
    (alone,) = run(model, given).files
    before, workers = alone.read_bytes(), Counting()
    found = run(model, given, workers=workers, overwrite=True)
    assert workers.calls.count("predict_slice") > 8 and found.documents == 24
    assert alone.read_bytes() == before


def test_the_worker_of_a_slice_reads_its_documents_alone(
    model: Path, given: Path, small_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pubtator(given / "a.PubTator", DOCS)
    reads: list[str] = []

    class Watched(LocalFileSystem):
        protocol = "watched"

        def _open(self, path: str, *more: object, **options: object):
            reads.append(path)
            return super()._open(path, *more, **options)

    source = Source(Watched(), str(given / "a.PubTator"), "a.PubTator")
    task = Task(model, "", EVERY, source, "1", 0, given.parent / "out", "a.PubTator")
    slices = [*corpora.slices_of(source, Tally())]
    assert len(slices) > 3 and len(reads) == 1
    done = [predict_slice(task, one) for one in slices]
    assert len(reads) == 1, "cut once, whatever the number of slices"
    assert sum(documents for documents, _ in done) == 24
    assert sum(stored for _, stored in done) == (given / "a.PubTator").stat().st_size


def test_slices_that_are_there_are_not_done_again(
    model: Path, given: Path, small_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(task):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(predict, "predict_file", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(model, given, workers=Counting())
    (one, *_) = (given.parent / "out" / predict_slices.FOLDER).iterdir()
    one.unlink()
    workers, progress = Counting(), Progress()
    assert run(model, given, workers=workers, progress=progress).documents == 24
    assert workers.calls == ["predict_slice"] + ["predict_file"] * 5
    whole = sum(path.stat().st_size for path in given.rglob("*") if path.is_file())
    assert 0 < progress.total_bytes < whole


@pytest.mark.parametrize("workers", [None, Counting()])
def test_a_run_that_was_stopped_resumes_within_a_file(
    model: Path, given: Path, small_slices: None, monkeypatch: pytest.MonkeyPatch, workers
) -> None:
    """In one process, and in a worker for a file that several do not share."""
    monkeypatch.setattr(predict, "is_large", lambda *_: False)
    wanted = {path: path.read_bytes() for path in run(model, given).files}
    shutil.rmtree(given.parent / "out")
    predicted, before = list[int](), tasks.predict

    def predicting_until(limit: float):
        def counted(loaded, docs, tally):
            if len(predicted) >= limit:
                raise KeyboardInterrupt
            predicted.append(0)
            for doc in before(loaded, docs, tally):
                predicted[-1] += 1
                yield doc

        return counted

    monkeypatch.setattr(tasks, "predict", predicting_until(2))
    with pytest.raises(KeyboardInterrupt):
        run(model, given, workers=workers)
    assert len(predicted) == 2 and not (given.parent / "out" / "a.PubTator").exists()
    monkeypatch.setattr(tasks, "predict", predicting_until(float("inf")))
    progress = Progress()
    found = run(model, given, workers=workers, progress=progress)
    assert sum(predicted) == 24, "no document is predicted twice"
    assert {path: path.read_bytes() for path in found.files} == wanted
    assert not (given.parent / "out" / predict_slices.FOLDER).exists()
    if workers is None:
        assert progress.documents == sum(predicted[2:])
        assert progress.stored_bytes == progress.total_bytes


def test_a_file_whose_store_fails_is_continued_by_the_next_run(
    model: Path, given: Path, small_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(source, target, tally, edit):
        """As if the store failed after the last slice."""
        copy_edited(source, target, tally, edit)
        raise StoreFailed("the store does not respond")

    copy_edited = tasks.copy_edited
    with monkeypatch.context() as patched:
        patched.setattr(tasks, "copy_edited", failing)
        with pytest.raises(ValueError, match="no document to predict"):
            run(model, given)
    monkeypatch.setattr(tasks, "predict", lambda *_: pytest.fail("predicted twice"))
    found = run(model, given)
    assert found.documents == 24 and not found.not_read
    assert not (given.parent / "out" / predict_slices.FOLDER).exists()


def test_a_folder_of_slices_that_others_made_stays(model: Path, given: Path) -> None:
    folder = given.parent / "out" / predict_slices.FOLDER
    folder.mkdir(parents=True)
    names = ("notes.txt", "0123456789abcdef-1.txt", f"{'0123456789abcdef' * 2}-0")
    for name in (*names, "0123456789abcdef-1"):
        (folder / name).write_text("mine")
    run(model, given)
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_slices_are_written_while_those_of_another_file_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, going = (SliceStore.of(tmp_path, name) for name in "ab")
    nothing = PredictedSlice("", 0, [], [], {}, {})
    done.write(0, nothing)
    write = predict_slices.write_atomic

    def late(path: Path, data: bytes) -> None:
        done.remove()
        write(path, data)

    monkeypatch.setattr(predict_slices, "write_atomic", late)
    going.write(0, nothing)
    assert going.is_done(0) and not done.is_done(0)


def test_a_file_is_large_by_its_share_of_the_work() -> None:
    size = 100 * MIN_BYTES
    assert is_large(size, size, 2) and is_large(size, 31 * size, 8)
    assert not is_large(size, 32 * size, 8), "there are four such files for each process"
    assert not is_large(MIN_BYTES - 1, size, 64)


def test_slices_of_a_file_that_has_changed_are_not_used(
    model: Path, given: Path, small_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = run(model, given).files[0].read_bytes()
    data, slices = (given / "a.PubTator").read_bytes(), predict.slices_of

    def changed(source: Source, tally: Tally):
        """Slices of the file as it was before."""
        path = Path(source.path)
        now = path.read_bytes()
        path.write_bytes(now.replace(b"1", b"2"))
        found = [*slices(source, tally)]
        path.write_bytes(now)
        return found

    monkeypatch.setattr(predict, "slices_of", changed)
    found = run(model, given, workers=Counting(), overwrite=True)
    assert (given / "a.PubTator").read_bytes() == data
    assert found.files[0].read_bytes() == wanted


def test_one_run_at_a_time_writes_into_a_folder(model: Path, given: Path) -> None:
    with locked(given.parent / "out"), ThreadPoolExecutor(1) as another:
        with pytest.raises(ValueError, match="another run is writing to"):
            another.submit(run, model, given).result()
    assert run(model, given).documents


def test_overwrite_does_the_given_inputs_again_and_keeps_the_others(
    model: Path, given: Path
) -> None:
    out, settings = given.parent / "out", replace(EVERY, parquet=True)
    run(model, given, settings)
    before, told = files_in(out), []
    recorded = read_record(out)
    found = predict_inputs(
        *(model, [str(given / "a.PubTator")], out, "test", settings),
        overwrite=True,
        tell=told.append,
    )
    assert found.predicted_now == 12 and not told
    # What it took stands in these two, and may by chance be the same once more.
    changed = {name for name, data in files_in(out).items() if data != before[name]}
    assert changed <= {RECORD, REPORT}
    now = read_record(out)
    for one in (recorded, now):
        one.files["a.PubTator"].seconds = 0.0
    assert now == recorded
    assert run(model, given, settings).done_before == 5


@pytest.fixture(scope="module")
def another(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model by which other relations have other probabilities."""
    folder = tmp_path_factory.mktemp("another") / "relation_model"
    loaded = tiny_relation_model(model)
    with torch.no_grad():
        for weights in loaded.model.parameters():
            weights.mul_(1.5)
    save_relation_model(folder, loaded)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    """All files in a folder but for the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("other", ["model", "threshold"])
def test_overwrite_with_another_model_removes_what_it_does_not_do_again_and_says_so(
    model: Path, another: Path, given: Path, other: str
) -> None:
    out, settings = given.parent / "out", replace(EVERY, parquet=True)
    run(model, given, settings)
    (out / "README").write_text("of the user; the input of this name is no corpus")
    told: list[str] = []
    folder, least = (another, 0.0) if other == "model" else (model, 0.1)
    found = predict_inputs(
        *(folder, [str(given / "a.PubTator")], out, "test", PredictSettings(threshold=least)),
        overwrite=True,
        tell=told.append,
    )
    assert files_in(out).keys() == {"README", "a.PubTator", RECORD, REPORT}
    assert found.documents == 12
    (line,) = told
    assert "removed 3 outputs of other inputs" in line and f"with another {other}: a" in line


class Killed(BaseException):
    """The end of a process that nothing can handle: nothing that it would do later happens."""


@pytest.mark.parametrize("steps", range(10))
def test_a_run_that_is_killed_while_it_overwrites_leaves_the_files_of_one_model(
    model: Path,
    another: Path,
    given: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
) -> None:
    inputs, out = [str(given / "a.PubTator"), str(given / "none.PubTator")], tmp_path / "out"
    wanted = predict_inputs(another, inputs, tmp_path / "wanted", "test", EVERY)
    run(model, given)
    old, new = files_in(out), files_in(tmp_path / "wanted")
    assert old["a.PubTator"] != new["a.PubTator"]
    left = steps

    def mortal(function):
        def lived(*given, **more):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return function(*given, **more)

        return lived

    with monkeypatch.context() as patched:
        patched.setattr(predict_record, "remove_output", mortal(predict_record.remove_output))
        for name in ("write_record", "predict_file"):
            patched.setattr(predict, name, mortal(getattr(predict, name)))
        real = predict.appending

        @contextmanager
        def appending(out: Path):
            with real(out) as append:
                yield mortal(append)

        patched.setattr(predict, "appending", appending)
        try:
            predict_inputs(another, inputs, out, "test", EVERY, overwrite=True)
        except Killed:
            pass
    assert (left >= 0) == (steps == 9), "one more than there is to do"
    record = read_record(out)
    of_one = old if record.header.model == json.loads(old[RECORD].split(b"\n")[0])["model"] else new
    for name in files_in(out).keys() - {RECORD}:
        assert (out / name).read_bytes() == of_one[name]
        assert name == REPORT or name in record.files
    again = predict_inputs(another, inputs, out, "test", EVERY, overwrite=True)
    assert again.documents == wanted.documents
    now = files_in(out)
    assert now.keys() == new.keys() and all(now[n] == new[n] for n in ("a.PubTator", REPORT))


def test_a_model_that_cannot_be_loaded_changes_nothing(
    model: Path, given: Path, tmp_path: Path
) -> None:
    encoder = shutil.copytree(model, tmp_path / "encoder")
    settings = json.loads((encoder / "config.json").read_text())
    settings.pop("embre")
    (encoder / "config.json").write_text(json.dumps(settings))
    out = given.parent / "out"
    for workers in (None, Counting()):
        with pytest.raises(ValueError, match="an encoder alone predicts nothing"):
            run(encoder, given, workers=workers)
        assert not files_in(out)
    run(model, given)
    before = files_in(out)
    with pytest.raises(ValueError, match="an encoder alone predicts nothing"):
        run(encoder, given, overwrite=True)
    assert files_in(out) == before


def test_a_record_without_outputs_binds_to_no_model(
    model: Path, another: Path, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(predict, "predict_file", None)
        with pytest.raises(TypeError):
            run(model, given)
    assert (given.parent / "out" / RECORD).is_file()
    assert run(another, given).predicted_now == 24
    (given.parent / "out" / "a.PubTator").unlink()
    with pytest.raises(ValueError, match="with another model; choose"):
        run(model, given)


def test_an_output_is_recorded_before_it_is_there(
    model: Path, another: Path, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = given.parent / "out"
    with monkeypatch.context() as patched:
        patched.setattr(predict, "appending", lambda out: nullcontext(lambda one: None))
        run(model, given)
    with pytest.raises(ValueError, match="with another model; choose"):
        predict_inputs(another, [str(given / "a.PubTator")], out, "test", EVERY)
    assert run(model, given).done_before == 0


def test_a_file_that_is_done_costs_one_line(model: Path, given: Path) -> None:
    record = given.parent / "out" / RECORD
    run(model, given)
    header, *lines = record.read_bytes().split(b"\n")
    assert json.loads(header).keys() == {"format", "model", "threshold"}
    targets = [json.loads(line)["target"] for line in lines if line]
    assert len(targets) == 10 and targets[:5] == sorted(targets[5:]), "begun, then done"
    write_pubtator(given / "a.PubTator", DOCS[:13])
    run(model, given)
    assert record.read_bytes().count(b"\n") == 1 + 5 + 1, "a run begins with one line for each"


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_a_record_that_a_killed_run_left_ends_anywhere_in_its_appended_lines(
    model: Path, given: Path, kept: float
) -> None:
    whole = run(model, given)
    record = given.parent / "out" / RECORD
    data = record.read_bytes()
    lines = data.splitlines(keepends=True)
    begun = sum(map(len, lines[:6]))
    end = begun + round(kept * (len(data) - begun))
    record.write_bytes(data[:end])
    again = run(model, given)
    assert again.done_before == data[begun:end].count(b"\n")
    assert (again.documents, again.tally) == (whole.documents, whole.tally)
    assert run(model, given).done_before == 5


def test_a_record_with_a_damaged_line_is_refused(model: Path, given: Path) -> None:
    run(model, given)
    record = given.parent / "out" / RECORD
    lines = record.read_bytes().splitlines(keepends=True)
    for line in (b'{"target": \n', b"\xff\n", b"{}\n"):
        record.write_bytes(b"".join([*lines[:3], line, *lines[4:]]))
        with pytest.raises(ValueError, match=r"predicted.jsonl: line 4: .*choose another --out"):
            run(model, given)


def call(words: list[str], monkeypatch: pytest.MonkeyPatch, code: int = 0) -> None:
    monkeypatch.setattr("sys.argv", ["embre", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert (stopped.value.code or 0) == code


def test_a_model_that_a_killed_run_fetched_is_not_read_and_goes(
    model: Path, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = given.parent / "out"
    run(model, given)
    fetched = shutil.copytree(model, out / f".model-{'0a1b2c3d' * 4}" / "model")
    (fetched / "README.md").write_text("1|t|BRAF\n1|a|\n\n")
    mine = [out / name for name in (".model-notes/a.txt", ".model-0a1b2c3d/b.txt")]
    for note in mine:
        note.parent.mkdir()
        note.write_text("mine")
    (out / "a.PubTator.0123abcd.partial").write_bytes((out / "a.PubTator").read_bytes())
    page = given.parent / "page.html"
    call(["report", "--pred", str(out), "--out", str(page)], monkeypatch)
    assert "page.html: 24 documents" in capsys.readouterr().out
    gold = str(given / "a.PubTator")
    call(["evaluate", "--pred", str(out), "--gold", gold], monkeypatch)
    assert "file/" not in capsys.readouterr().out
    call(["predict", str(model), gold, "--out", str(out), "--threshold", "0"], monkeypatch)
    assert {*out.glob(".model-*")} == {note.parent for note in mine}
    assert all(note.read_text() == "mine" for note in mine)
    assert outputs_in(given) is None


def test_a_registered_model_is_fetched_where_no_other_run_writes_and_goes(
    model: Path, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = given.parent / "out", []

    def fetch(uri: str, tracking_uri: str, target: Path) -> Path:
        with ThreadPoolExecutor(1) as another, pytest.raises(ValueError, match="another run"):
            another.submit(run, model, given).result()
        seen.append(uri)
        return shutil.copytree(model, target)

    monkeypatch.setattr(predicting, "find", lambda uri, tracking_uri: seen.append(f"found {uri}"))
    monkeypatch.setattr(predicting, "fetch", fetch)
    call(["predict", "models:/one@champion", str(given), "--out", str(out)], monkeypatch)
    assert seen == ["found models:/one@champion", "models:/one@champion"]
    assert not list(out.glob(".model-*"))


def test_a_name_that_is_not_registered_leaves_nothing_behind(
    given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, uri = given.parent / "out", f"sqlite:///{given.parent}/mlflow.db"
    client_of(uri).create_registered_model("m")
    for name in ("models:/typo@x", "models:/m/7", "models:/m-typo"):
        command = ["predict", name, str(given), "--out", str(out), "--tracking-uri", uri]
        call(command, monkeypatch, code=2)
        assert f"{name}: the registry at {uri} has no such model" in capsys.readouterr().err
        assert not out.exists()


def test_the_command_shows_a_folder_as_it_is_called(
    model: Path, given: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(["predict", str(model), str(given), "--out", f"{given.parent}/p[x]/q"], monkeypatch)
    assert f"4 files in {given.parent}/p[x]/q" in capsys.readouterr().out


def test_no_table_or_file_of_another_prediction_stays(model: Path, given: Path) -> None:
    out, tables = given.parent / "out", PredictSettings(threshold=0.0, parquet=True)
    run(model, given, tables)
    table = out / "relations" / "a.PubTator.parquet"
    assert table.is_file()
    write_pubtator(given / "a.PubTator", DOCS[:3])
    run(model, given)
    assert not table.exists(), "it had the relations of the file before it changed"
    run(model, given, tables)
    assert set(pq.read_table(table)["document"].to_pylist()) <= {doc.doc_id for doc in DOCS[:3]}
    (given / "sub" / "b.json").unlink()
    run(model, given, PredictSettings(threshold=0.1), overwrite=True)
    assert not (out / "sub" / "b.json").exists() and not table.exists()
    (given / "a.PubTator").write_text("no corpus any more")
    run(model, given, PredictSettings(threshold=0.1))
    assert not (out / "a.PubTator").exists()


def test_only_the_same_file_of_the_same_version_is_done(model: Path, given: Path) -> None:
    run(model, given)
    out = given.parent / "out"
    one = read_record(out).files["a.PubTator"]
    assert is_done(one, one.source, one.version, out, parquet=False)
    assert not is_done(one, "other/a.PubTator", one.version, out, parquet=False)
    assert not is_done(one, one.source, None, out, parquet=False), "nobody can know"


@pytest.mark.parametrize("name", ["a.PubTator", "README", REPORT, "relations/a.PubTator.parquet"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_no_run_wrote_is_in_the_way(
    model: Path, given: Path, name: str, overwrite: bool
) -> None:
    out = given.parent / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(
        ValueError, match=f"{name}: exists and is not .* move it elsewhere, or choose"
    ):
        run(model, given, overwrite=overwrite)
    assert files_in(out) == {name: b"mine"}


def test_a_file_in_the_place_of_an_input_that_was_no_corpus_stays(model: Path, given: Path) -> None:
    run(model, given)
    mine = given.parent / "out" / "README"
    mine.write_text("mine")
    assert run(model, given).done_before == 5
    (given / "README").write_text("still nothing to read")
    with pytest.raises(ValueError, match="README: exists and is not"):
        run(model, given)
    assert mine.read_text() == "mine"


def test_an_input_with_the_name_of_the_lock_is_refused(model: Path, given: Path) -> None:
    (given / ".lock").write_text("no corpus")
    with pytest.raises(ValueError, match=".lock is reserved in --out; rename the input"):
        run(model, given)

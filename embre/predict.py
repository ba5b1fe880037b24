"""Prediction: a relation model and PubTator or BioC files → the same files with relations."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from embre.corpora import (
    FORMATS,
    copy_with_relations,
    format_of,
    is_archive,
    read_documents,
    write_documents,
)
from embre.corpora.sources import list_files, locate
from embre.decode import predict
from embre.document import Document
from embre.relation_folder import LoadedModel
from embre.report import write_report
from embre.tally import Tally

REPORT = "report.html"
# A report holds its documents in one page; a curator reads no more than this in one sitting.
MOST_REPORTED = 500
WITHOUT_WRITER = {"bioc_xml": "bioc_json"}


@dataclass
class Predicted:
    """What came out: files written, documents and relations in them, and what was not read."""

    files: list[Path]
    documents: int
    relations: int
    tally: Tally
    report: Path | None


def predict_files(
    model: LoadedModel,
    inputs: list[str],
    out: Path,
    title: str,
    progress: Callable[[int], None] = lambda documents: None,
) -> Predicted:
    """Write each input file into `out` with predicted relations, in its own format.

    PubTator text is copied byte for byte, but for its relation lines. BioC comes out as BioC-JSON
    with passages, mentions and relations; what else it said is not carried over. Beside the files
    a report of the first documents is written.
    Raises FileNotFoundError or ValueError for an input that cannot be read at all.
    """
    found = Predicted([], 0, 0, Tally(), None)
    shown: list[Document] = []

    def counted(docs: Iterator[Document]) -> Iterator[Document]:
        for doc in docs:
            found.documents += 1
            found.relations += len(doc.relations)
            if len(shown) < MOST_REPORTED:
                shown.append(doc)
            progress(1)
            yield doc

    for source, like, target in plan(inputs, out, found.tally):
        docs = read_documents(source, found.tally)
        results = counted(predict(model, docs, found.tally))
        if like == "pubtator" and not is_archive(source):
            copy_with_relations(source, target, results)
        else:
            write_documents(target, results, like=like)
        found.files.append(target)
    if not found.documents:
        raise ValueError(
            f"{', '.join(inputs)}: no document to predict; give files of {', '.join(FORMATS)}"
        )
    found.report = out / REPORT
    write_report(found.report, shown, title=title, facts={"Documents": f"{found.documents:,}"})
    return found


def plan(inputs: list[str], out: Path, tally: Tally) -> list[tuple[str, str, Path]]:
    """(source, format, target) of every file to predict, before the first is.

    A folder keeps its inner paths. Raises ValueError where two inputs would share a target or a
    target lies where an input does.
    """
    planned: dict[Path, tuple[str, str, Path]] = {}
    for name in inputs:
        for file in list_files(locate(name)):
            like = format_of(file.name)
            if like is None:
                tally.drop("file/unknown_format", file.name)
                continue
            like = WITHOUT_WRITER.get(like, like)
            inner = file.name.removeprefix(name).lstrip("/") or Path(file.name).name
            target = out / _renamed(inner, like)
            if target in planned:
                raise ValueError(f"{file.name}: another input is called {inner} too; use two --out")
            if target.parent.resolve() == Path(file.name).parent.resolve():
                raise ValueError(f"{file.name}: --out is the folder of the input; choose another")
            planned[target] = (file.name, like, target)
    return list(planned.values())


def _renamed(name: str, like: str) -> str:
    """The name of an output: not compressed, and JSON where XML came in."""
    for ending in (".gz", ".tgz", ".tar"):
        name = name.removesuffix(ending)
    if like == "bioc_json" and name.lower().endswith(".xml"):
        return f"{name[:-4]}.json"
    return name

"""Prediction: a relation model and PubTator or BioC files → the same files with relations."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from embre.corpora import FORMATS, format_of, read_documents, write_documents
from embre.corpora.sources import list_files, locate
from embre.decode import predict
from embre.document import Document
from embre.relation_folder import LoadedModel
from embre.report import write_report
from embre.tally import Tally

REPORT = "report.html"
DOCUMENTS_PER_BATCH = 8
# A report holds its documents in one page; a curator reads no more than this in one sitting.
MOST_REPORTED = 500
WITHOUT_WRITER = {"bioc_xml": "bioc_json"}
ENDINGS = {"pubtator": ".PubTator", "bioc_json": ".json"}


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

    BioC-XML comes out as BioC-JSON. Beside the files a report of the first documents is written.
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

    for name in inputs:
        for file in list_files(locate(name)):
            like = format_of(file.name)
            if like is None:
                found.tally.drop("file/unknown_format", file.name)
                continue
            like = WITHOUT_WRITER.get(like, like)
            target = _target(out, Path(file.name), like, found.files)
            docs = read_documents(file.name, found.tally)
            results = predict(model, docs, DOCUMENTS_PER_BATCH, found.tally)
            write_documents(target, counted(results), like=like)
            found.files.append(target)
    if not found.documents:
        raise ValueError(
            f"{', '.join(inputs)}: no document to predict; give files of {', '.join(FORMATS)}"
        )
    found.report = out / REPORT
    write_report(found.report, shown, title=title, facts={"Documents": f"{found.documents:,}"})
    return found


def _target(out: Path, source: Path, like: str, taken: list[Path]) -> Path:
    """Where a file goes: under its own name; two inputs of one name never share a file."""
    name = source.name
    for ending in (".gz", ".tar", ".tgz"):
        name = name.removesuffix(ending)
    if like == "bioc_json" and name.lower().endswith(".xml"):
        name = f"{name[:-4]}{ENDINGS[like]}"
    target = out / name
    if target in taken:
        raise ValueError(f"{source}: another input is called {name} too; predict them apart")
    if target.exists() and target.resolve() == source.resolve():
        raise ValueError(f"{source}: --out is the folder of the input; choose another")
    return target

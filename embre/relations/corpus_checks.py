"""Checks of annotated documents: before a fine-tuning run, and before an evaluation.

What is refused here would make a score meaningless, or too high without anybody noticing.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embre.config import CorpusConfig
from embre.corpora import read_documents
from embre.corpora.assemble import as_checked
from embre.corpora.raw import CheckedDocument
from embre.document import Document
from embre.held_out import (
    SHIPPED,
    Fingerprint,
    HoldOutList,
    document_ids,
    fingerprint,
    read_hold_out_list,
)
from embre.refused import Refused
from embre.relation_schema import RelationSchema
from embre.relations.training_corpora import read_extra_corpora, schemas_of
from embre.tally import Tally

# Tally reasons for input that was not read (not for what was repaired or is unused), and those for
# a truncated file.
UNREAD = re.compile(r"(file|member|line)/|document/(unreadable|cut_off|too_large)$")
CUT = re.compile(r"file/(broken_archive|bomb|cut_off)$|document/cut_off$")


def check_corpora(data: CorpusConfig) -> list[Document]:
    """Check all corpora of a run; return the scored documents.

    Raises FileNotFoundError or Refused, naming the key, if a file cannot be read, has nothing to
    learn from, or would make the score meaningless.
    """
    schemas = schemas_of(data)
    train = _check_file("data.train", data.train, schemas[0])
    if schemas[0].novelty:
        _check_novelty(f"data.train: no relation of {data.train}", train, schemas[0])
    held = HoldOutList("data.dev")
    dev = _check_file("data.dev", data.dev, schemas[0], scored=True)
    if schemas[0].novelty:
        _check_novelty(f"data.dev: no relation of {data.dev}", dev, schemas[0])
    for doc in map(as_checked, dev):
        held.ids.update(document_ids(doc))
        held.add(_without_title(doc))
    checked = map(as_checked, train)
    if shared := sorted(doc.doc_id for doc in checked if held.has(doc, _without_title(doc))):
        raise Refused(
            f"data.train and data.dev share {len(shared)} documents by id or text, such as "
            f"{shared[0]}: a score on training documents means nothing; give other files"
        )
    for number, (one, schema) in enumerate(zip(data.extra_corpora, schemas[1:], strict=True)):
        _check_file(f"data.extra_corpora.{number}.train", one.train, schema)
    others = read_extra_corpora(data, schemas[1:], train, dev, Tally())
    for number, (docs, _) in enumerate(others):
        if not docs:
            raise Refused(
                f"data.extra_corpora.{number}.train: every document is one that the run is scored "
                f"on, an evaluation document of {data.corpus.name}, or in data.train; give other "
                "files"
            )
    return dev


def refuse_gaps(tally: Tally, source: str) -> None:
    """Raise Refused if a scored file was not read completely, or has relations whose ends are not
    exactly one mentioned concept: they could not be counted as missed, so the score would be too
    high."""
    refuse_unread(tally, source, UNREAD, "left out of the score")
    reason = "relation/unknown_concept"
    if unknown := tally.counts[reason]:
        raise Refused(
            f"{source}: {unknown} relations name a concept that their document does not mention, "
            f"or several at one end, such as {tally.examples[reason][0]}; they would be left out "
            "of the score: correct their identifiers, or those of the mentions; if an end names "
            "several, write one relation for each"
        )


def refuse_unread(tally: Tally, source: str, reasons: re.Pattern[str], loss: str) -> None:
    """Raise Refused if any of these reasons was counted; `loss` describes the effect of the gap."""
    found = {reason: times for reason, times in tally.counts.items() if reasons.match(reason)}
    if found:
        places = "; ".join(f"{reason} at {tally.examples[reason][0]}" for reason in found)
        raise Refused(
            f"{source}: {_counts(found)} not read, and would be {loss}; first {places}. Fetch a "
            "damaged file again, correct what cannot be read, and remove files that are not a "
            "corpus from the folder or archive"
        )


def refuse_unknown_labels(docs: Iterable[Document], schema: RelationSchema, source: str) -> None:
    """Raise Refused if documents, with the labels of their files, have some that the schema does
    not know: their relations would be left out, and scores on gold ones would be too high."""
    first: dict[str, str] = {}
    times = Counter[str]()
    for doc in docs:
        for relation in doc.relations:
            if not schema.knows(relation.type):
                first.setdefault(relation.type, doc.doc_id)
                times[relation.type] += 1
    if not times:
        return
    unknown = dict(times.most_common())
    label = next(iter(unknown))
    near = difflib.get_close_matches(label, schema.corpus_types, n=1) or schema.corpus_types
    raise Refused(
        f"{source} has labels that {schema.name} does not know: {_counts(unknown)}; "
        f"first in document {first[label]}. Say what each means with label_map in the corpus, as "
        f"{{{label}: {near[0]}}}, or {{{label}: null}} to leave it out"
    )


def contamination_warning(encoder: Mapping[str, Any], dev: Sequence[Document], source: str) -> str:
    """A warning if the encoder may have been pretrained on scored documents; '' if not, or if the
    encoder is not ours. `encoder` is its lineage, `source` the file of `dev`.

    The lineage names the hold-out lists of the shard set. Shipped lists are read; a list with the
    name of the scored file is assumed to cover it.
    """
    while "encoder" in encoder:  # a relation model that is trained on
        encoder = encoder["encoder"]
    lists = encoder.get("held_out", [])
    if "shard_set" not in encoder or Path(source).name in lists:
        return ""
    held = [read_hold_out_list(name) for name in lists if name in SHIPPED]
    docs = [(doc, fingerprint(doc)) for doc in map(as_checked, dev)]
    unlisted = [doc for doc, prints in docs if not any(one.has(doc, prints) for one in held)]
    if not unlisted:
        return ""
    return (
        f"{len(unlisted)} of {len(dev)} scored documents, as {unlisted[0].doc_id}, are on no list "
        f"that the encoder's shard set is known to hold out ({', '.join(lists) or 'none'}; one of "
        "your own counts where it has the name of the scored file), so it may have been pretrained "
        "on them and the score be too high"
    )


def _without_title(doc: CheckedDocument) -> Fingerprint:
    """The fingerprint without the title, which two articles may share."""
    return fingerprint(doc)._replace(title=0)


def _check_file(
    key: str, path: str, schema: RelationSchema, scored: bool = False
) -> list[Document]:
    tally = Tally()
    docs = list(read_documents(path, tally))
    refuse_unread(tally, f"{key}: {path}", CUT, "missing")
    if not docs:
        raise Refused(f"{key}: {path} holds no document")
    doc_id, times = Counter(doc.doc_id for doc in docs).most_common(1)[0]
    if times > 1:
        raise Refused(
            f"{key}: {path} has document {doc_id} {times} times; "
            "give one file of each document, not a folder of several formats"
        )
    refuse_unknown_labels(docs, schema, f"{key}: {path}")
    if scored:
        refuse_gaps(tally, f"{key}: {path}")
    ours = [schema.normalise(doc, Tally()) for doc in docs]
    if not any(r.type in schema.legal_types(*r.pair) for doc in ours for r in doc.relations):
        pairs = Counter(
            f"{r.type} of {' and '.join(c.type for c in r.pair)}"
            for doc in docs
            for r in doc.relations
        )
        legal = "; ".join(f"{a} {b}: {', '.join(sorted(t))}" for (a, b), t in schema.legal.items())
        raise Refused(
            f"{key}: {path} has no relation that {schema.name} allows ({legal}); it has "
            f"{_counts(pairs) or 'none at all'}; give annotated documents, or the right corpus"
        )
    return docs


def _check_novelty(none_of: str, docs: Iterable[Document], schema: RelationSchema) -> None:
    if all(relation.novel is None for doc in docs for relation in doc.relations):
        raise Refused(
            f"{none_of} says Novel or No, and {schema.name} has novelty; "
            f"set data.corpus to {{name: {schema.name}, …, novelty: false}}"
        )


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{name} ({times})" for name, times in found.items())

"""The annotated documents of a fine-tuning run: the scored corpus and extra ones.

data ──schemas_of──▶ a RelationSchema per corpus
     ──read_annotated, read_extra_corpora──▶ documents with the relation types of the schema
"""

from collections.abc import Iterable
from dataclasses import replace

from embre.config import CorpusConfig, SchemaConfig
from embre.corpora import CORPORA, read_documents
from embre.corpora.assemble import as_checked
from embre.document import Document
from embre.held_out import SHIPPED, HoldOutList, document_ids, fingerprint, read_hold_out_list
from embre.refused import Refused
from embre.relation_schema import RelationSchema
from embre.tally import Tally
from embre.wording import nearest


def schemas_of(data: CorpusConfig) -> list[RelationSchema]:
    """The schema of the scored corpus, then one for each of `data.extra_corpora`.

    All share one list of `relation_types`, in order of appearance, so that one model can learn them
    all; equal names are the same label. Each corpus keeps its own legal pairs. Raises Refused for a
    corpus description that is not valid.
    """
    schemas = [schema_of(data.corpus, "data.corpus")]
    schemas += [
        schema_of(one.corpus, f"data.extra_corpora.{n}.corpus")
        for n, one in enumerate(data.extra_corpora)
    ]
    together = tuple(dict.fromkeys(name for schema in schemas for name in schema.relation_types))
    return [replace(schema, relation_types=together) for schema in schemas]


def schema_of(config: SchemaConfig, key: str) -> RelationSchema:
    """The schema that a config names or describes. Raises Refused if it is not valid."""
    known = CORPORA.get(config.name)
    if known is None and config.legal is None:
        raise Refused(
            f"{key}: unknown corpus {config.name!r}; known: {', '.join(CORPORA)}; to describe your "
            "own, give its relations too: {name: …, legal: {Chemical Disease: [CID]}}"
        )
    if known is not None and config.legal is not None:
        raise Refused(
            f"{key}: {config.name} is a known corpus; leave out legal, or choose another name"
        )
    if known is None:
        assert config.legal is not None
        legal = {tuple(pair.split()): labels for pair, labels in config.legal.items()}
        known = RelationSchema(
            name=config.name,
            relation_types=tuple(dict.fromkeys(t for labels in legal.values() for t in labels)),
            legal={(low, high): frozenset(labels) for (low, high), labels in legal.items()},
            novelty=False,
        )
    for label, ours in config.label_map.items():
        if ours is not None and ours not in known.relation_types:
            hint = nearest(ours, known.relation_types)
            raise Refused(
                f"{key}.label_map: {label!r} maps to {ours!r}, which is no relation type; {hint}"
            )
    novelty = known.novelty if config.novelty is None else config.novelty
    return replace(known, label_map=config.label_map, novelty=novelty)


def read_annotated(path: str, schema: RelationSchema, tally: Tally) -> list[Document]:
    """Read all documents of a file or folder, with their labels mapped to those of the schema."""
    return [schema.normalise(doc, tally) for doc in read_documents(path, tally)]


def read_extra_corpora(
    data: CorpusConfig,
    schemas: Iterable[RelationSchema],
    train: Iterable[Document],
    dev: Iterable[Document],
    tally: Tally,
) -> list[tuple[list[Document], RelationSchema]]:
    """Read `data.extra_corpora`; returns each corpus with its schema, from `schemas`.

    Left out and counted: documents of `dev`, because corpora share articles (BioRED Dev and BC5CDR
    share 16); the evaluation documents on the shipped list of the scored corpus; and, in further
    files of the scored corpus, documents of `train`, which would be learnt twice.
    """
    held = (
        read_hold_out_list(data.corpus.name)
        if data.corpus.name in SHIPPED
        else HoldOutList(data.corpus.name)
    )
    _hold(held, dev)
    known = HoldOutList("data.train")
    _hold(known, train)
    found = []
    for one, schema in zip(data.extra_corpora, schemas, strict=True):
        docs = []
        for doc in read_annotated(one.train, schema, tally):
            checked = as_checked(doc)
            if held.has(checked, fingerprint(checked)):
                tally.drop("document/held_out", doc.doc_id, f"{schema.name}, of {held.name}")
            elif schema.name == data.corpus.name and known.has(checked, fingerprint(checked)):
                tally.drop("document/twice", doc.doc_id, f"{one.train}, of {known.name}")
            else:
                docs.append(doc)
        found.append((docs, schema))
    return found


def _hold(held: HoldOutList, docs: Iterable[Document]) -> None:
    for doc in map(as_checked, docs):
        held.ids.update(document_ids(doc))
        held.add(fingerprint(doc))

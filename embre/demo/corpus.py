"""A made-up corpus in BioRED's schema, small enough to be learnt in a minute on a laptop.

    catalogue + knowledge ─▶ 2-4 claims per document ─▶ title and sentences ─▶ Document

A claim is a sentence that states how two concepts are related and whether that is new; a distractor
names two concepts of the document without relating them. Names and identifiers are made up, except
those of species.
"""

import random
import re
from dataclasses import dataclass
from itertools import combinations

from embre.demo import words
from embre.document import Concept, Document, Mention, Passage, Relation
from embre.entity_types import ENTITY_TYPES, normalise

FIRST_DOC_ID = 90_000_001
KNOWLEDGE_SHARE = 0.7  # of the claims are the same in all documents; the others are random
NOVEL_SHARE = 0.6
MAX_SENTENCES = 7
BYSTANDER_SHARE = 0.5  # of the documents name one more concept, which has no relation


@dataclass(frozen=True, order=True, slots=True)
class Entity:
    """A made-up concept; `names` are its synonyms."""

    type: str
    identifier: str
    names: tuple[str, ...]

    @property
    def source_type(self) -> str:
        return ENTITY_TYPES[self.type].official

    @property
    def concepts(self) -> tuple[Concept, ...]:
        return normalise(self.source_type, self.identifier)[1]


@dataclass(frozen=True, slots=True)
class Claim:
    """A relation of two entities that a sentence states."""

    head: Entity
    tail: Entity
    type: str
    novel: bool

    @property
    def pair(self) -> frozenset[Entity]:
        return frozenset((self.head, self.tail))


Catalogue = dict[str, list[Entity]]
Sentence = list[str | Entity]  # words, and entities still to be named


def make_corpus(num_documents: int, seed: int) -> list[Document]:
    """Make documents with ids from 90000001 on; their content does not depend on their number."""
    catalogue = make_catalogue()
    doc_ids = [str(FIRST_DOC_ID + index) for index in range(num_documents)]
    return [
        make_document(doc_id, random.Random(f"{seed}/demo/{doc_id}"), catalogue)
        for doc_id in doc_ids
    ]


def make_catalogue() -> Catalogue:
    """All entities by type, with a full name and a symbol or short form."""
    return {
        "Gene": [
            Entity(
                "Gene",
                f"{990_000_001 + i}",
                (f"{name}-{i % 9 + 1}", f"{consonants(name)}{i % 9 + 1}"),
            )
            for i, name in enumerate(words.GENES, start=1)
        ],
        "Disease": [
            Entity("Disease", f"D99{i:04}", (name, f"{consonants(name)}D"))
            for i, name in enumerate(words.DISEASES, start=1)
        ],
        "Chemical": [
            Entity("Chemical", f"C99{i:04}", (name, f"{consonants(name)}-{i + 100}"))
            for i, name in enumerate(words.CHEMICALS, start=1)
        ],
        "Variant": [
            Entity("Variant", f"p|SUB|{v[0]}|{v[1:-1]}|{v[-1]}", (f"p.{v}", v))
            for v in words.VARIANTS
        ],
        "Species": [Entity("Species", taxon, names) for taxon, names in words.SPECIES.items()],
    }


def consonants(name: str) -> str:
    """The first three consonants of a name, as a symbol.

    >>> consonants("karvin")
    'KRV'
    """
    return re.sub("[aeiou]", "", name.lower())[:3].upper()


def make_document(doc_id: str, rng: random.Random, catalogue: Catalogue) -> Document:
    """A title with the entities of one claim, then claims and distractors in random order."""
    claims = draw_claims(rng, catalogue)
    species = rng.choice(catalogue["Species"])
    sentences = [claim_sentence(claim, rng) for claim in claims]
    for head, tail in draw_unrelated(claims, rng, catalogue):
        sentences.append(fill(rng.choice(words.DISTRACTORS), head=head, tail=tail, species=species))
    if len(sentences) < MAX_SENTENCES:
        sentences.append(fill(rng.choice(words.ASIDES), species=species))
    rng.shuffle(sentences)
    topic = rng.choice(claims)
    title = fill(rng.choice(words.TITLES), head=topic.head, tail=topic.tail, species=species)
    return assemble(doc_id, [title, *sentences], claims, rng)


def draw_claims(rng: random.Random, catalogue: Catalogue) -> list[Claim]:
    """Draw two claims about four entities, and up to two more that add one entity each."""
    claims: list[Claim] = []
    num_claims = rng.choice((2, 3, 3, 4))
    while len(claims) < num_claims:
        claim = draw_claim(rng, catalogue)
        taken = {entity for other in claims for entity in other.pair}
        if len(claim.pair & taken) == (0 if len(claims) < 2 else 1):
            claims.append(claim)
    return claims


def draw_claim(rng: random.Random, catalogue: Catalogue) -> Claim:
    """Draw a claim from the knowledge that all documents share, or a random one."""
    kinds = list(words.KINDS)
    head_type, tail_type = rng.choices(kinds, [words.KINDS[kind][0] for kind in kinds])[0]
    head = rng.choice(catalogue[head_type])
    facts = rng
    if rng.random() < KNOWLEDGE_SHARE:  # tail and label depend on head and tail type only
        facts = random.Random(f"knowledge/{head.names[0]}/{tail_type}")
    tail = facts.choice([entity for entity in catalogue[tail_type] if entity != head])
    label = facts.choice(words.KINDS[head_type, tail_type][1])
    return Claim(head, tail, label, novel=rng.random() < NOVEL_SHARE)


def draw_unrelated(
    claims: list[Claim], rng: random.Random, catalogue: Catalogue
) -> list[tuple[Entity, Entity]]:
    """Draw two or three pairs of a document's entities that no claim relates."""
    present = sorted({entity for claim in claims for entity in claim.pair})
    related = {claim.pair for claim in claims}
    pairs = [pair for pair in combinations(present, 2) if frozenset(pair) not in related]
    pairs = rng.sample(pairs, 2)
    if rng.random() < BYSTANDER_SHARE:
        bystander = rng.choice(catalogue[rng.choice(("Gene", "Chemical", "Disease"))])
        if bystander not in present:
            pairs.append((bystander, rng.choice(present)))
    return [(head, tail) if rng.random() < 0.5 else (tail, head) for head, tail in pairs]


def claim_sentence(claim: Claim, rng: random.Random) -> Sentence:
    lead = rng.choice(words.NOVEL if claim.novel else words.KNOWN)
    causes, effects = ("{head}",), ("{tail}",)
    if claim.type in (words.UP, words.DOWN):
        causes, effects = words.CAUSES[claim.head.type], words.EFFECTS[claim.tail.type]
    verb = rng.choice(words.VERBS[claim.type])
    template = f"{lead} {rng.choice(causes)} {verb} {rng.choice(effects)}."
    return fill(template, head=claim.head, tail=claim.tail)


def fill(template: str, **entities: Entity) -> Sentence:
    """Fill the gaps of a template with entities."""
    parts = re.split(r"\{(\w+)\}", template)
    return [entities[part] if i % 2 else part for i, part in enumerate(parts)]


def assemble(
    doc_id: str, sentences: list[Sentence], claims: list[Claim], rng: random.Random
) -> Document:
    """Choose a name for each mention of an entity, and join the sentences to a document."""
    text, ends, mentions = "", [], []
    for sentence in sentences:
        for part in sentence:
            if isinstance(part, Entity):
                mentions.append(mention_of(part, len(text), rng.choice(part.names)))
                text += mentions[-1].text
            else:
                text += part
        ends.append(len(text))
        text += " "
    text = text.rstrip()
    title, abstract = Passage(0, ends[0], "title"), Passage(ends[0] + 1, len(text), "abstract")
    relations = tuple(relation_of(claim) for claim in claims)
    return Document(doc_id, text, (title, abstract), tuple(mentions), relations, pmid=doc_id)


def mention_of(entity: Entity, start: int, name: str) -> Mention:
    return Mention(
        start=start,
        end=start + len(name),
        text=name,
        type=entity.type,
        concepts=entity.concepts,
        source_type=entity.source_type,
        source_identifier=entity.identifier,
    )


def relation_of(claim: Claim) -> Relation:
    return Relation(
        head=claim.head.concepts[0],
        tail=claim.tail.concepts[0],
        type=claim.type,
        novel=claim.novel,
        source_ids=(claim.head.identifier, claim.tail.identifier),
    )

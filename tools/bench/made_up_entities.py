"""The concepts of a made-up dump: 260,000 of six types, each with two names.

Types and identifiers are spelled as in PubTator 3. Names and numbers are made up.
"""

import random
from dataclasses import dataclass

import numpy as np
from common_words import ADJECTIVES, NOUNS
from made_up_words import ROOTS, rare_words

# Number of concepts, share of the mentions (as in BioRED), and the rank from which on their
# frequency falls as rank^-FALL. 500 documents of BioRED have 3,277 concepts, the dump of 42 million
# has 4.6 million: their number grows with a power of 0.64.
FALL, FROM_RANK = 1.5, 75.0
KINDS = {
    "Gene": (100_000, 0.33, FROM_RANK),
    "Disease": (30_000, 0.27, FROM_RANK),
    "Chemical": (60_000, 0.22, FROM_RANK),
    "Species": (5_000, 0.105, 1.0),
    "ProteinMutation": (60_000, 0.068, 3 * FROM_RANK),
    "CellLine": (5_000, 0.007, FROM_RANK),
}
LIVING = ["patients", "human", "mice", "women", "rats", "men", "children", "rat", "mouse"]
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Concepts of all types. Those of concept i have the names 2i and 2i + 1."""

    names: list[str]
    kinds: np.ndarray  # pairs of type and identifier, or list of identifiers
    roles: np.ndarray  # the same with the first identifier only, as in relations
    first: np.ndarray  # index of the first concept of each type
    sizes: np.ndarray
    shares: np.ndarray
    from_ranks: np.ndarray

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw indices of concepts: a type by its share, then a rank by a power law."""
        kinds = np.searchsorted(np.cumsum(self.shares)[:-1], rng.random(shape))
        sizes, begin = self.sizes[kinds], self.from_ranks[kinds]
        among = 1 - (1 + sizes / begin) ** (1 - FALL)  # share of the law up to the last rank
        ranks = begin * ((1 - rng.random(shape) * among) ** (1 / (1 - FALL)) - 1)
        return self.first[kinds] + np.minimum(ranks.astype(np.int64), sizes - 1)


def make_catalogue() -> Catalogue:
    """Make the catalogue, which is always the same."""
    rng = random.Random("made-up concepts")
    words = iter(rare_words(np.arange(400_000) * 7 + 13).tolist())
    names: list[str] = []
    found: list[tuple[str, str]] = []
    for kind, (size, *_) in KINDS.items():
        for rank in range(size):
            long, short, identifier = _concept(kind, rank, rng, next(words))
            names += long, short
            found.append((kind, identifier))
    sizes, shares, from_ranks = (np.array(column) for column in zip(*KINDS.values(), strict=True))
    kinds, roles = np.empty((2, len(found)), dtype=object)
    kinds[:] = found
    roles[:] = [
        (kind, numbers.split(";")[0] if kind == "Gene" else numbers) for kind, numbers in found
    ]
    first = np.cumsum(sizes) - sizes
    return Catalogue(names, kinds, roles, first, sizes, shares / shares.sum(), from_ranks)


def _concept(kind: str, rank: int, rng: random.Random, word: str) -> tuple[str, str, str]:
    """Two names and an identifier; numbers of different types differ."""
    if kind == "Gene":
        number = 100_000 + rank
        # 2.5 % of BioRED's mentions have several genes, which are listed.
        identifier = f"{number};{number + 1_000_000}" if rank % 40 == 7 else str(number)
        named = f"{rng.choice(NOUNS)} {rng.choice(('receptor', 'kinase', 'factor'))}"
        return word if rank % 4 == 3 else named, _symbol(rng) + _number(rng), identifier
    if kind == "Disease":
        identifier = "-" if rank % 100 == 99 else f"MESH:D{rank:06}"
        long = f"{rng.choice(ADJECTIVES)} {word if rank % 4 == 3 else rng.choice(NOUNS)}"
        short = _symbol(rng) if rank % 2 else f"{rng.choice(NOUNS)} disease"
        return long, short, identifier
    if kind == "Chemical":
        name = rng.choice(ROOTS) + rng.choice(("ine", "ol", "ide", "ate", "one"))
        short = f"{_symbol(rng)}-{rank % 90 + 1}" if rank % 3 == 0 else rng.choice(NOUNS)
        long = f"{word[:5]}{name}" if rank % 4 == 3 else f"{rng.choice(NOUNS)} {name}"
        return long, short, f"MESH:C{rank:06}"
    if kind == "Species":
        name = LIVING[rank] if rank < len(LIVING) else f"{word.capitalize()} {word[:4]}us"
        return name, name.split()[0], str(5_000_000 + rank)
    if kind == "CellLine":
        return f"{_symbol(rng)}-{rank % 97 + 1}", f"{_symbol(rng)}{rank % 89}", f"CVCL:{rank:04}"
    before, after = rng.choice(RESIDUES), rng.choice(RESIDUES)
    place = rank // 40 + 2
    identifier = (
        f"tmVar:p|SUB|{before}|{place}|{after};HGVS:p.{before}{place}{after};"
        f"VariantGroup:{rank % 7};CorrespondingGene:{100_000 + rank};RS#:{20_000_000 + rank}"
    )
    return f"p.{before}{place}{after}", f"{before}{place}{after}", identifier


def _number(rng: random.Random) -> str:
    return rng.choice(("", str(rng.randrange(1, 10)), str(rng.randrange(1, 30))))


def _symbol(rng: random.Random) -> str:
    return "".join(rng.choices("ABCDEFGHIKLMNPRSTX", k=rng.choice((2, 3, 3, 4))))

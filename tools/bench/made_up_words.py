"""Words for a made-up dump: common ones, and any number of others built from parts.

    common words ─inflect─▶ ─roots × endings, codes─▶ ranked_words    frequent words
    number ─stem, ending, stem …─▶ rare_words                         the unlimited long tail

They are ordered by frequency. As in real abstracts, common words are mostly one piece in a
biomedical vocabulary, rare ones two or three.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, product, zip_longest

import numpy as np
from common_words import ADJECTIVES, FUNCTION, NOUNS, VERBS

NUM_RANKED = 30_000
CODE_EVERY = 5  # of the built words: a fifth of the words of real abstracts have digits in them

ROOTS = """cardi neur hepat nephr gastr enter derm oste arthr my hemat angi lymph leuk thromb pneum
bronch rhin laryng encephal crani cephal cerebr myel spondyl chondr ten adip lip glyc gluc prot
pept nucle chrom cyt hist phag path tox immun ser vir bacter myc bi gen morph troph blast carcin
sarc fibr aden thyr pancreat splen ren ur orch hyster metr mamm mast ocul retin kerat ot odont
stomat gloss cholecyst cholang jejun ile col proct thorac pleur somat psych phren electr radi son
therm phot chem nutr vas ven arter phleb scler xanth melan cyan chlor brom sulf nitr oxid hydr
carb meth eth prop but pent hex benz phen amin ket""".split()
ENDINGS = """al ic in ine ate itis oma osis oid ous ol ide ase an on ite yl en ane one ium ia ism
ist ity ation ated ating ular opathy ectomy ology ogenic ocyte ogenesis otomy ometry""".split()
PREFIXES = "re un non pre anti co de in inter over sub bi di micro poly hyper trans mis".split()
ONSETS = "b br c ch cl cr d dr f fl g gl gr h j k l m n p ph pl pr r s sc st t th tr v w z".split()
VOWELS = "a e i o u a e i o ea ou".split()
CODAS = "n r l s m t x d k p rn nd st".split()


def ranked_words() -> list[str]:
    """The 30,000 distinct words that make up most of a text, most frequent first."""
    rng = random.Random("made-up words")
    written = _interleave(_shuffled(rng, NOUNS, VERBS, ADJECTIVES))
    inflected = _interleave(
        _shuffled(rng, [_plural(word) for word in NOUNS], _forms(VERBS), _adverbs(ADJECTIVES))
    )
    built = [root + ending for root, ending in product(ROOTS, ENDINGS)]
    prefixed = [prefix + word for prefix, word in product(PREFIXES, [*VERBS, *ADJECTIVES])]
    nonsense = [_nonsense(rng) for _ in range(NUM_RANKED // 2)]
    rare = _interleave(_shuffled(rng, built, prefixed, nonsense))
    words = dict.fromkeys(chain(FUNCTION, written, inflected))
    for count, word in enumerate(rare):
        words[word] = None
        if count % CODE_EVERY == 0:
            words[_code(rng)] = None
    return list(words)[:NUM_RANKED]


def rare_words(numbers: np.ndarray) -> np.ndarray:
    """A word for each number, always the same; two numbers rarely have the same word."""
    words = _STEMS[numbers % len(_STEMS)] + _TAILS[numbers // len(_STEMS) % len(_TAILS)]
    further = numbers // (len(_STEMS) * len(_TAILS))
    for index in np.flatnonzero(further):
        words[index] += _STEMS[further[index] % len(_STEMS)]
    return words


def _rare_parts() -> tuple[np.ndarray, np.ndarray]:
    rng = random.Random("rare words")
    stems = [*ROOTS, *(_syllable(rng) + _syllable(rng) for _ in range(4000))]
    stems += [_code(rng) for _ in range(1200)]
    tails = [*ENDINGS, *(_syllable(rng) + rng.choice(CODAS) for _ in range(800)), *CODAS]
    return (
        np.array(rng.sample(sorted(set(stems)), len(set(stems))), dtype=object),
        np.array(sorted(set(tails)), dtype=object),
    )


def _nonsense(rng: random.Random) -> str:
    return _syllable(rng) + (_syllable(rng) if rng.random() < 0.6 else "") + rng.choice(CODAS)


def _syllable(rng: random.Random) -> str:
    return rng.choice(ONSETS) + rng.choice(VOWELS)


def _code(rng: random.Random) -> str:
    letters = "".join(rng.choices("abcdefghiklmnprst", k=rng.choice((1, 1, 2, 2, 3, 3))))
    return f"{letters}{rng.randrange(1, rng.choice((10, 10, 100, 1000)))}"


def _plural(noun: str) -> str:
    endings = {"is": "es", "um": "a", "y": "ies", "s": "ses", "x": "xes", "h": "hes"}
    for ending, plural in endings.items():
        if noun.endswith(ending) and noun[-2:] not in ("ay", "ey", "th"):
            return noun[: -len(ending)] + plural
    return noun + "s"


def _forms(verbs: Sequence[str]) -> list[str]:
    stems = [verb.removesuffix("e") for verb in verbs]
    thirds = [_plural(verb) for verb in verbs]
    pasts = [f"{stem[:-1]}ied" if stem.endswith("fy") else f"{stem}ed" for stem in stems]
    nouns = [f"{stem}ion" for stem in stems if stem.endswith(("at", "ct", "ss", "pt"))]
    return [*pasts, *(f"{stem}ing" for stem in stems), *thirds, *nouns]


def _adverbs(adjectives: Sequence[str]) -> list[str]:
    return [f"{word}ally" if word.endswith("ic") else f"{word}ly" for word in adjectives]


def _shuffled(rng: random.Random, *lists: Iterable[str]) -> list[list[str]]:
    unique = [list(dict.fromkeys(words)) for words in lists]
    return [rng.sample(words, len(words)) for words in unique]


def _interleave(lists: list[list[str]]) -> Iterator[str]:
    return (word for row in zip_longest(*lists) for word in row if word)


_STEMS, _TAILS = _rare_parts()

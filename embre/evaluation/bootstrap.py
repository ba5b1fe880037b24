"""How sure a score is, and a difference of two: documents drawn again and again.

Shapes: N runs of one system (seeds of its training), D documents, S samples. Counts (D, 3) are the
tp, fp and fn of each document for one metric; those of several runs are (N, D, 3), and the score of
such a system is the mean of their F1, which is what tables of several seeds show.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from embre.document import Document
from embre.evaluation.scoring import score_documents
from embre.refused import Refused

SAMPLES = 1_000  # of an interval
PAIRED_SAMPLES = 10_000  # of a p-value, which is wanted to 0.001
CHUNK_DRAWS = 1 << 21  # documents of samples held at once: 16 MB each time they are kept


def document_counts(
    gold: Iterable[Document], predicted: Iterable[Document]
) -> dict[str, np.ndarray]:
    """For each metric the counts (D, 3) of the gold documents in their order; their sum is
    `scoring.score`."""
    by_document = score_documents(gold, predicted)
    return {
        metric: np.array([(s.tp, s.fp, s.fn) for s in scores], dtype=np.int64).reshape(-1, 3)
        for metric, scores in by_document.items()
    }


def f1_of(counts: np.ndarray) -> np.ndarray:
    """F1 of counts (…, 3); 0 where nothing is right, as `Score.f1`."""
    tp, fp, fn = np.moveaxis(counts, -1, 0)
    return 2 * tp / np.maximum(2 * tp + fp + fn, 1)


def interval(counts: np.ndarray, samples: int = SAMPLES, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of micro F1 over documents drawn with replacement, and over
    runs where there are several (Efron and Tibshirani 1993, chapter 13)."""
    rng = np.random.default_rng(seed)
    (f1_S,) = _resampled([_runs(counts)], samples, rng)
    low, high = np.percentile(f1_S, [2.5, 97.5])
    return float(low), float(high)


def paired_p_value(
    counts_a: np.ndarray, counts_b: np.ndarray, samples: int = PAIRED_SAMPLES, seed: int = 0
) -> float:
    """The two-sided p-value of the difference of two systems' F1 on the same documents.

    With d the difference on the documents as they are and d* on a sample of them, the same sample
    for both systems, p = (1 + number of samples with |d* - d| >= |d|) / (1 + samples): how often
    chance alone moves the difference as far as it lies from zero (Efron and Tibshirani 1993,
    chapter 16; one-sided in Berg-Kirkpatrick et al., EMNLP 2012, where it is d* > 2d). The ones
    keep p from zero (Davison and Hinkley 1997, section 4.2).

    Of several runs d is the difference of mean F1, and each system's runs are drawn as well, apart
    from each other: a difference that hangs on the luck of some seeds is not significant. (Counts
    pooled over runs would take three runs for three times the documents, or hide that spread.)
    Three runs say little of how far seeds scatter: of equal systems whose F1 scatter by 2 points
    4 % have p < .05, of those that scatter by 4 points 9 %.
    """
    runs_a, runs_b = _runs(counts_a), _runs(counts_b)
    if runs_a.shape[1] != runs_b.shape[1]:
        raise Refused(
            f"{runs_a.shape[1]} documents against {runs_b.shape[1]}: a paired test needs the same"
        )
    rng = np.random.default_rng(seed)
    f1_a_S, f1_b_S = _resampled([runs_a, runs_b], samples, rng)
    moved_S = f1_a_S - f1_b_S
    difference = f1_of(runs_a.sum(1)).mean() - f1_of(runs_b.sum(1)).mean()
    # Equal differences differ in their last bits when they are summed in another order.
    as_far = np.abs(moved_S - difference) >= abs(difference) - 1e-12
    return float(1 + as_far.sum()) / (1 + samples)


def _runs(counts: np.ndarray) -> np.ndarray:
    """(N, D, 3) of either."""
    return counts[None] if counts.ndim == 2 else counts


def _document_weights(
    num_documents: int, samples: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """(S, D) how often each document is in each sample of as many as there are, some samples at a
    time: whole it is 1.6 GB of 20,000 documents. What is drawn does not depend on the pieces."""
    if not num_documents:
        raise Refused("there are no documents to draw from")
    at_once = max(1, CHUNK_DRAWS // num_documents)
    evenly = np.full(num_documents, 1 / num_documents)
    for done in range(0, samples, at_once):
        yield rng.multinomial(num_documents, evenly, min(at_once, samples - done))


def _resampled(
    systems: Sequence[np.ndarray], samples: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """For each system's runs (N, D, 3), all on the same documents, (S,) the mean F1 of the runs
    drawn for each sample, on its documents."""
    f1_of_systems: list[list[np.ndarray]] = [[] for _ in systems]
    for weights_SD in _document_weights(systems[0].shape[1], samples, rng):
        weights_SD = weights_SD.astype(np.float64)
        for found, runs in zip(f1_of_systems, systems, strict=True):
            found.append(np.stack([f1_of(weights_SD @ run) for run in runs], axis=1))
    return [_of_drawn_runs(np.concatenate(found), rng) for found in f1_of_systems]


def _of_drawn_runs(f1_SN: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(S,) the mean F1 of runs drawn anew for each sample.

    N runs drawn with replacement show (N - 1)/N of the variance between runs, a third too little
    of three, so they are moved away from their mean by the root of N/(N - 1) (Hesterberg 2015,
    "What Teachers Should Know About the Bootstrap", on its narrowness in small samples).
    """
    samples, num_runs = f1_SN.shape
    mean_S = f1_SN.mean(1)
    if num_runs == 1:
        return mean_S
    drawn_SN = rng.multinomial(num_runs, np.full(num_runs, 1 / num_runs), samples)
    moved_S = (f1_SN * drawn_SN).sum(1) / num_runs - mean_S
    return mean_S + np.sqrt(num_runs / (num_runs - 1)) * moved_S

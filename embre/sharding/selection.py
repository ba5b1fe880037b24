"""Choose the documents of a shard set, independently of the order in which they were read."""

from collections.abc import Sequence

import numpy as np

# Versions of an article have the same PMID, PMC number or text.
IDENTITIES = (("pmid", "same_pmid"), ("name", "same_id"), ("text", "same_text"))


def choose(
    index: np.ndarray, held_prints: Sequence[set[int]]
) -> tuple[np.ndarray, dict[str, int], list[int]]:
    """Return the kept rows of INDEX by place, drops by reason, and the number held out per list.

    The longest version of an article is kept (full text before abstract, abstract before title),
    among equally long ones that with the most mentions. Documents with the text or title of a
    held-out document are removed, whatever their id.
    """
    stays = np.ones(len(index), dtype=bool)
    num_held = []
    for prints in held_prints:
        known = np.fromiter(prints, dtype=np.uint64, count=len(prints))
        found = stays & (np.isin(index["text"], known) | np.isin(index["title"], known))
        num_held.append(int(found.sum()))
        stays &= ~found
    order = np.flatnonzero(stays)
    best = np.lexsort(
        (
            *(index[name][order] for name in ("title", "text", "name", "pmid", "place", "content")),
            -index["mentions"][order].astype(np.int64),
            -index["tokens"][order].astype(np.int64),
        )
    )
    order = order[best]
    dropped = {}
    for column, reason in IDENTITIES:
        values = index[column][order]
        first = np.zeros(len(order), dtype=bool)
        first[np.unique(values, return_index=True)[1]] = True
        keep = first | (values == 0)
        dropped[f"document/{reason}"] = int(len(order) - keep.sum())
        order = order[keep]
    by_place = np.lexsort((index["content"][order], index["place"][order]))
    return order[by_place], {reason: n for reason, n in dropped.items() if n}, num_held

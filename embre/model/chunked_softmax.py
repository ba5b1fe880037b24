"""Softmax over the rows of a large table, a chunk of logits at a time: all of them never exist.

    score ─▶ what other rows and the label's row say ─▶ loss ─▶ gradients, the logits made again

A loss is log(e^label + e^others) - label, where `others` is the log-sum-exp over rows that are not
the label's. So the others may be all rows, a sample of them, or those that one rank holds.

Shapes: M vectors, C their dimension, V rows of a table, R rows that are scored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# Logits that exist at once, 32 MB of float32: large enough for the products to be fast.
CHUNK_LOGITS = 1 << 23
ALIGNED_ROWS = 256  # of which a chunk has a multiple, or the products have no fast kernel


@dataclass(frozen=True, slots=True)
class ScoringBlock:
    """Some of the vectors against some rows of a table.

    `vectors` which of the M they are; `rows` the R rows of the table, a range or their numbers;
    `names` (R,) what the labels call these rows; `labels` (m,); `label_rows` (m,) the table's row
    of each label, -1 where the table has not got it. `shifts` (R,) are added to the logits of all
    rows but the label's: how many rows each one stands for, as a logarithm, minus infinity where it
    stands for none; None: each for itself.
    """

    vectors: slice
    rows: slice | Tensor
    names: Tensor
    labels: Tensor
    label_rows: Tensor
    shifts: Tensor | None = None


def full_block(vectors: slice, first: int, size: int, labels_M: Tensor) -> ScoringBlock:
    """Vectors against the `size` rows from `first` on, which the labels count from 0."""
    names = torch.arange(size, device=labels_M.device)
    return ScoringBlock(vectors, slice(first, first + size), names, labels_M, labels_M + first)


def score(
    vectors_MC: Tensor, table_VC: Tensor, blocks: Sequence[ScoringBlock]
) -> tuple[Tensor, Tensor]:
    """(M,) the log-sum-exp over the other rows, minus infinity without any, and (M,) the logit of
    the label, 0 where the table has not got it."""
    others = vectors_MC.new_full((len(vectors_MC),), -torch.inf)
    label = vectors_MC.new_zeros(len(vectors_MC))
    for contest in blocks:
        mine = vectors_MC[contest.vectors]
        known = contest.label_rows >= 0
        if len(table_VC):  # a rank may have no row at all
            products = (mine * table_VC[contest.label_rows.clamp(min=0)]).sum(1)
            label[contest.vectors] = torch.where(known, products, 0)
        total = others[contest.vectors]
        for logits, is_label, _ in _chunks(mine, table_VC, contest):
            part = logits.masked_fill_(is_label, -torch.inf).logsumexp(1)
            total = torch.logaddexp(total, part)
        others[contest.vectors] = total
    return others, label


def gradients(
    vectors_MC: Tensor,
    table_VC: Tensor,
    blocks: Sequence[ScoringBlock],
    label_M: Tensor,
    log_sums_M: Tensor,
    weights_M: Tensor,
    table_grad_VC: Tensor,
) -> Tensor:
    """(M, C) the gradient of the weighted losses by the vectors; that by the table is added to
    `table_grad_VC`.

    `label_M` is the logit of each label and `log_sums_M` the log-sum-exp over all rows.
    """
    found = torch.zeros_like(vectors_MC)
    # Weights are for what is as large as the vectors, and spare a pass over the logits.
    weighted_MC = vectors_MC * weights_M[:, None]
    at_label_M = torch.expm1(label_M - log_sums_M)
    for contest in blocks:
        mine, weighted = vectors_MC[contest.vectors], weighted_MC[contest.vectors]
        log_sums, at_label = log_sums_M[contest.vectors], at_label_M[contest.vectors]
        gradient = found[contest.vectors]
        # In the product with the others the label's row has its turn at no cost, and in an order
        # that is always the same; a sample may not have it, or more than once.
        sampled = isinstance(contest.rows, Tensor)
        in_product = (torch.zeros_like(at_label) if sampled else at_label)[:, None]
        for logits, is_label, rows in _chunks(mine, table_VC, contest):
            share = logits.sub_(log_sums[:, None]).exp_()
            torch.where(is_label, in_product, share, out=share)
            gradient.addmm_(share, table_VC[rows])
            if isinstance(rows, Tensor):
                table_grad_VC.index_add_(0, rows, share.T @ weighted)
            else:
                table_grad_VC[rows].addmm_(share.T, weighted)
        if sampled and len(table_VC):
            rows = contest.label_rows.clamp(min=0)
            factor = at_label.masked_fill(contest.label_rows < 0, 0)[:, None]
            gradient += factor * table_VC[rows]
            table_grad_VC.index_add_(0, rows, factor * weighted)
    return found.mul_(weights_M[:, None])


def num_ranked_above(
    vectors_MC: Tensor, table_VC: Tensor, blocks: Sequence[ScoringBlock], label_M: Tensor
) -> Tensor:
    """(M,) how many other rows have no lower logit than the label: its rank less one."""
    found = torch.zeros(len(vectors_MC), dtype=torch.int64, device=vectors_MC.device)
    for contest in blocks:
        mine, label = vectors_MC[contest.vectors], label_M[contest.vectors]
        for logits, is_label, _ in _chunks(mine, table_VC, contest):
            above = ~(logits < label[:, None]) & ~is_label  # what is no number is no answer
            found[contest.vectors] += above.sum(1)
    return found


def cross_entropy_sum(
    vectors_MC: Tensor, table_VC: Tensor, blocks: Sequence[ScoringBlock]
) -> Tensor:
    """The sum of the losses of all vectors; its gradient makes the logits again, chunk by chunk."""
    loss = _SummedCrossEntropy.apply(vectors_MC, table_VC, blocks)
    assert isinstance(loss, Tensor)
    return loss


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, vectors_MC: Tensor, table_VC: Tensor, blocks: Sequence[ScoringBlock]
    ) -> Tensor:
        others, label = score(vectors_MC, table_VC, blocks)
        log_sums = torch.logaddexp(others, label)
        ctx.save_for_backward(vectors_MC, table_VC, label, log_sums)
        ctx.blocks = blocks  # type: ignore[attr-defined]
        return (log_sums - label).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        vectors_MC, table_VC, label, log_sums = ctx.saved_tensors  # type: ignore[attr-defined]
        by_table = torch.zeros_like(table_VC)
        weights = gradient.expand(len(vectors_MC))
        blocks: Sequence[ScoringBlock] = ctx.blocks  # type: ignore[attr-defined]
        by_vectors = gradients(vectors_MC, table_VC, blocks, label, log_sums, weights, by_table)
        return by_vectors, by_table, None


def _chunks(
    vectors_MC: Tensor, table_VC: Tensor, contest: ScoringBlock
) -> Iterator[tuple[Tensor, Tensor, slice | Tensor]]:
    """Shifted logits (M, r) of a few rows at a time, where they are those of the label, and the
    rows."""
    num_rows = CHUNK_LOGITS // max(len(vectors_MC), 1) // ALIGNED_ROWS * ALIGNED_ROWS
    num_rows = max(num_rows, ALIGNED_ROWS)
    for first in range(0, len(contest.names) if len(vectors_MC) else 0, num_rows):
        names = contest.names[first : first + num_rows]
        if isinstance(contest.rows, Tensor):
            rows = contest.rows[first : first + num_rows]
        else:
            start = contest.rows.start + first
            rows = slice(start, start + len(names))
        logits = vectors_MC @ table_VC[rows].T
        if contest.shifts is not None:
            logits += contest.shifts[first : first + num_rows]
        yield logits, contest.labels[:, None] == names, rows

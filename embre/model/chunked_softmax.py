"""Softmax cross-entropy over the rows of a large table, without materializing all logits.

    score ─▶ log-sum-exp of the other rows, logit of the label ─▶ loss
    gradients: the logits are recomputed, chunk by chunk

A loss is log(e^label + e^others) - label, where `others` is the log-sum-exp over all rows except
the label's. The other rows may be all rows, a sample of them, or the rows that one rank holds.

Shapes: M vectors, C their dimension, V rows of the table, R scored rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# Logits per chunk, 32 MB of float32: large enough for fast matrix products.
CHUNK_LOGITS = 1 << 23
ALIGNED_ROWS = 256  # rows of a chunk are a multiple of this, which the fast kernels need


@dataclass(frozen=True, slots=True)
class ScoringBlock:
    """A slice of m vectors and the R rows of a table to score them against.

    `vectors`: the slice of the M vectors. `rows`: the R table rows, a range or their indices.
    `columns` (m,): position of each label among the R rows, -1 if the table lacks it. `shifts`
    (R,): added to the logits of all rows except the label's: the logarithm of the number of rows
    that each one represents, minus infinity to leave a row out, as a second occurrence of a label;
    None: no shift.
    """

    vectors: slice
    rows: slice | Tensor
    columns: Tensor
    shifts: Tensor | None = None

    @property
    def num_rows(self) -> int:
        return len(self.rows) if isinstance(self.rows, Tensor) else self.rows.stop - self.rows.start

    def label_rows(self) -> Tensor:
        """(m,) table row of each label; of any row where the table lacks it. Needs a row."""
        columns = self.columns.clamp(min=0)
        return self.rows[columns] if isinstance(self.rows, Tensor) else columns + self.rows.start


def full_block(vectors: slice, first: int, size: int, labels_M: Tensor) -> ScoringBlock:
    """Score vectors against the `size` rows from `first` on; label 0 is row `first`."""
    return ScoringBlock(vectors, slice(first, first + size), labels_M)


def score(
    vectors_MC: Tensor, table_VC: Tensor, blocks: Sequence[ScoringBlock]
) -> tuple[Tensor, Tensor]:
    """(M,) log-sum-exp over the other rows, minus infinity if there is none, and (M,) logit of the
    label, 0 if it is not in the table."""
    others = vectors_MC.new_full((len(vectors_MC),), -torch.inf)
    label = vectors_MC.new_zeros(len(vectors_MC))
    for block in blocks:
        mine = vectors_MC[block.vectors]
        if block.num_rows:  # a rank may hold none
            products = (mine * table_VC[block.label_rows()]).sum(1)
            label[block.vectors] = torch.where(block.columns >= 0, products, 0)
        total = others[block.vectors]
        for logits, columns, _ in _chunks(mine, table_VC, block):
            _put(logits, columns, -torch.inf)
            total = torch.logaddexp(total, logits.logsumexp(1))
        others[block.vectors] = total
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
    """(M, C) gradient of the weighted losses with respect to the vectors; the gradient with respect
    to the table is added to `table_grad_VC` in place.

    `label_M` are the logits of the labels and `log_sums_M` the log-sum-exp over all rows.
    """
    grad_MC = torch.zeros_like(vectors_MC)
    # Weighting the vectors instead of the logits saves a pass over the logits.
    weighted_MC = vectors_MC * weights_M[:, None]
    at_label_M = torch.expm1(label_M - log_sums_M)
    for block in blocks:
        mine, weighted = vectors_MC[block.vectors], weighted_MC[block.vectors]
        log_sums, at_label = log_sums_M[block.vectors], at_label_M[block.vectors]
        gradient = grad_MC[block.vectors]
        for logits, columns, rows in _chunks(mine, table_VC, block):
            share = logits.sub_(log_sums[:, None]).exp_()
            _put(share, columns, at_label[:, None])
            gradient.addmm_(share, table_VC[rows])
            if isinstance(rows, Tensor):
                table_grad_VC.index_add_(0, rows, share.T @ weighted)
            else:
                table_grad_VC[rows].addmm_(share.T, weighted)
    return grad_MC.mul_(weights_M[:, None])


def num_ranked_above(
    vectors_MC: Tensor, table_VC: Tensor, blocks: Sequence[ScoringBlock], label_M: Tensor
) -> Tensor:
    """(M,) number of other rows whose logit is at least the label's: the 0-based rank, ties
    counting against the label."""
    numbers = torch.zeros(len(vectors_MC), dtype=torch.int64, device=vectors_MC.device)
    for block in blocks:
        mine, label = vectors_MC[block.vectors], label_M[block.vectors]
        for logits, columns, _ in _chunks(mine, table_VC, block):
            above = ~(logits < label[:, None])  # a NaN counts as above
            _put(above, columns, False)
            numbers[block.vectors] += above.sum(1)
    return numbers


def cross_entropy_sum(
    vectors_MC: Tensor, table_VC: Tensor, blocks: Sequence[ScoringBlock]
) -> Tensor:
    """The summed loss of all vectors; the backward pass recomputes the logits chunk by chunk."""
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
    vectors_MC: Tensor, table_VC: Tensor, block: ScoringBlock
) -> Iterator[tuple[Tensor, Tensor, slice | Tensor]]:
    """Yield, for r rows at a time: shifted logits (m, r), columns (m,) of the labels among them (a
    number outside 0 to r - 1 if not there), and the rows."""
    num_rows = CHUNK_LOGITS // max(len(vectors_MC), 1) // ALIGNED_ROWS * ALIGNED_ROWS
    num_rows = max(num_rows, ALIGNED_ROWS)
    for first in range(0, block.num_rows if len(vectors_MC) else 0, num_rows):
        last = min(first + num_rows, block.num_rows)
        if isinstance(block.rows, Tensor):
            rows = block.rows[first:last]
        else:
            rows = slice(block.rows.start + first, block.rows.start + last)
        logits = vectors_MC @ table_VC[rows].T
        if block.shifts is not None:
            logits += block.shifts[first:last]
        yield logits, block.columns - first, rows


def _put(values_mr: Tensor, columns_m: Tensor, value: Tensor | float) -> None:
    """Write `value`, one number or (m, 1), into one column per row, in place; rows whose column
    does not exist stay as they are. A mask (m, r) would cost two passes over all values."""
    columns = columns_m[:, None]
    there = (columns >= 0) & (columns < values_mr.shape[1])
    columns = columns.clamp(0, values_mr.shape[1] - 1)
    values_mr.scatter_(1, columns, torch.where(there, value, values_mr.gather(1, columns)))

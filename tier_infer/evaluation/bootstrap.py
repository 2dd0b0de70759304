"""Intervals by resampling patients, all labels and all models on the same draws.

A draw is how often every row counts, not a list of rows: an AUC needs its scores sorted once, then
sums of those counts. The sums are of integers, so an area equals that of the repeated rows exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK = 2**20  # counts in memory at once: a few megabytes, whatever the cohort
Floats = NDArray[np.float64]
Counts = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Resamples:
    """`draws` times, as many patients as there are, drawn with replacement."""

    member: NDArray[np.intp]  # [n], the patient of every row, 0 .. patients − 1
    patients: int
    draws: int
    seed: int

    def blocks(self) -> Iterator[tuple[slice, Counts]]:
        """Which draws, and how often each row counts in them: unsigned integers [block, n].

        The same draws on every call and at every block size.
        """
        rng = np.random.default_rng(self.seed)
        size = max(1, BLOCK // max(1, len(self.member)))
        kind = np.uint16 if self.patients < 2**16 else np.uint32  # a count is at most `patients`
        for start in range(0, self.draws, size):
            stop = min(start + size, self.draws)
            counts = np.zeros((stop - start, self.patients), kind)
            for row in counts if self.patients else ():
                chosen = rng.integers(0, self.patients, self.patients)
                row[:] = np.bincount(chosen, minlength=self.patients)
            yield slice(start, stop), np.take(counts, self.member, axis=1)


@dataclass(frozen=True)
class _Sorted:
    """One label's known rows by rising score, cut into segments that are summed as one."""

    order: NDArray[np.intp]  # [m], rows; among equal scores negatives come first
    starts: NDArray[np.intp]  # [S], first place of every segment in `order`
    positive: NDArray[np.bool_]  # [S]
    tied: NDArray[np.bool_]  # [S], negatives that score as the positives of the next segment

    def areas(self, counts: Counts) -> Floats:
        """[block, n] → AUC [block], NaN where a class is missing."""
        if not len(self.order):
            return np.full(len(counts), np.nan)
        chosen = np.take(counts, self.order, axis=1)
        sums = np.add.reduceat(chosen, self.starts, axis=1, dtype=np.int64)  # [block, S]
        negatives = np.where(self.positive, 0, sums)
        below = np.cumsum(negatives, axis=1)  # at a positive segment: lower and equal negatives
        ties = np.where(self.tied, sums, 0)
        positives = sums[:, self.positive]
        n_pos, n_neg = positives.sum(axis=1), below[:, -1]
        before = np.flatnonzero(self.positive) - 1  # −1 is masked by `tied`: the last never is
        wins_twice = (positives * (2 * below[:, self.positive] - ties[:, before])).sum(axis=1)
        areas = np.full(len(counts), np.nan)
        both = (n_pos > 0) & (n_neg > 0)
        areas[both] = wins_twice[both] / (2 * n_pos * n_neg)[both]
        return areas


def resample(patients: Sequence[str], draws: int, seed: int = 0) -> Resamples:
    """patients: [n], one name per row; a row with "" is a patient of its own. ValueError for fewer
    than no draws. Draws do not depend on the order of rows where every patient is named."""
    if draws < 0:
        raise ValueError(f"{draws} draws were asked for; 0 or more are possible")
    names = np.asarray(patients, dtype=np.str_)
    alone = names == ""
    member = np.empty(len(names), np.intp)
    member[alone] = np.arange(alone.sum())
    known, inverse = np.unique(names[~alone], return_inverse=True)
    member[~alone] = alone.sum() + inverse
    return Resamples(member, int(alone.sum()) + len(known), draws, seed)


def auc_draws(truth: ArrayLike, scores: ArrayLike, resamples: Resamples) -> Floats:
    """float64 [draws, L]: the AUC of every label in every draw; NaN where a draw has one class.

    truth: [n, L] of 1, 0 or NaN (unknown). scores: [n, L], NaN where an image was not scored; such
    rows count for no draw of that label, so two models are compared on rows that both have scored.
    ValueError for infinite scores and other truths.
    """
    y, s = np.asarray(truth, np.float64), np.asarray(scores, np.float64)
    if y.ndim != 2 or y.shape != s.shape or len(y) != len(resamples.member):
        raise ValueError(
            f"truth {y.shape} and scores {s.shape} must be tables of {len(resamples.member)} rows"
        )
    if np.isinf(s).any():
        raise ValueError("scores must be finite")
    if not (np.isin(y, (0, 1)) | np.isnan(y)).all():
        raise ValueError("truth must be 1, 0 or unknown (NaN)")
    columns = [_sorted(y[:, j], s[:, j]) for j in range(y.shape[1])]
    areas = np.full((resamples.draws, len(columns)), np.nan)
    for draws, counts in resamples.blocks():
        for j, column in enumerate(columns):
            areas[draws, j] = column.areas(counts)
    return areas


def mean_draws(areas: ArrayLike) -> Floats:
    """float64 [draws, L] → [draws], the mean over labels; NaN where any label is: a mean of fewer
    labels is another figure. Leave labels out that have one class only; ValueError without any."""
    table = np.asarray(areas, np.float64)
    if table.ndim != 2 or not table.shape[1]:
        raise ValueError(f"areas {table.shape} must be a table of draws and labels")
    return np.asarray(table.mean(axis=1))


def interval(values: ArrayLike) -> tuple[float, float] | None:
    """95 % percentile interval of [draws]. NaN draws are dropped; None where that is more than half
    of them, or where there is none."""
    drawn = np.asarray(values, np.float64)
    kept = drawn[~np.isnan(drawn)]
    if not len(kept) or 2 * len(kept) < len(drawn):
        return None
    low, high = np.percentile(kept, [2.5, 97.5])
    return float(low), float(high)


def spread(values: ArrayLike) -> tuple[float, float] | None:
    """`interval`, but None where its ends are equal: draws that are all alike (a perfect model)
    don't show that nothing else could be."""
    found = interval(values)
    return None if found is None or found[0] == found[1] else found


def _sorted(truth: Floats, scores: Floats) -> _Sorted:
    """truth, scores: [n] with NaN."""
    known = np.flatnonzero(~np.isnan(truth) & ~np.isnan(scores))
    order = known[np.lexsort((truth[known], scores[known]))]
    y, s = truth[order] == 1, scores[order]
    # A segment ends where the class changes, and before negatives that tie with a positive.
    change = np.flatnonzero(y[1:] != y[:-1]) + 1
    first_equal = np.searchsorted(s, s[y], side="left")
    starts = np.unique(np.concatenate([np.zeros(len(s[:1]), np.intp), change, first_equal]))
    positive = y[starts]
    tied = np.zeros(len(starts), bool)
    tied[:-1] = ~positive[:-1] & positive[1:] & (s[starts[:-1]] == s[starts[1:]])
    return _Sorted(order, starts, positive, tied)

"""Label → Z of one image. A dict of 10,000 labels takes longer to fill than to compute."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mean_of(images: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Label by label, in float64; `images` N ≥ 1 have the same labels in the same order."""
    first = images[0]
    rows = [row.z if isinstance(row, Scores) else list(row.values()) for row in images]
    mean = np.array(rows, np.float64).mean(axis=0)  # [L]
    if isinstance(first, Scores):
        return Scores(first.columns, mean)
    return dict(zip(first, mean.tolist(), strict=True))


class Scores(Mapping[str, float]):
    """Reads like a dict, equals one, and makes Python's floats only when asked."""

    __slots__ = ("columns", "z")

    def __init__(self, columns: Mapping[str, int], z: NDArray[np.floating[Any]]) -> None:
        """`columns`: name → its place in `z` [L], in that order; images share one."""
        self.columns, self.z = columns, z

    def __getitem__(self, name: str) -> float:
        return float(self.z[self.columns[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def items(self) -> ItemsView[str, float]:
        return _Items(self)

    def values(self) -> ValuesView[float]:
        return _Values(self)

    def __repr__(self) -> str:
        return repr(dict(self.items()))


class _Items(ItemsView[str, float]):
    _mapping: Scores

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(zip(self._mapping, self._mapping.z.tolist(), strict=True))


class _Values(ValuesView[float]):
    _mapping: Scores

    def __iter__(self) -> Iterator[float]:
        return iter(self._mapping.z.tolist())

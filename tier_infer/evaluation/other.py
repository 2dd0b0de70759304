"""Another model's scores, laid beside this evaluation's: rows by image path, columns by label."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Cohort, bare
from tier_infer.evaluation.scores import PLAN, ScoreTable, read_scores

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Other:
    file: str  # as the user named it
    table: ScoreTable  # in the order of the cohort
    pairs: tuple[tuple[int, int], ...]  # columns here and there of a label both have
    model: Any  # identity of its plan; None where no plan lies beside the file
    same: dict[str, bool | None]  # what both plans say alike; None: unknown

    @property
    def comparable(self) -> bool:
        """Whether one threshold means the same on both sides, as far as known: two networks have
        no common scale, nor have two ways of scoring."""
        return self.same["scoring"] is not False and self.same["checkpoints"] is not False


def read_other(path: Path, cohort: Cohort, labels: Sequence[str], plan: Json) -> Other:
    """`plan` is this evaluation's. UsageError for scores of other images or of no common label."""
    table = read_scores(path)
    names = [case.image_path for case in cohort.cases]
    row_of = {name: i for i, name in enumerate(table.paths)}
    missing = sum(name not in row_of for name in names)
    more = len(row_of) + missing - len(names)
    if missing or more:
        raise UsageError(
            f"{path} can't be compared: {missing} of {len(names)} images of {cohort.name} are not "
            f"in it, and it lists {more} that are not in {cohort.name}; evaluate both models on "
            "the same dataset and split"
        )
    pairs = match_labels(labels, table.labels)
    if not pairs:
        raise UsageError(
            f"{path} has scores of {', '.join(table.labels[:5])}, none of which is asked here"
        )
    order = [row_of[name] for name in names]
    table = replace(
        table,
        paths=tuple(names),
        status=tuple(table.status[i] for i in order),
        reason=tuple(table.reason[i] for i in order),
        pixels=tuple(table.pixels[i] for i in order),
        z=table.z[order],
    )
    other = _plan_beside(path)
    same = {key: _same(find(plan), find(other)) for key, find in FACTS.items()}
    return Other(str(path), table, tuple(pairs), other.get("model"), same)


def match_labels(here: Sequence[str], there: Sequence[str]) -> list[tuple[int, int]]:
    """Columns of the same full name, then of the same id behind `set:` where only one has it."""
    pairs = [(i, there.index(name)) for i, name in enumerate(here) if name in there]
    free_here = set(range(len(here))) - {i for i, _ in pairs}
    free_there = set(range(len(there))) - {k for _, k in pairs}
    bare_here = [bare(name) for name in here]
    bare_there = [bare(name) for name in there]
    for i in sorted(free_here):
        if bare_here.count(bare_here[i]) == 1 and bare_there.count(bare_here[i]) == 1:
            k = bare_there.index(bare_here[i])
            if k in free_there:
                pairs.append((i, k))
    return sorted(pairs)


def _plan_beside(path: Path) -> Json:
    folder = path if path.is_dir() else path.parent
    try:
        plan = json.loads((folder / PLAN).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return plan if isinstance(plan, dict) else {}


def _at(plan: Json, *keys: str) -> Any:
    found: Any = plan
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _prompts(plan: Json) -> Any:
    """Hashes of the sets of sentences, whatever the sets are called."""
    sets = _at(plan, "model", "label_sets")
    if not isinstance(sets, Mapping):
        return None
    return sorted(str(_at(row, "prompts_sha256")) for row in sets.values()) or None


def _scoring(plan: Json) -> Any:
    """The rule, and how the sets pool scores of patches; of the whole image nothing is pooled."""
    rule, sets = _at(plan, "model", "scoring"), _at(plan, "model", "label_sets")
    pools = [_at(row, "pool") for row in sets.values()] if isinstance(sets, Mapping) else []
    return rule and (rule, sorted({json.dumps(pool, sort_keys=True) for pool in pools or (None,)}))


def _same(here: Any, there: Any) -> bool | None:
    return None if here is None or there is None else bool(here == there)


FACTS: dict[str, Callable[[Json], Any]] = {
    "dataset": lambda plan: _at(plan, "dataset", "sha256"),
    "geometry": lambda plan: _at(plan, "geometry"),
    "intensity": lambda plan: _at(plan, "intensity"),
    "prompts": _prompts,
    "checkpoints": lambda plan: _at(plan, "model", "checkpoints"),
    "scoring": _scoring,
}

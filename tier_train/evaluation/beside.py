"""What a table says beside its figures: who won, what the penalties change, and why a measured
figure may differ from the published one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.compare import compare
from tier_infer.evaluation.measure import areas_of, resamples_of, won
from tier_infer.evaluation.other import read_other
from tier_infer.evaluation.scores import PLAN, read_scores
from tier_infer.evaluation.units import units_of
from tier_train.evaluation.kept import read_json
from tier_train.evaluation.rows import SUPERVISED

TWINS = ("regularized", "unregularized")
Report = dict[str, Any]


def difference(output: Path, cohort: Cohort, unit: str, draws: int, seed: int) -> Report:
    """Mean AUC, regularized − unregularized, of images that both scored, on the same resamples."""
    first, second = (output / name for name in TWINS)
    table = read_scores(first)
    other = read_other(second, cohort, table.labels, read_json(first / PLAN))
    units = units_of(cohort, table, unit)
    resamples = resamples_of(units, draws, seed)
    areas = areas_of(units, table.labels, resamples)
    section = compare(cohort, table, other, unit, areas, resamples, None).section
    mean = section["mean"]
    return {
        "value": mean["difference"],
        "interval": mean["interval"],
        "of": mean["of"],
        "n": section["units"],
    }


def winners(rows: Sequence[Report], labels: Sequence[str], paper: Mapping[str, Any]) -> Report:
    """Labels on which a row has the highest AUC. The published figures are counted over the rows
    that ran: against fewer others each wins more."""
    measured = {row["row"]: {k: cell["value"] for k, cell in row["auc"].items()}
                for row in rows if row["needs"] is None}  # fmt: skip
    several = len(measured) > 1
    known = several and all(name in paper for name in measured)
    shared = [label for label in labels if all(v[label] is not None for v in measured.values())]
    return {
        "measured": highest(measured, labels) if several else None,
        "of": len(shared),
        "published": highest({n: paper[n] for n in measured}, labels) if known else None,
        "published_of": len(labels),
    }


def highest(
    values: Mapping[str, Mapping[str, float | None]], labels: Sequence[str]
) -> dict[str, int]:
    """Row → labels on which it is above all others; a tie is won by nobody."""
    wins, _ = won([[mine[label] for label in labels] for mine in values.values()])
    return dict(zip(values, wins, strict=True))


def remarks(rows: Sequence[Report], labels: Sequence[str], paper: Report) -> list[str]:
    """Why a measured figure may differ from the published one beside it, or says little."""
    ran = [row for row in rows if row["needs"] is None and row["auc"] is not None]
    said: dict[str, list[str]] = {}
    for row in ran:
        for why in dict.fromkeys((*_reasons(row, labels, paper), *row["remarks"])):
            said.setdefault(why, []).append(row["title"])
    found = [
        f"{'every row' if len(whose) == len(ran) > 1 else '; '.join(whose)}: {why}"
        for why, whose in said.items()
    ]
    if len({(row["unit"], row["scored"]) for row in ran}) > len({row["unit"] for row in ran}):
        counts = ", ".join(f"{row['title']} {row['units']}" for row in ran)
        found.append(f"the rows stand on different images, some failed in one of them: {counts}")
    counts = paper.get("positives", {})
    cells = ran[0]["auc"] if ran else {}
    other = [k for k in counts if k in cells and cells[k]["positives"] != counts[k]]
    if other:
        here, there = cells[other[0]]["positives"], counts[other[0]]
        found.append(
            f"{len(other)} of {len(labels)} labels have another number of positives than in the "
            f"paper, e.g. {other[0]}: {here}, there {there}"
        )
    return found


def _reasons(row: Report, labels: Sequence[str], paper: Report) -> Iterator[str]:
    yield from row["cautions"]
    if row["mean"]["of"] != len(labels):
        yield f"the mean is over {row['mean']['of']} of {len(labels)} labels"
    left = row["images"]["failed"] + row["images"]["not_evaluated"]
    if left:
        reasons = ", ".join(f"{n} {why}" for why, n in row["images"]["reasons"].items())
        yield f"{left} images have no score ({reasons})"
    if row["row"] == SUPERVISED:
        yield "trained with labels; its head is not exported"
    if row["row"] not in paper["means"]:
        return
    if row["units"] != paper.get("units", row["units"]):
        yield f"{row['units']} units, the published figure has {paper['units']}"
    given = len(row["checkpoints"])
    asked = paper.get("members", {}).get(row["row"], given)
    if given != asked:
        theirs = f"an ensemble's of {asked}" if asked > 1 else "of one model"
        yield f"{given} checkpoint{'s' * (given > 1)}, the published figure is {theirs}"

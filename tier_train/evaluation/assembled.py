"""Reports of rows → one table: every measured figure with the published one beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tier_train.evaluation.rows import (
    OURS,
    OWN,
    RADIOLOGISTS,
    SUPERVISED,
    TITLES,
    Row,
    Table,
    published,
)

SCHEMA = "tier-reproduce/1"
FIGURES = ("mcc", "f1")
HEADINGS = {
    OURS: "our protocol",
    OWN: "each in its own protocol; rows are not comparable with each other or with ours",
}
Report = dict[str, Any]


def assembled(
    table: Table, labels: Sequence[str], reports: Mapping[str, Report], needs: Mapping[str, str]
) -> Report:
    """`reports` by the row's folder; `needs`: what did not run → the options that it needs."""
    first = next(iter(reports.values()))
    protocols = []
    for name in (OURS, OWN):
        rows = [row for row in table.rows if row.protocol == name]
        if rows:
            protocols.append(_protocol(name, table, rows, labels, reports, needs))
    return {
        "schema": SCHEMA,
        "table": table.name,
        "title": table.title,
        "notice": first["notice"],
        "dataset": first["dataset"] | {"notes": list(first["dataset"]["notes"])},
        "draws": first["auc"]["draws"],
        "seed": first["auc"]["seed"],
        "protocols": protocols,
    }


def _protocol(
    name: str,
    table: Table,
    rows: Sequence[Row],
    labels: Sequence[str],
    reports: Mapping[str, Report],
    needs: Mapping[str, str],
) -> Report:
    paper = published()[table.name][name]
    found = [_row(row, labels, reports.get(row.folder), needs, paper) for row in rows]
    decisions = table.decisions and name == OURS
    if decisions:
        found.append(_radiologists(labels, reports, needs))
    section = {
        "name": name,
        "heading": HEADINGS[name],
        "published": paper["source"],
        "labels": list(labels),
        "rows": found,
        "decisions": decisions,
        "decisions_need": needs.get("mcc") if decisions else None,
        "remarks": _remarks(found, labels, paper),
    }
    if len(labels) > 1 and name == OURS and len(paper["labels"]) > 1:
        section["won"] = _won(found, labels, paper["labels"])
    return section


def _row(
    row: Row,
    labels: Sequence[str],
    report: Report | None,
    needs: Mapping[str, str],
    paper: Report,
) -> Report:
    """One model; figures are None where it did not run or a label has none."""
    head = {"row": row.name, "title": TITLES[row.name], "unit": row.unit}
    values, known = paper["labels"].get(row.name, {}), paper["means"].get(row.name)
    if report is None:
        auc = {label: _nothing(values.get(label)) for label in labels}
        return head | {
            "needs": needs[row.name],
            "auc": auc,
            "mean": _nothing(known) | {"of": 0},
        }
    model, section = report["model"], report["auc"]
    measured = {bare(found["label"]): found for found in section["labels"]}
    auc = {
        label: {
            "value": measured[label]["auc"],
            "interval": measured[label]["interval"],
            "n": measured[label]["n"],
            "positives": measured[label]["positives"],
            "published": values.get(label),
        }
        for label in labels
    }
    mean = {"value": section["mean"], "interval": section["mean_interval"]}
    found = head | {
        "needs": None,
        "folder": row.folder,
        "scoring": model["scoring"],
        "exported": model["exported"],
        "label_set": row.queries or "its own outputs",
        "checkpoints": model["checkpoints"],
        "training": model["training"],
        "cautions": report["cautions"],
        "units": report["protocol"]["units"],
        "images": report["images"],
        "auc": auc,
        "mean": mean | {"of": section["mean_of"]} | {"published": known},
    }
    if "decisions" in report:
        found |= _decisions(labels, report["decisions"]["labels"], report["decisions"]["mean"])
    return found


def _decisions(labels: Sequence[str], rows: Sequence[Report], mean: Report) -> Report:
    by_label = {bare(row["label"]): row for row in rows}
    return {
        which: {
            "labels": {label: _spread(by_label[label][which]) for label in labels},
            "mean": _spread(mean[which]),
        }
        for which in FIGURES
    }


def _radiologists(
    labels: Sequence[str], reports: Mapping[str, Report], needs: Mapping[str, str]
) -> Report:
    """MCC and F1 only: a decision has no AUC. Of the first model's report; all have the same."""
    head: Report = {"row": RADIOLOGISTS, "title": TITLES[RADIOLOGISTS], "unit": "per_image"}
    report = next((r for r in reports.values() if "radiologists" in r), None)
    if report is None:
        return head | {"needs": needs[RADIOLOGISTS], "auc": None, "mean": None}
    section = report["radiologists"]
    average = section["mean_radiologist"]
    rows = [{"label": name} | found for name, found in average["labels"].items()]
    return head | {
        "needs": None,
        "auc": None,
        "mean": None,
        "readers": [reader["name"] for reader in section["readers"]],
        **_decisions(labels, rows, average["mean"]),
    }


def _won(rows: Sequence[Report], labels: Sequence[str], paper: Report) -> Report:
    """Labels on which a row has the highest AUC; a tie is won by all that share it."""
    measured = {row["row"]: {k: cell["value"] for k, cell in row["auc"].items()}
                for row in rows if row["needs"] is None}  # fmt: skip
    shared = [label for label in labels if all(v[label] is not None for v in measured.values())]
    return {
        "measured": highest(measured, shared) if len(measured) > 1 else None,
        "of": len(shared),
        "published": highest(paper, labels),
        "published_of": len(labels),
    }


def highest(values: Mapping[str, Mapping[str, float]], labels: Sequence[str]) -> dict[str, int]:
    """Row → labels on which no other row is above it."""
    return {
        name: sum(mine[label] == max(other[label] for other in values.values()) for label in labels)
        for name, mine in values.items()
    }


def _remarks(rows: Sequence[Report], labels: Sequence[str], paper: Report) -> list[str]:
    """Why a measured figure may differ from the published one beside it."""
    ran = [row for row in rows if row["needs"] is None and row["auc"] is not None]
    remarks = [f"{row['title']}: {why}" for row in ran for why in _reasons(row, labels, paper)]
    counts = paper.get("positives", {})
    cells = ran[0]["auc"] if ran else {}
    other = [k for k in counts if k in cells and cells[k]["positives"] != counts[k]]
    if other:
        here, there = cells[other[0]]["positives"], counts[other[0]]
        remarks.append(
            f"{len(other)} of {len(labels)} labels have another number of positives than in the "
            f"paper, e.g. {other[0]}: {here}, there {there}"
        )
    return remarks


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
    if row["row"] in paper["means"] and row["units"] != paper.get("units", row["units"]):
        yield f"{row['units']} units, the published figure has {paper['units']}"


def bare(label: str) -> str:
    return label.rpartition(":")[2]


def _nothing(value: float | None) -> Report:
    return {"value": None, "interval": None, "published": value}


def _spread(figure: Report) -> Report:
    return {"value": figure["value"], "interval": figure["interval"]}

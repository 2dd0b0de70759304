"""Reports of rows → one table: every measured figure with the published one beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tier_train.evaluation.beside import TWINS, remarks, winners
from tier_train.evaluation.rows import OURS, OWN, RADIOLOGISTS, TITLES, Row, Table, published

SCHEMA = "tier-reproduce/1"
FIGURES = ("mcc", "f1")
HEADINGS = {
    OURS: "our protocol",
    OWN: "each in its own protocol; rows are not comparable with each other or with ours",
}
Report = dict[str, Any]


def assembled(
    table: Table,
    labels: Sequence[str],
    reports: Mapping[str, Report],
    needs: Mapping[str, str],
    notes: Sequence[str],
    apart: Report | None,
) -> Report:
    """`reports` by the row's folder; `needs`: what did not run → the options that it needs;
    `notes` of the dataset; `apart`: regularized − unregularized, of our protocol."""
    first = next(iter(reports.values()))
    protocols = []
    for name in (OURS, OWN):
        rows = [row for row in table.rows if row.protocol == name]
        if rows:
            protocols.append(_protocol(name, table, rows, labels, reports, needs))
    if apart is not None:
        means = published()[table.name][OURS]["means"]
        known = [means[name] for name in TWINS if name in means]
        gap = round(known[0] - known[1], 4) if len(known) == len(TWINS) else None
        protocols[0]["difference"] = apart | {"published": gap}
    return {
        "schema": SCHEMA,
        "table": table.name,
        "title": table.title,
        "notice": first["notice"],
        "dataset": first["dataset"] | {"notes": list(notes)},
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
        "remarks": remarks(found, labels, paper),
    }
    if len(labels) > 1 and name == OURS and len(paper["labels"]) > 1:
        section["won"] = winners(found, labels, paper["labels"])
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
            "interval_of": measured[label]["interval_of"],
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
        "before": report["before"],
        "scoring": model["scoring"],
        "exported": model["exported"],
        "label_set": row.queries or "its own outputs",
        "checkpoints": model["checkpoints"],
        "training": model["training"],
        "cautions": report["cautions"],
        "units": report["protocol"]["units"],
        "images": report["images"],
        "scored": report["scored"],
        "remarks": report["remarks"],
        "auc": auc,
        "mean": mean | {"of": section["mean_of"]} | {"published": known},
    }
    if "decisions" in report:
        found |= _of_model(labels, report)
    return found


def _of_model(labels: Sequence[str], report: Report) -> Report:
    """On the units that every radiologist decided, where they are given: the table compares."""
    if "radiologists" not in report:
        section = report["decisions"]
        return {"decided": "all units"} | _decisions(labels, section["labels"], section["mean"])
    found = _of_reader(labels, report["radiologists"], "model")
    return {"decided": "units that every radiologist decided"} | found


def _of_reader(labels: Sequence[str], section: Report, who: str) -> Report:
    rows = [counts | section[who]["labels"][counts["label"]] for counts in section["labels"]]
    return _decisions(labels, rows, section[who]["mean"])


def _decisions(labels: Sequence[str], rows: Sequence[Report], mean: Report) -> Report:
    by_label = {bare(row["label"]): row for row in rows}
    return {
        which: {
            "labels": {label: _cell(by_label[label], which) for label in labels},
            "mean": _spread(mean[which]),
        }
        for which in FIGURES
    }


def _radiologists(
    labels: Sequence[str], reports: Mapping[str, Report], needs: Mapping[str, str]
) -> Report:
    """MCC and F1 only: a decision has no AUC. From a report of the units that most rows have: an
    image that failed in one model is missing in its report alone."""
    head: Report = {"row": RADIOLOGISTS, "title": TITLES[RADIOLOGISTS], "unit": "per_image"}
    read = [report for report in reports.values() if "radiologists" in report]
    if not read:
        return head | {"needs": needs[RADIOLOGISTS], "auc": None, "mean": None}
    usual = Counter(report["scored"] for report in read).most_common(1)[0][0]
    report = next(report for report in read if report["scored"] == usual)
    section = report["radiologists"]
    return head | {
        "needs": None,
        "auc": None,
        "mean": None,
        "readers": [reader["name"] for reader in section["readers"]],
        "units": report["protocol"]["units"],
        **_of_reader(labels, section, "mean_radiologist"),
    }


def bare(label: str) -> str:
    return label.rpartition(":")[2]


def _nothing(value: float | None) -> Report:
    return {"value": None, "interval": None, "published": value}


def _cell(row: Report, which: str) -> Report:
    return _spread(row[which]) | {"n": row["n"], "positives": row["positives"]}


def _spread(figure: Report) -> Report:
    return {"value": figure["value"], "interval": figure["interval"]}

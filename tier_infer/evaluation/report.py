"""The report of an evaluation as files: JSON with all of it, CSV for a spreadsheet, Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tier_infer.evaluation.markdown import markdown
from tier_infer.files import write_atomic
from tier_infer.tables import csv_text

COLUMNS = ("label", "figure", "value", "low", "high", "n", "positives")
OURS = re.compile(r"report\.(json|csv|md)|(roc|reliability|decisions)(-[1-9][0-9]*)?\.png")
MEAN = "(mean)"
Report = dict[str, Any]
Row = tuple[object, ...]


def write_report(report: Report, folder: Path) -> None:
    """report.json, report.csv and report.md; equal reports give equal bytes. What an evaluation
    before this one drew goes first: pictures of another protocol would stand beside its figures."""
    for path in folder.iterdir():
        if OURS.fullmatch(path.name):
            path.unlink()
    files = {
        "report.json": json_text(report),
        "report.csv": csv_text([COLUMNS, *csv_rows(report)]),
        "report.md": markdown(report),
    }
    for name, text in files.items():
        write_atomic(folder / name, text.encode("utf-8", "surrogateescape"))


def json_text(report: Report) -> str:
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


def csv_rows(report: Report) -> Iterator[Row]:
    """One row per label and figure, in COLUMNS; an empty value could not be computed."""
    yield from _areas("auc", report["auc"])
    if "decisions" in report:
        yield from _decisions(report["decisions"])
        yield from _calibration(report["calibration"])
    if "radiologists" in report:
        yield from _radiologists(report["radiologists"])
    if "comparison" in report:
        yield from _comparison(report["comparison"])
    if "groups" in report:
        groups = report["groups"]
        for found in groups["values"]:
            yield from _areas(f"auc {groups['column']}={found['value']}", found)


def _areas(figure: str, section: Report) -> Iterator[Row]:
    for row in section["labels"]:
        yield _row(row, figure, row["auc"], row["interval"])
    yield _row({"label": MEAN}, figure, section["mean"], section["mean_interval"])


def _decisions(section: Report) -> Iterator[Row]:
    for which in ("mcc", "f1"):
        for row in section["labels"]:
            yield _row(row, which, **_spread(row[which]))
        yield _row({"label": MEAN}, which, **_spread(section["mean"][which]))
        for row in section["labels"]:
            chosen = {"label": row["label"]} | row["chosen_on"]
            yield _row(chosen, f"{which}_threshold", row[which]["threshold"])


def _radiologists(section: Report) -> Iterator[Row]:
    each = {f"reader {found['name']}": found for found in section["readers"]}
    for name in ("model", "mean_radiologist", "difference"):
        each[f"{name} on read units" if name == "model" else name] = section[name]
    for name, found in each.items():
        for which in ("mcc", "f1"):
            for row in section["labels"]:
                figure = found["labels"][row["label"]][which]
                yield _row(row, f"{which} {name}", **_spread(figure))
            yield _row({"label": MEAN}, f"{which} {name}", **_spread(found["mean"][which]))


def _calibration(section: Report) -> Iterator[Row]:
    for row in section["labels"]:
        for figure in ("scale", "bias"):
            yield _row(row, f"platt_{figure}", (row["platt"] or {}).get(figure))
        for kind, prefix in (("fitted", ""), ("own", "own_")):
            for figure in ("brier", "ece") if kind in row else ():
                yield _row(row, prefix + figure, (row[kind] or {}).get(figure))


def _comparison(section: Report) -> Iterator[Row]:
    for row in section["labels"]:
        yield _row(row, "auc compared", row["auc"])
        yield _row(row, "auc there", row["auc_there"])
        yield _row(row, "auc difference", row["difference"], row["interval"])
        for figure in ("z", "p", "p_holm"):
            yield _row(row, f"delong_{figure}", row[figure])
        for figure in ("max_dz", "rank_correlation"):
            yield _row(row, figure, row[figure])
        yield _row(row, "flips", (row["decisions"] or {}).get("flips"))
    mean = section["mean"]
    yield _row({"label": MEAN}, "auc compared", mean["auc"])
    yield _row({"label": MEAN}, "auc there", mean["auc_there"])
    yield _row({"label": MEAN}, "auc difference", mean["difference"], mean["interval"])


def _spread(figure: Report) -> Report:
    return {"value": figure["value"], "interval": figure["interval"]}


def _row(row: Report, figure: str, value: Any, interval: Any = None) -> Row:
    low, high = interval or ("", "")
    value = "" if value is None else value
    return (row["label"], figure, value, low, high, row.get("n", ""), row.get("positives", ""))

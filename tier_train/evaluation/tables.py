"""A reproduced table as Markdown for people and as CSV, one figure a line; JSON has all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tier_infer.evaluation.measure import BOUND
from tier_infer.evaluation.report import json_text
from tier_infer.files import write_atomic
from tier_infer.guard import printable
from tier_infer.tables import csv_text
from tier_train.evaluation.rows import OURS, TITLES

NONE = "–"
WIDE = 8  # labels that still fit beside each other
DIGEST = 12  # digits of a hash that are shown
COLUMNS = (
    "protocol", "row", "unit", "label", "figure", "value", "low", "high", "published", "n",
    "positives", "interval_of", "needs",
)  # fmt: skip
MEAN = "(mean)"
APART = "regularized-unregularized"
NAMES = {"auc": "AUC", "mcc": "MCC", "f1": "F1"}
Report = dict[str, Any]


def write_tables(found: Report, output: Path) -> None:
    """OUT/table1.json, .md and .csv; equal tables give equal bytes. JSON first: it tells a later
    run that the others are ours."""
    for end, text in (("json", json_text(found)), ("md", markdown(found)), ("csv", csv_of(found))):
        write_atomic(output / f"{found['table']}.{end}", text.encode("utf-8", "surrogateescape"))


def csv_of(found: Report) -> str:
    return csv_text([COLUMNS, *_csv_rows(found)])


def _csv_rows(found: Report) -> Iterator[tuple[object, ...]]:
    for protocol in found["protocols"]:
        if "difference" in protocol:
            cells = _cells(protocol["difference"])
            yield (protocol["name"], APART, "per_image", MEAN, "auc difference", *cells, "")
        for row in protocol["rows"]:
            head = (protocol["name"], row["row"], row["unit"])
            if row["auc"] is not None:
                for label, cell in (*row["auc"].items(), (MEAN, row["mean"])):
                    yield (*head, label, "auc", *_cells(cell), row["needs"] or "")
            for which in ("mcc", "f1"):
                if which in row:
                    for label, cell in (*row[which]["labels"].items(), (MEAN, row[which]["mean"])):
                        yield (*head, label, which, *_cells(cell), "")
                elif row["auc"] is None:
                    yield (*head, MEAN, which, *_cells({}), row["needs"])


def _cells(cell: Report) -> tuple[object, ...]:
    low, high = cell.get("interval") or ("", "")
    plain = [cell.get(key) for key in ("value", "published", "n", "positives", "interval_of")]
    value, known, *counts = ("" if v is None else v for v in plain)
    return value, low, high, known, *counts


def markdown(found: Report) -> str:
    data = found["dataset"]
    facts = (
        f"{printable(data['name'])}, split {data['split'] or 'all'}: {data['images']} images, "
        f"{str(data['sha256'])[:DIGEST]}. Cells: measured (95 % over {found['draws']} resamples of "
        f"patients) / published; {NONE} where there is none, or none is held here."
    )
    lines = [f"# {found['title']}", "", f"{found['notice'].rstrip('.')}.", "", facts, ""]
    for protocol in found["protocols"]:
        lines += [f"## {protocol['name'].capitalize()}: {protocol['heading']}", ""]
        rows = [row for row in protocol["rows"] if row["auc"] is not None]
        table = _models if len(protocol["labels"]) <= WIDE else _findings
        for title, together in _tables(protocol["name"], rows):
            lines += [f"### AUC{title}", "", *table(protocol, together), ""]
        if "difference" in protocol:
            lines += [_difference(protocol["difference"]), ""]
        if protocol["decisions"]:
            for which in ("mcc", "f1"):
                units = next((f", {r['decided']}" for r in rows if "decided" in r), "")
                lines += [f"### {NAMES[which]}, thresholds frozen from the validation split{units}"]
                lines += [""]
                lines += _decisions(protocol, which)
        remarks = [f"Published: {protocol['published']}", *protocol["remarks"]]
        lines += [*_rows(rows), *(f"- {printable(remark)}" for remark in remarks), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _tables(protocol: str, rows: Sequence[Report]) -> list[tuple[str, Sequence[Report]]]:
    """Figures of unlike protocols never stand in one table."""
    if protocol == OURS:
        return [("", rows)]
    return [(f", {row['title']}: {row['unit']}", [row]) for row in rows]


def _models(protocol: Report, rows: Sequence[Report]) -> list[str]:
    """A line per model, a column per finding."""
    body = []
    for row in rows:
        cells = [_cell(cell) for cell in (*row["auc"].values(), row["mean"])]
        body.append((_title(row), *cells))
    return _table(("", *protocol["labels"], "mean"), body)


def _findings(protocol: Report, rows: Sequence[Report]) -> list[str]:
    """A line per finding, a column per model; evaluations won come first, as in the paper."""
    ran = [row for row in rows if row["needs"] is None]
    body = [_won_row(protocol, rows)] if "won" in protocol else []
    body.append(("mean", "", *(_cell(row["mean"]) for row in rows)))
    for label in protocol["labels"]:
        positives = str(ran[0]["auc"][label]["positives"]) if ran else ""
        body.append((label, positives, *(_cell(row["auc"][label]) for row in rows)))
    lines = _table(("", "positives", *(row["title"] for row in rows)), body)
    missing = [f"- {r['title']}: not run: needs {r['needs']}" for r in rows if r["needs"]]
    return [*lines, "", *missing] if missing else lines


def _title(row: Report) -> str:
    """With what a row that did not run needs; its published figures stand in its cells."""
    return f"{row['title']} (not run: needs {row['needs']})" if row["needs"] else str(row["title"])


def _difference(cell: Report) -> str:
    known = "" if cell["published"] is None else f"; published {cell['published']:+.4f}"
    if cell["value"] is None:
        return f"Mean AUC, regularized − unregularized: {NONE}{known}."
    spread = cell["interval"]
    ends = f"95 % {spread[0]:+.4f} to {spread[1]:+.4f}" if spread else "no interval"
    return (
        f"Mean AUC, regularized − unregularized: {cell['value']:+.4f} ({ends}, paired, "
        f"{cell['n']} units){known}."
    )


def _won_row(protocol: Report, rows: Sequence[Report]) -> tuple[str, ...]:
    won = protocol["won"]
    cells = []
    for row in rows:
        mine = (won["measured"] or {}).get(row["row"])
        known = (won["published"] or {}).get(row["row"])
        cells.append(f"{NONE if mine is None else mine} / {NONE if known is None else known}")
    return (f"evaluations won, of {won['of']} / {won['published_of']}", "", *cells)


def _decisions(protocol: Report, which: str) -> list[str]:
    need = protocol["decisions_need"]
    if need:
        return [f"not run: needs {need}", ""]
    body = []
    for row in protocol["rows"]:
        if which in row:
            cells = [*row[which]["labels"].values(), row[which]["mean"]]
            body.append((row["title"], *(_measured(cell) for cell in cells)))
        else:
            body.append((_title(row),))
    return [*_table(("", *protocol["labels"], "mean"), body), ""]


def _rows(rows: Sequence[Report]) -> list[str]:
    """What each row is, so that a figure can be traced to its files."""
    lines = []
    for row in rows:
        if row["needs"] is None and row["auc"] is not None:
            files = ", ".join(str(digest)[:DIGEST] for digest in row["checkpoints"])
            data = ", ".join(dict.fromkeys(printable(t["data"]) for t in row["training"]))
            kept = "" if row["exported"] else ", not exported"
            kept += ", evaluated before" if row["before"] else ""
            lines.append(
                f"- {TITLES[row['row']]}: {row['scoring']}{kept}, label set {row['label_set']}, "
                f"{row['unit']} ({row['units']} units), checkpoints {files}, trained on {data}; "
                f"{row['folder']}/report.md"
            )
    return lines


def _cell(cell: Report) -> str:
    known = cell["published"]
    return f"{_measured(cell)} / {NONE if known is None else f'{known:.4f}'}"


def _measured(cell: Report) -> str:
    if cell["value"] is None:
        return NONE
    spread, star = cell["interval"], "*" if cell.get("interval_of") == BOUND else ""
    return f"{cell['value']:.4f}" + (
        f" ({spread[0]:.3f} to {spread[1]:.3f}){star}" if spread else ""
    )


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Rows that are too short end in empty cells."""
    rows = [head, ["---"] * len(head), *([*row, *[""] * (len(head) - len(row))] for row in body)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]

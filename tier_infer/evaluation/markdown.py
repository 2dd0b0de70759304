"""The report of an evaluation for people: Markdown whose tables are aligned for a terminal too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tier_infer.evaluation.measure import BOUND
from tier_infer.evaluation.model_facts import DIGEST, model_facts
from tier_infer.guard import printable

NONE = "–"
NEVER = "never"  # a threshold above every score
BOUNDED = " *"  # an interval that is no bootstrap's; a remark says so
Report = dict[str, Any]


def markdown(report: Report) -> str:
    dataset = report["dataset"]
    lines = [f"# {_cell(dataset['name'])}", "", f"{report['notice']}.".replace("..", "."), ""]
    lines += _table(("", ""), _facts(report), left=2)
    left = list(_left_out(report))
    if left:
        lines += ["## Left out", "", *_table(("", "number"), left)]
    lines += _list(dataset["notes"])
    auc = report["auc"]
    lines += ["## AUC", "", *_areas(auc)]
    if "decisions" in report:
        lines += _decisions(report["decisions"], report["validation"]["split"])
    if "radiologists" in report:
        lines += _radiologists(report["radiologists"])
    if "comparison" in report:
        lines += _comparison(report["comparison"])
    if "calibration" in report:
        lines += _calibration(report["calibration"])
    if "groups" in report:
        column = _cell(report["groups"]["column"])
        for found in report["groups"]["values"]:
            value = _cell(found["value"]) or "(empty)"
            lines += [f"## AUC, {column} = {value}: {found['units']} units", "", *_areas(found)]
    if report["remarks"]:
        lines += ["## Remarks", "", *_list(report["remarks"])]
    return "\n".join(lines)


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    model, dataset, auc = report["model"], report["dataset"], report["auc"]
    yield from model_facts(model)
    yield "geometry, intensity", f"{report['geometry']}, {report['intensity']}"
    split = dataset["split"] or "all"
    yield "dataset", f"{dataset['name']}, split {split}, {str(dataset['sha256'])[:DIGEST]}"
    counts = f"{dataset['images']} images, {dataset['studies']} studies"
    yield "", f"{counts}, {dataset['patients']} patients"
    yield "images scored", str(report["images"]["scored"])
    protocol = report["protocol"]
    yield "protocol", f"{protocol['name']}: {protocol['units']} units"
    draws = f"{auc['draws']} resamples of patients, seed {auc['seed']}"
    yield "95 % intervals", draws if auc["draws"] else "none"
    if "validation" in report:
        chosen = report["validation"]
        yield "thresholds from", f"split {chosen['split']}, {chosen['units']} units; frozen"


def _left_out(report: Report) -> Iterator[tuple[str, str]]:
    for rule, n in report["dataset"]["left_out"].items():
        yield f"rows: {rule}", str(n)
    for reason, n in report["images"]["reasons"].items():
        yield f"images: {reason}", str(n)
    for rule, n in report["protocol"]["left_out"].items():
        yield rule, str(n)
    for reason, n in report.get("validation", {}).get("images", {}).get("reasons", {}).items():
        yield f"images of the validation split: {reason}", str(n)


def _areas(section: Report) -> list[str]:
    rows = [
        (row["label"], row["n"], row["positives"], _number(row["auc"]),
         _spread(row["interval"]) + BOUNDED * (row["interval_of"] == BOUND))
        for row in section["labels"]
    ]  # fmt: skip
    mean = f"mean of {section['mean_of']}"
    rows.append((mean, "", "", _number(section["mean"]), _spread(section["mean_interval"])))
    return _table(("label", "n", "positive", "AUC", "95 % interval"), rows)


def _decisions(section: Report, split: str) -> list[str]:
    rows: list[tuple[object, ...]] = []
    for row in section["labels"]:
        cells: list[object] = [row["label"], row["n"], row["positives"]]
        for which in ("mcc", "f1"):
            threshold = row[which]["threshold"]
            never = NEVER if row["excluded"] is None else NONE
            cells += [never if threshold is None else f"{threshold:.4f}", _both(row[which])]
        rows.append(tuple(cells))
    mean = section["mean"]
    rows.append((f"mean of {mean['of']}", "", "", "", _both(mean["mcc"]), "", _both(mean["f1"])))
    head = ("label", "n", "positive", "threshold", "MCC", "threshold", "F1")
    lines = [f"## MCC and F1, thresholds of split {split or 'all'}", "", *_table(head, rows)]
    excluded = [r for r in section["labels"] if r["excluded"]]
    return lines + _list([f"no figure of {r['label']}: {r['excluded']}" for r in excluded])


def _radiologists(section: Report) -> list[str]:
    names = [found["name"] for found in section["readers"]]
    lines = []
    for which, title in (("mcc", "MCC"), ("f1", "F1")):
        sides = [section[k] for k in ("model", "mean_radiologist", "difference")]
        sides += section["readers"]
        rows: list[tuple[object, ...]] = [
            (row["label"], row["n"], row["positives"],
             *(_both(side["labels"][row["label"]][which]) for side in sides))
            for row in section["labels"]
        ]  # fmt: skip
        rows.append((f"mean of {section['of']}", "", "", *(_both(s["mean"][which]) for s in sides)))
        head = ("label", "n", "positive", "model", "mean radiologist", "difference", *names)
        lines += [f"## {title} beside radiologists", "", *_table(head, rows)]
    return lines + _list(section["notes"])


def _comparison(section: Report) -> list[str]:
    rows: list[tuple[object, ...]] = [
        (row["label"], row["n"], row["positives"], _number(row["auc"]), _number(row["auc_there"]),
         _number(row["difference"], "+.4f"), _spread(row["interval"], "+.4f"),
         _number(row["z"], ".2f"), _number(row["p"], ".3g"), _number(row["p_holm"], ".3g"),
         _number(row["max_dz"], ".1e"), _number((row["decisions"] or {}).get("flips"), "d"))
        for row in section["labels"]
    ]  # fmt: skip
    mean, won, images = section["mean"], section["won"], section["images"]
    difference = (_number(mean["difference"], "+.4f"), _spread(mean["interval"], "+.4f"))
    rows.append((f"mean of {mean['of']}", "", "", _number(mean["auc"]), _number(mean["auc_there"]),
                 *difference, "", "", "", "", ""))  # fmt: skip
    head = ("label", "n", "positive", "AUC", "other", "difference", "95 % interval", "z", "p",
            "p (Holm)", "max dZ", "flips")  # fmt: skip
    said = {True: "same", False: "different", None: "unknown"}
    facts = [
        (f"the other: {key}" if key else "", text) for key, text in model_facts(section["model"])
    ]
    facts += [(key, said[same]) for key, same in section["same"].items()]
    facts.append(("images scored by both", str(images["scored_by_both"])))
    facts.append(("of these the same pixels", str(images["of_same_pixels"])))
    facts.append(("labels won", f"{won['here']}, the other {won['there']}, ties {won['ties']}"))
    title = f"## Against {_cell(section['file'])}"
    return [title, "", *_table(("", ""), facts, left=2), *_table(head, rows)]


def _calibration(section: Report) -> list[str]:
    rows: list[tuple[object, ...]] = []
    own = any("own" in row for row in section["labels"])
    for row in section["labels"]:
        platt, judged = row["platt"] or {}, row["fitted"] or {}
        cells = [_number(platt.get("scale"), ".2f"), _number(platt.get("bias"), ".2f")]
        cells += [_number(judged.get(key)) for key in ("brier", "ece")]
        cells += [_number((row["own"] or {}).get(key)) for key in ("brier", "ece") if own]
        rows.append((row["label"], row["n"], row["positives"], *cells))
    head = ["label", "n", "positive", "scale", "bias", "Brier", "ECE"]
    head += ["Brier unfitted", "ECE unfitted"] * own
    return [f"## Calibration, {_cell(section['method'])}", "", *_table(head, rows)]


def _both(figure: Report) -> str:
    spread = _spread(figure["interval"])
    return _number(figure["value"]) + (f" ({spread})" if figure["interval"] else "")


def _number(value: Any, form: str = ".3f") -> str:
    return NONE if value is None else format(value, form)


def _spread(interval: Any, form: str = ".3f") -> str:
    return NONE if interval is None else " to ".join(format(x, form) for x in interval)


def _cell(text: object) -> str:
    """Names from files: no control character, and no end of a table's cell."""
    return printable(str(text)).replace("|", r"\|")


def _list(sentences: Sequence[str]) -> list[str]:
    """Ended by an empty line where there is one."""
    return [f"- {_cell(sentence)}" for sentence in sentences] + [""] * bool(sentences)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> list[str]:
    """The first `left` columns to the left, numbers to the right; an empty line ends it."""
    cells = [[_cell(cell) for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(head))]
    lines = [
        " | ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    rule = " | ".join("-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths))
    return [f"| {line} |" for line in (lines[0], rule, *lines[1:])] + [""]

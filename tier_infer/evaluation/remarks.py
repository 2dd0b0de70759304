"""Sentences that keep a reader of an evaluation from concluding too much."""

from __future__ import annotations

from typing import Any

from tier_infer.evaluation.measure import MIN_CASES

FEW = 10  # positives or negatives below which a label's figures say little
Report = dict[str, Any]


def remarks_of(report: Report) -> list[str]:
    found = []
    rows = report["auc"]["labels"]
    few = [
        f"{row['label']} ({row['positives']} of {row['n']} positive)"
        for row in rows
        if not row["excluded"] and min(row["positives"], row["n"] - row["positives"]) < FEW
    ]
    if few:
        found.append(
            f"Fewer than {FEW} positives or negatives, so these figures say little: "
            + ", ".join(few)
        )
    found += [f"No AUC of {row['label']}: {row['excluded']}" for row in rows if row["excluded"]]
    fewer = [row["label"] for row in rows if not row["excluded"] and row["interval"] is None]
    if len({row["label"].rpartition(":")[0] for row in rows}) > 1:
        found.append(
            "No mean over labels of several sets, which are several protocols: evaluate one set "
            "with --queries, and compare with --against"
        )
    if not report["auc"]["draws"]:
        found.append("No intervals were computed (--draws 0), so no difference can be told")
    elif report["auc"]["mean"] is not None and report["auc"]["mean_interval"] is None:
        found.append(
            "No interval of the mean, because of rare labels: leave them out with --labels"
        )
    if report["auc"]["draws"] and fewer:
        found.append(
            f"No interval of {', '.join(fewer)}: resampling fewer than {MIN_CASES} positives or "
            "negatives would show too little of what others could be"
        )
    if "comparison" in report:
        found += _of_comparison(report["comparison"], report["dataset"]["patients"])
    return found


def _of_comparison(compared: Report, patients: int) -> list[str]:
    found = []
    mean, images = compared["mean"], compared["images"]
    if mean["interval"] is not None:
        low, high = mean["interval"]
        change = (
            f"the mean AUC differs by {mean['difference']:+.4f}, 95 % {low:+.4f} to {high:+.4f}"
        )
        found.append(
            f"No difference shown: {change}, which includes 0"
            if low <= 0 <= high
            else f"A difference is shown: {change}"
        )
    elif mean["difference"] is not None:
        found.append("The comparison has no interval, so it shows no difference")
    errors = [row["max_dz"] for row in compared["labels"] if row["max_dz"] is not None]
    if errors:
        flips = sum((row["decisions"] or {}).get("flips") or 0 for row in compared["labels"])
        found.append(
            f"Scores of the two differ by at most {max(errors):.1e}; {flips} decisions flip"
        )
    elif images["scored_by_both"]:
        found.append("The two models' scores are of different kinds: only their order is compared")
    untested = [row["label"] for row in compared["labels"] if row["untested"]]
    if untested:
        found.append(f"DeLong's test is not possible for {', '.join(untested)}")
    if compared["units"] > patients:
        found.append(
            "DeLong's p takes units as independent, but patients have several: "
            "believe the bootstrap interval where they disagree"
        )
    other = images["scored_by_both"] - images["of_same_pixels"]
    if other:
        found.append(f"The two models saw different pixels in {other} of the images")
    left = images["only_here"] + images["only_there"]
    if left:
        found.append(f"{left} images that one side alone scored are left out of the comparison")
    differing = [name for name, same in compared["same"].items() if same is False]
    if differing:
        found.append(f"The two models differ in {', '.join(differing)}")
    return found

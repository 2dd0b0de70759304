"""Sentences that keep a reader of an evaluation from concluding too much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tier_infer.evaluation.measure import BOUND, FEW, several_sets

ALPHA = 0.05
SEEDS = "a claim about a method needs several seeds"
Report = dict[str, Any]


def remarks_of(report: Report) -> list[str]:
    found = [*_of_areas(report["auc"])]
    if "decisions" in report:
        found += _of_decisions(report["decisions"])
        copies = report["validation"]["same_pixels"]
        if copies:
            found.append(
                f"{copies} images of the validation split have the pixels of evaluated ones, under "
                "another patient: are they copies?"
            )
    if "comparison" in report:
        found += _of_comparison(report["comparison"], report["model"])
    return found


def _of_areas(auc: Report) -> Iterator[str]:
    rows = auc["labels"]
    few = [
        f"{row['label']} ({row['positives']} of {row['n']} positive)"
        for row in rows
        if row["too_few"]
    ]
    if few:
        yield (
            f"Positives or negatives of fewer than {FEW} patients, so these figures say little: "
            + ", ".join(few)
        )
    for row in rows:
        if row["excluded"]:
            yield f"No AUC of {row['label']}: {row['excluded']}"
    bounded = [row["label"] for row in rows if row["interval_of"] == BOUND]
    if bounded:
        yield (
            f"Intervals marked * ({', '.join(bounded)}) are not resampled but of the largest "
            "variance that such an AUC can have among so few patients: wide on purpose"
        )
    if several_sets([row["label"] for row in rows]):
        yield (
            "No mean over labels of several sets, which are several protocols: evaluate one set "
            "with --queries, and compare with --against"
        )
    if not auc["draws"]:
        yield "No intervals were computed (--draws 0), so no difference can be told"
    elif few and auc["mean"] is not None:
        yield "No interval of the mean, because of rare labels: leave them out with --labels"


def _of_decisions(section: Report) -> Iterator[str]:
    if any(row[which]["interval"] for row in section["labels"] for which in ("mcc", "f1")):
        yield (
            "Intervals of MCC and F1 take the thresholds as given: another validation split would "
            "choose others, which they don't show"
        )
    few = [
        f"{row['label']} ({chosen['positives']} of {chosen['n']})"
        for row in section["labels"]
        if not row["excluded"]
        for chosen in (row["chosen_on"],)
        if min(chosen["positives"], chosen["n"] - chosen["positives"]) < FEW
    ]
    if few:
        yield (
            f"Thresholds chosen on fewer than {FEW} positives or negatives of the validation split "
            "are uncertain: " + ", ".join(few)
        )


def _of_comparison(compared: Report, model: Any) -> Iterator[str]:
    yield from _of_means(compared, model)
    images, same = compared["images"], compared["same"]
    differ = [row["label"] for row in compared["labels"]
              if row["p_holm"] is not None and row["p_holm"] < ALPHA]  # fmt: skip
    if differ:
        yield f"Labels whose AUCs differ (DeLong, Holm's p below {ALPHA}): {', '.join(differ)}"
    errors = [row["max_dz"] for row in compared["labels"] if row["max_dz"] is not None]
    if errors:
        flips = sum((row["decisions"] or {}).get("flips") or 0 for row in compared["labels"])
        yield f"Scores of the two differ by at most {max(errors):.1e}; {flips} decisions flip"
    elif images["scored_by_both"]:
        yield "The two models' scores have no common scale: only their order is compared"
    untested: dict[str, list[str]] = {}
    for row in compared["labels"]:
        if row["untested"]:
            untested.setdefault(row["untested"], []).append(row["label"])
    for why, labels in untested.items():
        yield f"Not tested: {', '.join(labels)} ({why})"
    if compared["units"] > compared["patients"]:
        yield (
            "DeLong's p takes units as independent, but patients have several: "
            "believe the bootstrap interval where they disagree"
        )
    other = images["scored_by_both"] - images["of_same_pixels"]
    if other:
        yield f"The two models saw different pixels in {other} of the images"
    left = images["only_here"] + images["only_there"]
    if left:
        yield f"{left} images that one side alone scored are left out of the comparison"
    if same["dataset"] is False:
        yield (
            "The dataset has changed since the other's scores were computed (its labels, patients, "
            "studies or views); both are measured on what it says now"
        )
    differing = [name for name, alike in same.items() if alike is False and name != "dataset"]
    if differing:
        yield f"The two models differ in {', '.join(differing)}"


def _of_means(compared: Report, model: Any) -> Iterator[str]:
    """What the difference of the means shows, and what it does not."""
    mean = compared["mean"]
    if mean["interval"] is not None:
        low, high = mean["interval"]
        change = (
            f"the mean AUC differs by {mean['difference']:+.4f}, 95 % {low:+.4f} to {high:+.4f}"
        )
        if low <= 0 <= high:
            yield f"No difference of the mean is shown: {change}, which includes 0"
        elif compared["same"]["checkpoints"] is False:
            once = _once(model) and _once(compared["model"])
            why = f"one training each; {SEEDS}" if once else SEEDS
            yield f"A difference of the mean is shown between these checkpoints ({why}): {change}"
        else:
            yield f"A difference of the mean is shown: {change}"
    elif mean["difference"] is not None:
        yield "The difference of the means has no interval, so it shows no difference"


def _once(model: Any) -> bool:
    checkpoints = model.get("checkpoints") if isinstance(model, dict) else None
    return isinstance(checkpoints, list) and len(checkpoints) == 1

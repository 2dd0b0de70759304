"""What a dataset holds, and what is wrong with it: counts, problems and what mends them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tier_infer.errors import IntegrityError, RefusedImage, UsageError
from tier_infer.files import sha256_of
from tier_infer.geometry import GEOMETRIES
from tier_infer.tables import read_csv
from tier_train.data.cache import cached_pictures, pixels_path, read_facts
from tier_train.data.dataset import Dataset, Row
from tier_train.data.datasets import open_counted
from tier_train.data.manifest import REQUIRED, SPLITS, resolve_intensity
from tier_train.data.mimic import (
    EMPTY,
    LATERAL,
    NO_LABELS,
    NO_REPORT,
    NO_SPLIT,
    NO_TEXT,
    NOT_UTF8,
    TOO_LONG,
    TWO_REPORTS,
    Tally,
)
from tier_train.data.pictures import decode, is_file, place
from tier_train.recipe import Recipe

SCHEMA = "tier-train-data/1"
DECODED = 200  # pictures, evenly spread: all of MIMIC-CXR would take a core six hours
SHOWN = 5  # problems

MEND = "mend it, or leave it out: run --skip-bad for small datasets, data cache for large ones"
FIXES = {
    NO_LABELS: "nothing to do: the publisher's labeller has no row for such studies",
    NO_REPORT: "unpack mimic-cxr-reports.zip into ROOT, or name its folder: mimic:ROOT,reports=DIR",
    EMPTY: "nothing to do: by these rules the report has no impression; see --set impressions=…",
    NO_SPLIT: "fetch the split table again, or --set split_by=patients",
    LATERAL: "nothing to do: --set views=all keeps laterals",
    NO_TEXT: "unpack mimic-cxr-reports.zip again: it holds NUL or replacement characters",
    TOO_LONG: "unpack mimic-cxr-reports.zip again: no report of it is that long",
    NOT_UTF8: "look at the report, or unpack mimic-cxr-reports.zip again",
    TWO_REPORTS: "delete the wrong one; that of reports=DIR is read before that of ROOT",
}


@dataclass(frozen=True)
class Problem:
    what: str
    fix: str
    stops: bool  # a run would stop here


@dataclass(frozen=True)
class Findings:
    dataset: Dataset
    dropped: Tally
    missing: int
    decoded: int
    problems: tuple[Problem, ...]  # those that stop a run first

    @property
    def ready(self) -> bool:
        return not any(problem.stops for problem in self.problems)


def check_dataset(spec: str, recipe: Recipe) -> Findings:
    """Looks for every image and decodes DECODED of them; of a cache, compares every digest.

    Raises what open_dataset raises: UsageError where there is nothing to count.
    """
    dataset, tally = open_counted(spec, recipe, skip_bad=True)
    if dataset.kind == "cache":
        missing, decoded = [], len(dataset.rows)
        broken = [*_unusable(dataset, recipe), *_damaged_shards(dataset)]
    else:
        missing = list(_missing(dataset))
        gone = {row.number for row in missing}
        there = [row for row in dataset.rows if row.number not in gone]
        sample = there[:: -(-len(there) // DECODED) or 1]
        broken, decoded = list(_refused(dataset, sample, recipe)), len(sample)
    problems = [Problem(f"{place(dataset, row)}: no such file", MEND, True) for row in missing]
    problems += broken
    problems += _unfit(dataset, recipe)
    for reason, count in tally.counts.items():
        what = f"line {tally.first[reason]}: {reason} ({count} images, left out)"
        problems.append(Problem(what, FIXES[reason], False))
    for reason, count in tally.kept.items():
        what = f"line {tally.first[reason]}: {reason} ({count} images)"
        problems.append(Problem(what, FIXES[reason], False))
    ordered = sorted(problems, key=lambda problem: not problem.stops)
    return Findings(dataset, tally, len(missing), decoded, tuple(ordered))


def as_json(found: Findings) -> dict[str, Any]:
    dataset = found.dataset
    return {
        "schema": SCHEMA,
        "dataset": {"kind": dataset.kind, "name": dataset.name, "sha256": dataset.sha256},
        "ready": found.ready,
        "pairs": len(dataset.rows),
        "left_out": dict(found.dropped.counts),
        "notes": list(dataset.notes),
        "missing": found.missing,
        "decoded": found.decoded,
        "views": dict(_views(dataset)),
        "splits": {
            split: {"pairs": len(rows), "patients": len({row.patient for row in rows})}
            for split in SPLITS
            if (rows := dataset.split(split)) or split != "test"
        },
        "labels": {name: _counts(dataset, name) for name in dataset.label_columns},
        "problems": [vars(problem) for problem in found.problems],
    }


def as_text(found: Findings) -> Iterator[str]:
    """The same for people; the first problems only."""
    facts = as_json(found)
    name = facts["dataset"]
    yield f"{name['name']} ({name['kind']}), sha256 {name['sha256'][:12]}"
    yield f"pairs     {facts['pairs']}"
    yield f"views     {', '.join(f'{view} {count}' for view, count in facts['views'].items())}"
    splits = [f"{s} {n['pairs']} of {n['patients']} patients" for s, n in facts["splits"].items()]
    yield f"splits    {', '.join(splits)}"
    for reason, count in facts["left_out"].items():
        yield f"left out  {count}: {reason}"
    if name["kind"] == "cache":  # told by the source when it was written
        yield from (f"note      {note}" for note in facts["notes"])
    else:
        yield from (note for note in facts["notes"] if note.startswith("tables: "))
    yield f"pictures  {facts['missing']} missing, {facts['decoded']} looked into"
    width = max(map(len, facts["labels"]), default=5)
    yield f"{'label':<{width}}  positive  negative   unknown"
    for label, counts in facts["labels"].items():
        yield f"{label:<{width}}" + "".join(f"{count:>10}" for count in counts.values())
    shown = found.problems[:SHOWN]
    for problem in shown:
        yield f"{'problem' if problem.stops else 'note':<8}  {problem.what}"
        yield f"{'':<8}  → {problem.fix}"
    if len(found.problems) > SHOWN:
        yield f"{'':<8}  … and {len(found.problems) - SHOWN} more; --json lists all"
    stops = sum(problem.stops for problem in found.problems)
    purpose = "train on" if found.dataset.split("train") else "validate on"
    yield (
        f"ready to {purpose}"
        if found.ready
        else f"not ready: {stops} problem{'s' * (stops > 1)} to mend first"
    )


def _views(dataset: Dataset) -> Counter[str]:
    return Counter(row.view or "unknown" for row in dataset.rows)


def _counts(dataset: Dataset, label: str) -> dict[str, int]:
    known = Counter(row.labels.get(label) for row in dataset.rows)
    return {"positive": known[1], "negative": known[0], "unknown": known[None]}


def _missing(dataset: Dataset) -> Iterator[Row]:
    if dataset.kind == "manifest":  # whose reader has left them out
        kept = {row.number for row in dataset.rows}
        for number, cells in read_csv(dataset.path, REQUIRED)[2]:
            if number not in kept and not is_file(dataset.folder / cells["image_path"].strip()):
                yield Row(cells["image_path"].strip(), cells["split"], "", {}, number)
        return
    yield from (row for row in dataset.rows if not is_file(dataset.folder / row.image_path))


def _refused(dataset: Dataset, rows: list[Row], recipe: Recipe) -> Iterator[Problem]:
    intensity, _ = resolve_intensity(dataset, recipe.intensity)
    for row in rows:
        try:
            decode(dataset.folder / row.image_path, intensity, GEOMETRIES[recipe.geometry])
        except RefusedImage as refusal:
            yield Problem(f"{place(dataset, row)}: {refusal}", MEND, True)


def _unusable(dataset: Dataset, recipe: Recipe) -> Iterator[Problem]:
    """What a run would refuse before its first step."""
    try:
        intensity, _ = resolve_intensity(dataset, recipe.intensity)
        cached_pictures(dataset, list(dataset.rows), intensity, GEOMETRIES[recipe.geometry])
    except UsageError as error:
        yield Problem(str(error), "name the run's --recipe and --set here too", True)
    except IntegrityError as error:
        yield Problem(str(error), "give the data cache command again", True)


def _damaged_shards(dataset: Dataset) -> Iterator[Problem]:
    for shard in read_facts(dataset.path)[0]["shards"]:
        for suffix, key in ((".u8", "pixels_sha256"), (".npy", "index_sha256")):
            path = pixels_path(dataset.path, shard["number"], suffix)
            if not path.is_file() or sha256_of(path) != shard[key]:
                yield Problem(
                    f"{path} is not as written", "give the data cache command again", True
                )


def _unfit(dataset: Dataset, recipe: Recipe) -> Iterator[Problem]:
    train, val, need = len(dataset.split("train")), len(dataset.split("val")), recipe.batch_size
    if train < need and (train or dataset.kind != "chexpert"):
        what = f"{train} training pairs are fewer than the recipe's batch_size, {need}"
        yield Problem(what, "add pairs, or --set batch_size=N", True)
    if not val:
        yield Problem("no val pairs, so nothing is validated", "mark rows as val", False)

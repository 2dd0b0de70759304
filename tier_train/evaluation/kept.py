"""What an output folder holds from before: nothing of others is overwritten, and rows of a table
that are not asked for again stay in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Cohort, files_digest
from tier_infer.evaluation.run import SCHEMA as REPORT_SCHEMA
from tier_infer.evaluation.scores import PLAN
from tier_train.evaluation.rows import OURS, Row, Table

PLAN_SCHEMA = "tier-evaluate-plan/1"
UNFINISHED = re.compile(r"\..*\.tmp")  # what a process killed in write_atomic leaves
Json = dict[str, Any]


def check_folder(output: Path, schema: str, facts: str, beside: Sequence[str] = ()) -> None:
    """UsageError unless `output` is new, empty or our own: a JSON file of `schema`, or a folder
    with an evaluation's plan. `beside`: files that are written with the JSON file `facts`, which
    must be of `schema` where one of them is there.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(f"{output} is a file; name a folder with -o")
    there = [entry for entry in output.iterdir() if not UNFINISHED.fullmatch(entry.name)]
    if not there:
        return
    ours = any(_schema(path) == schema for path in output.glob("*.json"))
    if not ours and not any(_schema(path / PLAN) == PLAN_SCHEMA for path in there):
        raise UsageError(
            f"{output} holds files that this command did not write; name another folder with -o"
        )
    taken = [name for name in (facts, *beside) if (output / name).exists()]
    if taken and _schema(output / facts) != schema:
        raise UsageError(
            f"{output / taken[0]} was not written by this command; name another folder with -o"
        )


def earlier_rows(
    table: Table,
    asked: Sequence[Row],
    output: Path,
    cohort: Cohort,
    validation: Cohort | None,
    read: bool,
    drawn: tuple[int, int],
) -> dict[str, Json]:
    """Folder → report of the rows that were evaluated here before and are not `asked` for again.

    `read`: whether radiologists are given; `drawn`: draws and seed. UsageError for a report of
    another plan: one table has one dataset, one validation split and one set of resamples.
    """
    found = {}
    for row in table.rows:
        folder = output / row.folder
        if row in asked or not (folder / "report.json").exists():
            continue
        report, plan = read_json(folder / "report.json"), read_json(folder / PLAN)
        try:
            other = _differs(row, table, report, plan, cohort, validation, read, drawn)
        except (KeyError, TypeError):
            other = "form"
        if other:
            raise UsageError(
                f"{folder} was evaluated before and its {other} differs; name --{row.name} again, "
                "or another folder with -o"
            )
        found[row.folder] = report
    return found


def _differs(
    row: Row,
    table: Table,
    report: Json,
    plan: Json,
    cohort: Cohort,
    validation: Cohort | None,
    read: bool,
    drawn: tuple[int, int],
) -> str | None:
    """What of the plan; None where all is alike."""
    decides = row.protocol == OURS and table.decisions
    data, known = report["dataset"], plan["dataset"]
    fitted = report["validation"]["sha256"] if "validation" in report else None
    wanted = validation.sha256 if validation is not None and decides else None
    alike = {
        "form": (report["schema"], plan["schema"]) == (REPORT_SCHEMA, PLAN_SCHEMA),
        "dataset": (data["sha256"], data["split"]) == (cohort.sha256, cohort.split),
        "image files": (known["sha256"], known["files"]) == (cohort.sha256, files_digest(cohort)),
        "model": report["model"] == plan["model"],
        "--draws or --seed": (report["auc"]["draws"], report["auc"]["seed"]) == drawn,
        "protocol": report["protocol"]["name"] == row.unit,
        "--validation": fitted == wanted,
        "--radiologists": ("radiologists" in report) == (read and decides),
    }
    return next((name for name, same in alike.items() if not same), None)


def read_json(path: Path) -> Json:
    """{} for what is no JSON object."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _schema(path: Path) -> Any:
    return read_json(path).get("schema")

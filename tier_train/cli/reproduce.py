"""tier-train reproduce: the paper's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tier_infer.cli.evaluate_options import progress
from tier_train.cli.process import CONTEXT, prepare_process

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
ROWS = {  # the rows of rows.MODELS and the supervised network; an option each
    "regularized": "TIER; repeat the option for each file of an ensemble.",
    "unregularized": "Its twin, trained with --unregularized; may be repeated.",
    "chexzero": "Of `import chexzero`; may be repeated.",
    "medclip": "Of `import medclip`; may be repeated.",
    "biovil": "Of `import biovil` or `biovil-t`; may be repeated.",
    "supervised": "Of `tier-train supervised`; one file.",
}


def _rows(command: Any) -> Any:
    for name, text in reversed(ROWS.items()):
        option = click.option(f"--{name}", multiple=True, metavar="CKPT", type=FILE, help=text)
        command = option(command)
    return command


@click.command(context_settings=CONTEXT)
@click.argument("table", type=click.Choice(["table1", "table2", "covid"]))
@click.option("--dataset", metavar="KIND:PATH",
              help="table1: chexpert:ROOT, table2: padchest:ROOT, covid: covid:ROOT.")  # fmt: skip
@click.option("--validation", metavar="SPLIT",
              help="table1: the split that thresholds of MCC and F1 are chosen on.")  # fmt: skip
@click.option("--radiologists", metavar="DIR",
              type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="table1: their decisions, of CheXpert's label repository.")  # fmt: skip
@_rows
@click.option("--draws", type=click.IntRange(min=0), default=2000, show_default=True,
              help="Bootstrap resamples of patients; 0: no intervals.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of its draws.")
@click.option("-o", "--output", metavar="DIR", required=True,
              type=click.Path(file_okay=False, path_type=Path),
              help="A folder per row and the table; new, empty or of `reproduce`.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda")
@click.option("--threads", type=int, help="Of the CPU; default: PyTorch's choice.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def reproduce(
    table: str,
    dataset: str | None,
    validation: str | None,
    radiologists: Path | None,
    draws: int,
    seed: int,
    output: Path,
    as_json: bool,
    device: str,
    threads: int | None,
    debug: bool,
    **rows: tuple[Path, ...],
) -> None:
    """The paper's tables from the data and the checkpoints that you have.

    Each figure with the published one beside it; what is missing is named. Two tables, never mixed:
    all rows treated alike, and each in its authors' own protocol.

    An interrupted run goes on. Rows that DIR holds from a run on the same data, splits, draws and
    seed stay in the table ("evaluated before"); of another run they are refused.
    """
    prepare_process(threads)
    from tier_infer.evaluation.report import json_text
    from tier_train.evaluation.reproduce import Given
    from tier_train.evaluation.reproduce import reproduce as run
    from tier_train.evaluation.tables import markdown, write_tables

    def say(line: str) -> None:
        click.echo(f"tier-train: {line}", err=True)

    given = Given(rows, dataset, validation, radiologists, draws, seed, device)
    found = run(table, given, output, progress("tier-train"), say)
    write_tables(found, output)
    click.echo(json_text(found) if as_json else markdown(found), nl=False)
    images = [row["images"] for part in found["protocols"] for row in part["rows"]
              if "images" in row]  # fmt: skip
    failed, scored = (sum(counts[key] for counts in images) for key in ("failed", "scored"))
    click.get_current_context().exit(3 if not scored else 8 if failed else 0)

"""tier-train figures: what the penalties do, a regularized checkpoint beside its twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tier_infer.errors import UsageError
from tier_train.cli.process import CONTEXT, Guarded, prepare_process

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
OUTPUT = click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR",
    type=FOLDER,
    help="Folder for the files: new, empty or of `figures`.",
)
LABELLED = "chexpert:ROOT, padchest:ROOT, covid:ROOT, mimic:ROOT, nih:ROOT or manifest:FILE.csv."
SPLIT = click.option(
    "--split", help="Default: the one that papers report; of a manifest test, else val, else all."
)
QUERIES = click.option(
    "--queries", metavar="SET", help="Label set; default: the regularized checkpoint's own."
)


def pair_options(required: bool = True) -> Callable[[Any], Any]:
    """Adds the two checkpoints and how they run."""

    def add(command: Any) -> Any:
        for option in reversed(
            (
                click.option(
                    "--regularized", metavar="CKPT", type=FILE, required=required,
                    help="Trained with the penalties.",
                ),
                click.option(
                    "--unregularized", metavar="CKPT", type=FILE, required=required,
                    help="Its twin without them.",
                ),
                click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda"),
                click.option("--threads", type=int, help="Of the CPU; default: PyTorch's choice."),
                click.option("--debug", is_flag=True, help="Show the traceback of an error."),
            )
        ):  # fmt: skip
            command = option(command)
        return command

    return add


def dataset_option(kinds: str, required: bool = True) -> Callable[[Any], Any]:
    return click.option("--dataset", metavar="KIND:PATH", required=required, help=kinds)


@click.group(cls=Guarded, context_settings=CONTEXT)
def figures() -> None:
    """Draw the paper's figures 3 to 6, and measure maps where masks exist.

    Every command takes a regularized checkpoint and its unregularized twin, writes PNG (extra
    `plots`) and the numbers behind it.
    """


@figures.command(context_settings=CONTEXT)
@pair_options()
@dataset_option(LABELLED)
@SPLIT
@QUERIES
@click.option("--label", required=True, metavar="ID", help="Of the label set, e.g. edema.")
@click.option("--positive", metavar="IMAGE", help="As the table names it; default: the first one.")
@click.option("--negative", metavar="IMAGE", help="As the table names it; default: the first one.")
@click.option(
    "--style", type=click.Choice(("margin", "released")), default="margin", show_default=True,
    help="Z of every cell, or the released code's stretched cosines.",
)  # fmt: skip
@click.option(
    "--scale", type=click.FloatRange(0.01, 2), metavar="Z",
    help="Colours end at ±Z; default: wide enough for all maps.",
)  # fmt: skip
@click.option("--allow-burned-in", is_flag=True, help="Show pixels that may hold a name.")
@OUTPUT
def heatmaps(
    regularized: Path, unregularized: Path, dataset: str, split: str | None, queries: str | None,
    label: str, positive: str | None, negative: str | None, style: str, scale: float | None,
    allow_burned_in: bool, output: Path, device: str, threads: int | None, debug: bool,
) -> None:  # fmt: skip
    """Figures 3 and 4: maps of one positive and one negative case, side by side."""
    if style == "released" and scale is not None:
        raise UsageError("--scale is of the style margin; the released code's runs −0.3 to 0.5")
    _prepare(threads)
    from tier_infer.evaluation.datasets import held_out
    from tier_train.evaluation.members import chosen
    from tier_train.figures import heatmaps as maps
    from tier_train.figures.drawing import check_output
    from tier_train.figures.pair import labels_of, open_pair
    from tier_train.figures.released import released

    cohort = held_out(dataset, split)
    pair = open_pair(regularized, unregularized, device)
    labels = chosen(labels_of(pair, queries), [label])
    picture, table = maps.files_of(labels.labels[0].id, style)
    check_output(output, table, [picture])
    named = {"positive": positive, "negative": negative}
    rows = {
        kind: maps.choose(cohort, labels.labels[0].id, kind, asked) for kind, asked in named.items()
    }
    shown, images = maps.show(pair, cohort, labels, rows, allow_burned_in), 0
    if style == "released":
        shown, images = released(pair, cohort, labels.labels[0], shown, _progress())
    asked_for = maps.Asked(style, scale, {k: v is not None for k, v in named.items()}, images)
    facts = maps.facts_of(pair, cohort, labels, shown, asked_for)
    _tell(maps.write(output, facts, shown, pair))


@figures.command(context_settings=CONTEXT)
@pair_options(required=False)
@dataset_option(
    "With reports: manifest:FILE.csv, mimic:ROOT[,reports=DIR] or cache:DIR.", required=False
)
@click.option("--split", help="Default: test; val where nothing is held out.")
@click.option(
    "--pairs", type=click.IntRange(1), default=160, show_default=True,
    help="The first frontal images with a report.",
)  # fmt: skip
@click.option("--skip-bad", is_flag=True, help="Leave out rows whose image is missing or refused.")
@click.option(
    "--from", "source", metavar="DIR", type=FOLDER,
    help="Compute and draw again from DIR's similarity.csv; no checkpoint is needed.",
)  # fmt: skip
@OUTPUT
def similarity(
    regularized: Path | None, unregularized: Path | None, dataset: str | None, split: str | None,
    pairs: int, skip_bad: bool, source: Path | None, output: Path, device: str,
    threads: int | None, debug: bool,
) -> None:  # fmt: skip
    """Figures 5 and 6: how an image's patches answer its own report, ranked."""
    check_source(source, (regularized, unregularized, dataset), (split,))
    _prepare(threads)
    from tier_train.figures import similarity as ranks
    from tier_train.figures.drawing import check_output

    check_output(output, ranks.FACTS, (ranks.TABLE, "figure5.png", "figure6.png"))
    if source is not None:
        facts = ranks.read_facts(source / ranks.FACTS)
        facts = ranks.write(output, facts, ranks.read(source / ranks.TABLE))
    else:
        assert regularized is not None
        assert unregularized is not None
        assert dataset is not None
        from tier_train.data.datasets import open_dataset
        from tier_train.figures.pair import open_pair

        pair = open_pair(regularized, unregularized, device)
        data = open_dataset(dataset, pair.regularized.recipe, skip_bad)
        held, rows = ranks.rows_with_text(data, split, pairs)
        found, refused = ranks.measure(pair, data, rows, skip_bad)
        facts = ranks.facts_of(pair, data, held, found, pairs, refused)
        facts = ranks.write(output, facts, found)
    click.echo("\n".join(ranks.summary(facts)))


@figures.command(context_settings=CONTEXT)
@pair_options(required=False)
@dataset_option(LABELLED, required=False)
@SPLIT
@QUERIES
@click.option("--labels", metavar="A,B", help="Default: all that the dataset knows.")
@click.option(
    "--masks", metavar="DIR|FILE.json", type=click.Path(exists=True, path_type=Path),
    help="LABEL/IMAGE.png in a folder, or CheXlocalize's gt_segmentations; default: the dataset's.",
)  # fmt: skip
@click.option(
    "--draws", type=click.IntRange(0), default=2000, show_default=True,
    help="Bootstrap resamples of patients; 0: no intervals.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of its draws.")
@click.option(
    "--from", "source", metavar="DIR", type=FOLDER,
    help="Compute and draw again from DIR's localisation.csv; no checkpoint is needed.",
)  # fmt: skip
@OUTPUT
def localisation(
    regularized: Path | None, unregularized: Path | None, dataset: str | None, split: str | None,
    queries: str | None, labels: str | None, masks: Path | None, draws: int, seed: int,
    source: Path | None, output: Path, device: str, threads: int | None, debug: bool,
) -> None:  # fmt: skip
    """Pointing game, CNR and IoU of the maps against masks."""
    drawn_as = (_asked("draws"), _asked("seed"))
    others = (split, queries, labels, masks, *drawn_as)
    check_source(source, (regularized, unregularized, dataset), others)
    _prepare(threads)
    from tier_infer.evaluation.datasets import held_out
    from tier_train.evaluation.members import chosen
    from tier_train.figures import localisation as where
    from tier_train.figures import localisation_files as files
    from tier_train.figures.drawing import check_output
    from tier_train.figures.masks import open_masks
    from tier_train.figures.pair import labels_of, open_pair

    check_output(output, files.FACTS, files.BESIDE)
    if source is not None:
        report, found = files.again(source)
        _tell_table(files.as_markdown(report), files.write(output, report, found))
        return
    assert regularized is not None
    assert unregularized is not None
    assert dataset is not None
    cohort = held_out(dataset, split)
    drawn = open_masks(cohort, masks)
    pair = open_pair(regularized, unregularized, device)
    asked = labels_of(pair, queries)
    if labels is not None:
        asked = chosen(asked, [part.strip() for part in labels.split(",") if part.strip()])
    known = where.labels_with_truth(cohort, asked)
    findings = where.localise(pair, cohort, known, drawn, _progress())
    report = where.report_of(pair, cohort, findings, draws, seed)
    _tell_table(files.as_markdown(report), files.write(output, report, findings.found))


def check_source(
    source: Path | None, needed: tuple[object, ...], others: tuple[object, ...]
) -> None:
    """UsageError for both of --from and what it brings, and for neither."""
    if source is not None and any(value is not None for value in (*needed, *others)):
        raise UsageError("--from takes its checkpoints and dataset from DIR; leave theirs out")
    if source is None and any(value is None for value in needed):
        raise UsageError("name --regularized, --unregularized and --dataset, or --from DIR")


def _asked(option: str) -> bool | None:
    """True where the user named it, else None."""
    named = click.get_current_context().get_parameter_source(option)
    return True if named is click.core.ParameterSource.COMMANDLINE else None


def _tell_table(table: str, paths: list[Path]) -> None:
    click.echo(table)
    click.echo(f"wrote {', '.join(map(str, paths))}", err=True)


def _prepare(threads: int | None) -> None:
    prepare_process(threads)
    from tier_train.figures.drawing import require_matplotlib

    require_matplotlib()


def _progress() -> Callable[[int, int], None]:
    from tier_infer.cli.evaluate_options import progress

    return progress("tier-train")


def _tell(paths: list[Path]) -> None:
    for path in paths:
        click.echo(str(path))

"""tier-infer: score studies, offline. The only file of the runtime that prints or exits."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tier_infer.cli.doctor import doctor
from tier_infer.cli.evaluate import evaluate
from tier_infer.cli.options import CONTEXT, TALK, device_option, refuse_overwriting, tell_refused
from tier_infer.cli.warmup import warmup
from tier_infer.cli.wheelhouse import wheelhouse
from tier_infer.errors import UsageError
from tier_infer.guard import guarded, printable

if TYPE_CHECKING:  # heavy, and not needed for --help
    from tier_infer.bundle import Bundle
    from tier_infer.engine import Engine
    from tier_infer.scoring import Selection
    from tier_infer.studies import StudyResult

VERBS = ("evaluate", "warmup", "doctor", "wheelhouse")


class ScoreOrVerb(click.Group):
    """`tier-infer STUDY…` scores; a verb as the first word does something else.

    A path always means score: a file that is called like a verb is written ./evaluate.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*VERBS, "-h", "--help", "--version"):
            args = ["score", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        return guarded("tier-infer", ctx, lambda: click.Group.invoke(self, ctx))

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        verbs = ["STUDY... [OPTIONS]", "evaluate [BUNDLE] [OPTIONS]"]
        verbs += [f"{verb} [OPTIONS]" for verb in VERBS[1:]]
        formatter.write_usage("tier-infer", "  |  ".join(verbs))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of scoring stand on the first page: scoring is the command."""
        click.Command.format_options(self.commands["score"], ctx, formatter)
        with formatter.section("Further verbs"):
            formatter.write_dl([(v, self.commands[v].get_short_help_str(70)) for v in VERBS])


class Score(click.Command):
    """Hidden behind the group: users type paths, so messages must not name a verb `score`."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        return super().make_context("tier-infer", args, None, **extra)


@click.group(
    cls=ScoreOrVerb,
    context_settings=CONTEXT,
    help="Score chest radiographs (DICOM, PNG, JPEG) for findings written in plain words.\n\n"
    "STUDY is a file, several files, a zip or a folder. Research use only, not for diagnostic use.",
)
@click.version_option(package_name="tier-cxr")
def main() -> None:
    pass


@main.command("score", cls=Score, hidden=True, context_settings=CONTEXT)
@click.argument("study", nargs=-1, required=True)
@click.option(
    "--labels",
    metavar="A,B",
    help="Findings, e.g. cardiomegaly,edema. Default: all, beside --query none.",
)
@click.option(
    "--query",
    multiple=True,
    metavar="TEXT",
    help="A sentence that speaks for a finding, scored as `query`; more of them are averaged.",
)
@click.option("--against", multiple=True, metavar="TEXT", help="A sentence that speaks against it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="One CSV row per image and label on stdout.")
@click.option("--heatmaps", metavar="DIR", help="Write one overlay PNG per image and label.")
@click.option("--report", metavar="FILE.html", help="Write one page for the run, to read offline.")
@click.option("--language", metavar="CODE", help="Names of findings in table and report, e.g. de.")
@click.option("--smooth", is_flag=True, help="Smooth the cells in overlays and report.")
@click.option(
    "--with-uids",
    is_flag=True,
    help="Show study and instance UIDs (--json, --report) and pictures with burned-in text.",
)
@device_option
def score(
    study: tuple[str, ...],
    labels: str | None,
    query: tuple[str, ...],
    against: tuple[str, ...],
    as_json: bool,
    as_csv: bool,
    heatmaps: str | None,
    report: str | None,
    language: str | None,
    smooth: bool,
    with_uids: bool,
    bundle_dir: str,
    device: str,
    precision: str,
    debug: bool,
) -> None:
    """Score studies."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    if against and not query:
        raise click.UsageError("--against is about --query; give a sentence for the finding too")
    if language is not None and (as_json or as_csv) and report is None:
        raise click.UsageError("--json and --csv name findings by id; leave --language out")
    pictures = heatmaps is not None or report is not None
    if smooth and not pictures:
        raise click.UsageError("--smooth is about pictures; give --heatmaps or --report with it")
    if with_uids and not (pictures or as_json):
        raise click.UsageError("--with-uids is about --json, --report and --heatmaps; give one")
    from tier_infer.reader import Reader

    with Reader() as reader:  # the child starts while this process imports and loads the model
        from tier_infer import output
        from tier_infer.bundle import NOTICE, load_bundle
        from tier_infer.engine import Engine
        from tier_infer.inputs import find_images, split_member
        from tier_infer.scoring import score_images
        from tier_infer.studies import group_studies

        hidden: list[str] = []
        paths = find_images(study, reader.members, hidden)
        if hidden:
            click.echo(f"tier-infer: hidden files left out: {len(hidden)}", err=True)
        bundle = load_bundle(Path(bundle_dir))
        selection, doubts = _selection(bundle, labels, query, against)
        for doubt in doubts:
            click.echo(f"tier-infer: {printable(doubt)}", err=True)
        shown = {} if language is None else selection.display(language)
        engine = Engine(bundle, device, precision)
        _check_targets(heatmaps, report, {split_member(path)[0] for path in paths})
        if engine.choice:  # of --device auto only
            click.echo(f"tier-infer: {printable(engine.choice)}", err=True)
        studies = group_studies(
            score_images(paths, bundle, engine, selection, reader, keep_heat=pictures)
        )
    code = output.exit_code(studies)
    asked = (query, against, doubts)
    if as_json:
        with_heat = heatmaps is not None
        click.echo(
            output.to_json(studies, bundle, engine, with_uids, with_heat, asked, selection.pools)
        )
    elif as_csv:
        click.echo(output.to_csv(studies), nl=False, color=True)  # names as they are
        click.echo(f"tier-infer: {NOTICE} {engine.device} {engine.precision}", err=True)
    elif code != 3:
        click.echo(output.to_table(studies, bundle, engine, selection, asked, shown))
    if code != 0 and (as_json or as_csv or code == 3):  # the table lists them itself
        images = [image for study in studies for image in study.images]
        tell_refused(images, None if code == 3 and not (as_json or as_csv) else TALK)
    if pictures:
        names = (selection, shown)
        _write_pictures(studies, bundle, engine, names, heatmaps, report, smooth, with_uids)
    click.get_current_context().exit(code)


def _selection(
    bundle: Bundle, labels: str | None, query: tuple[str, ...], against: tuple[str, ...]
) -> tuple[Selection, tuple[str, ...]]:
    """The labels named, else all; of a query only what was named, and what to know of it."""
    from tier_infer.scoring import select_labels

    asked = [part for part in labels.split(",") if part.strip()] if labels is not None else None
    if not query:
        return select_labels(bundle, asked), ()
    from tier_infer.sentences import Words, doubts, with_sentences

    chosen = None if asked is None else select_labels(bundle, asked)
    words = Words(bundle)
    selection = with_sentences(chosen, words, query, against)
    return selection, tuple(doubts(words, query, against))


def _check_targets(heatmaps: str | None, report: str | None, inputs: set[str]) -> None:
    """Before an hour of scoring rather than after."""
    if heatmaps is not None and os.path.exists(heatmaps) and not os.path.isdir(heatmaps):
        raise UsageError(f"--heatmaps {heatmaps} is a file; name a folder")
    if heatmaps is not None and any(Path(heatmaps).glob("study-*_image-*.png")):
        raise UsageError(f"{heatmaps} holds overlays of another run; choose an empty folder")
    if heatmaps is not None:
        Path(heatmaps).mkdir(parents=True, exist_ok=True)
    if report is None:
        return
    if os.path.isdir(report) or not report.lower().endswith((".html", ".htm")):
        raise UsageError(f"--report {report} must be a file whose name ends in .html")
    refuse_overwriting("--report", report, inputs)
    if os.path.exists(report) and not _is_report(Path(report)):
        raise UsageError(f"--report {report} exists and is no report; choose another name")
    Path(report).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=Path(report).parent):  # can it be written at all?
        pass


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"tier-infer" in file.read(4096)


def _write_pictures(
    studies: list[StudyResult],
    bundle: Bundle,
    engine: Engine,
    names: tuple[Selection, dict[str, str]],
    heatmaps: str | None,
    report: str | None,
    smooth: bool,
    with_uids: bool,
) -> None:
    """`names`: the labels, and what they are called in the reader's language if not by id."""
    from tier_infer.report.overlay import may_show, write_overlays
    from tier_infer.report.page import prompts_of, write_report

    hidden = [i for s in studies for i in s.images if i.scores and not may_show(i, with_uids)]
    if hidden:
        click.echo(
            f"tier-infer: {len(hidden)} images may hold burned-in text and are not shown in "
            "pictures; --with-uids allows it",
            err=True,
        )
    geometry = bundle.manifest.resolved_geometry()
    if heatmaps is not None:
        folder = Path(heatmaps)
        for path in write_overlays(
            studies, geometry, folder, smooth=smooth, allow_burned_in=with_uids
        ):
            click.echo(f"wrote {path}", err=True)
        with contextlib.suppress(OSError):  # an empty folder says nothing
            folder.rmdir()
    if report is not None:
        used, (selection, shown) = (engine.device, engine.precision), names
        prompts = prompts_of(selection)
        write_report(
            Path(report),
            studies,
            bundle,
            used,
            prompts,
            geometry,
            choice=engine.choice,
            shown=shown,
            with_uids=with_uids,
            smooth=smooth,
            allow_burned_in=with_uids,
        )
        click.echo(f"wrote {report}", err=True)


main.add_command(evaluate)
main.add_command(warmup)
main.add_command(doctor)
main.add_command(wheelhouse)

if __name__ == "__main__":
    main()

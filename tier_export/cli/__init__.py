"""tier-export: the only files of the package that print or exit."""

from __future__ import annotations

from typing import Any

import click

from tier_export.cli.export import export
from tier_export.cli.labels import labels
from tier_export.cli.triton import triton
from tier_export.cli.verify import verify
from tier_infer.guard import guarded

VERBS = ("labels", "verify", "triton")


class ExportOrVerb(click.Group):
    """`tier-export CKPT.pt…` exports; a verb as the first word does something else.

    A path always means export: a checkpoint that is called like a verb is written ./labels.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*VERBS, "-h", "--help", "--version"):
            args = ["export", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        return guarded("tier-export", ctx, lambda: click.Group.invoke(self, ctx))

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        verbs = ("[OPTIONS] CKPT.pt...", "labels [OPTIONS]", "verify [BUNDLE] [OPTIONS]")
        formatter.write_usage("tier-export", "  |  ".join((*verbs, "triton BUNDLE OUT [OPTIONS]")))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of exporting stand on the first page: exporting is the command."""
        click.Command.format_options(self.commands["export"], ctx, formatter)
        with formatter.section("Further verbs"):
            formatter.write_dl([(v, self.commands[v].get_short_help_str(70)) for v in VERBS])


@click.group(
    cls=ExportOrVerb,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Export checkpoints to a bundle that tier-infer runs without PyTorch.\n\n"
    "The bundle appears only when its scores equal PyTorch's within the gates (exit 5 otherwise). "
    "Several checkpoints become one encoder that gives the mean of their scores.",
)
@click.version_option(package_name="tier-cxr")
def main() -> None:
    pass


main.add_command(export)
main.add_command(labels)
main.add_command(verify)
main.add_command(triton)

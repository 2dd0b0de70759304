"""tier-infer wheelhouse: what to carry to a machine without a network."""

from __future__ import annotations

from pathlib import Path

import click

from tier_infer.cli.options import CONTEXT
from tier_infer.errors import IntegrityError
from tier_infer.guard import printable


@click.command(context_settings=CONTEXT)
@click.option(
    "--extra",
    "extras",
    default="cpu",
    show_default=True,
    metavar="A[,B]",
    help="cpu or gpu, rtx, tensorrt, jpeg-lossless, query.",
)
@click.option(
    "--platform",
    "platform_name",
    type=click.Choice(["linux", "windows"]),
    help="Of the target, x86-64. Default: this machine's.",
)
@click.option("--python", metavar="3.X", help="Version on the target. Default: this one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--requirements", is_flag=True, help="A requirements file with hashes for pip.")
@click.option(
    "--check",
    "folder",
    metavar="DIR",
    help="Is DIR exactly this list? Exit 4 and a line for each file that is not.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def wheelhouse(
    extras: str,
    platform_name: str | None,
    python: str | None,
    as_json: bool,
    requirements: bool,
    folder: str | None,
    debug: bool,
) -> None:
    """List the wheels, with hashes, for a machine without a network."""
    if as_json + requirements + (folder is not None) > 1:
        raise click.UsageError("--json, --requirements and --check exclude one another")
    from tier_infer import wheelhouse as room

    target = room.target(extras, platform_name, python)
    files = room.wheels(target)
    if folder is not None:
        _check(room.check(Path(folder), files), f"{target}: {room.total(files)}")
    elif as_json:
        click.echo(room.to_json(target, files))
    else:
        lines = room.requirements(target, files) if requirements else room.to_lines(target, files)
        click.echo("\n".join(lines))


def _check(found: tuple[list[str], list[str]], summary: str) -> None:
    wrong, told = found
    for line in (*wrong, *told):
        click.echo(printable(line))
    if wrong:
        raise IntegrityError(
            f"not as listed: {len(wrong)}; fetch what is missing or changed with what "
            "tier-infer wheelhouse --requirements prints, and take away what is foreign"
        )
    click.echo(f"all there and nothing else: {summary} and tier-cxr's own wheel")

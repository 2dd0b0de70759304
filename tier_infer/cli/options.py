"""What the commands of tier-infer share: options, and how refused images are told."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import click

from tier_infer.errors import UsageError
from tier_infer.guard import printable

TALK = 20
CONTEXT = {"help_option_names": ["-h", "--help"]}
DEVICES = "auto|cpu|cuda|tensorrt|tensorrt-ep"
DEVICE_HELP = (
    "Where the graph runs: exactly there, or exit 6. auto: the first of tensorrt, tensorrt-ep "
    "(TensorRT in onnxruntime-gpu), cuda and cpu that can be had; it says why not the others."
)


def device_option(command: Any) -> Any:
    command = click.option(
        "--debug", is_flag=True, help="Show the traceback of an error; it may hold file content."
    )(command)
    command = click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "fp16", "int8"]),
        default="auto",
        help="Which encoder of the bundle; auto: fp32 on a CPU, fp16 on a GPU where the bundle has "
        "it. int8 is for CPUs.",
    )(command)
    command = click.option(
        "--device", default="auto", metavar=DEVICES, help=DEVICE_HELP, show_default=True
    )(command)
    return click.option(
        "--bundle",
        "bundle_dir",
        envvar="TIER_BUNDLE",
        default="bundle",
        metavar="DIR",
        help="Folder that tier-export wrote; else TIER_BUNDLE, else ./bundle.",
    )(command)


def tell_refused(images: list[Any], limit: int | None = TALK) -> None:
    """On stderr, the first `limit` of them; tables, --json and --csv list all."""
    refused = [image for image in images if image.status != "scored"]
    for image in refused[:limit]:
        click.echo(f"tier-infer: {printable(image.path)}: {image.message}", err=True)
    if limit is not None and len(refused) > limit:
        click.echo(f"tier-infer: and {len(refused) - limit} more", err=True)


def refuse_overwriting(option: str, target: str, inputs: Iterable[str]) -> None:
    """What is read is never written to."""
    if any(os.path.exists(target) and os.path.samefile(target, path) for path in inputs):
        raise UsageError(f"{option} {target} is one of the inputs; choose another name")

"""tier-infer warmup: engine, device and proof are ready before the first patient."""

from __future__ import annotations

from pathlib import Path

import click

from tier_infer.cli.options import CONTEXT, device_option
from tier_infer.guard import printable


@click.command(context_settings=CONTEXT)
@click.option(
    "--hardware-compat",
    type=click.Choice(["none", "ampere+", "same-cc"]),
    default="none",
    show_default=True,
    help="Which GPUs TensorRT's engine runs on: this kind, Ampere and newer, or this compute "
    "capability. A wider one may be slower. With --device tensorrt.",
)
@click.option(
    "--version-compat",
    is_flag=True,
    help="The engine also runs in later TensorRT of this major version. With --device tensorrt.",
)
@click.option("--rebuild", is_flag=True, help="Build TensorRT's engine also where one fits.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@device_option
def warmup(
    hardware_compat: str,
    version_compat: bool,
    rebuild: bool,
    as_json: bool,
    bundle_dir: str,
    device: str,
    precision: str,
    debug: bool,
) -> None:
    """Build what a device needs, prove it, before the first patient."""
    from tier_infer.bundle import load_bundle
    from tier_infer.warmup import Asked, to_json, to_lines, warm_up

    def say(text: str) -> None:
        click.echo(f"tier-infer: {printable(text)}", err=True)

    bundle = load_bundle(Path(bundle_dir))
    asked = Asked(device, precision, hardware_compat, version_compat, rebuild)
    warm = warm_up(bundle, asked, say)
    click.echo(to_json(warm, bundle) if as_json else to_lines(warm, bundle))

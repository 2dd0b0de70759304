"""tier-infer doctor: is this workstation ready? One line per check, the exit code tells."""

from __future__ import annotations

from pathlib import Path

import click

from tier_infer.cli.options import CONTEXT, device_option


@click.command(context_settings=CONTEXT)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@device_option
def doctor(as_json: bool, bundle_dir: str, device: str, precision: str, debug: bool) -> None:
    """Check packages, decoders, device, bundle, golden vectors."""
    from tier_infer.doctor.checks import exit_code, run_doctor, to_json, to_lines

    found = run_doctor(Path(bundle_dir), device, precision)
    click.echo(to_json(found) if as_json else to_lines(found))
    click.get_current_context().exit(exit_code(found))

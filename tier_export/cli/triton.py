"""tier-export triton BUNDLE OUT: a model repository for NVIDIA's Triton server."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tier_infer.errors import UsageError


@click.command("triton", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path), metavar="BUNDLE")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT")
@click.option(
    "--queries",
    multiple=True,
    metavar="SET",
    help="Label set of the bundle to serve; may be repeated. Default: all.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Which encoder of the bundle.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the server runs the encoder. With cuda it does not load it without a GPU; with "
    "auto it takes a CPU then.",
)
@click.option(
    "--plans",
    is_flag=True,
    help="TensorRT plans of the bundle's engines/ instead of ONNX; one file for each GPU "
    "generation, and on another one the server does not load the encoder.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def triton(
    folder: Path,
    out: Path,
    queries: tuple[str, ...],
    precision: str,
    device: str,
    plans: bool,
    as_json: bool,
    debug: bool,
) -> None:
    """Write a Triton model repository: encoder, label sets, ensembles."""
    if plans and device == "cpu":
        raise UsageError("--plans are for GPUs; leave --device cpu out, or --plans")
    from tier_export.triton import make_repository
    from tier_export.triton_plans import read_plans
    from tier_export.triton_writing import check_out, write_repository
    from tier_infer.bundle import load_bundle
    from tier_infer.cache import Cache

    check_out(out, folder)
    bundle = load_bundle(folder)
    ready = read_plans(bundle, precision, Cache()) if plans else None
    made = make_repository(bundle, queries, precision, device, ready)
    write_repository(out, made.files)
    if as_json:
        click.echo(json.dumps(made.listing, indent=1))
        return
    for name in dict.fromkeys(path.partition("/")[0] for path in made.listing["files"]):
        size = sum(len(d) for path, d in made.files.items() if path.startswith(f"{name}/"))
        click.echo(f"{name:<40} {size / 1e6:>8.2f} MB")
    where = f"TensorRT {ready.version}" if ready else f"ONNX {precision}"
    identity = bundle.manifest.bundle_sha256[:12]
    click.echo(f"wrote {out}: bundle {identity}, {where}, device {made.listing['device']}")
    click.echo(f"tier-export: {made.listing['notice']}", err=True)

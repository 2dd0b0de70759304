"""tier-train: the only file of the package that prints or exits. Commands import torch late."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from tier_infer.errors import UsageError
from tier_infer.guard import guarded

COUNT, SEED = click.IntRange(0, 10**6), click.IntRange(0, 2**32 - 1)
CONTEXT = {"help_option_names": ["-h", "--help"]}


class Guarded(click.Group):
    """Turns an error into its sentence and exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        return guarded("tier-train", ctx, lambda: click.Group.invoke(self, ctx))


@click.group(cls=Guarded, context_settings=CONTEXT)
@click.version_option(package_name="tier-cxr")
def main() -> None:
    """Train a chest radiograph model from images and impressions, without labels."""


@main.command(context_settings=CONTEXT)
@click.option(
    "--data",
    metavar="manifest:FILE.csv",
    help="Dataset; default: ./manifest.csv where the folder has one.",
)
@click.option("--recipe", default="small", show_default=True, help="small, demo or a TOML file.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key."
)
@click.option("--unregularized", is_flag=True, help="The recipe's twin: both lambdas 0.")
@click.option("--skip-bad", is_flag=True, help="Leave out rows whose image is missing or refused.")
@click.option("--threads", type=int, metavar="N", help="CPU threads of torch; default: all cores.")
@click.option("-o", "--output", default="ckpt.pt", show_default=True, metavar="FILE")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def run(
    data: str | None,
    recipe: str,
    overrides: tuple[str, ...],
    unregularized: bool,
    skip_bad: bool,
    threads: int | None,
    output: str,
    debug: bool,
) -> None:
    """Train and write ckpt.pt, with its metrics file beside it."""
    from tier_train.recipe import load_recipe

    path = dataset_path(data)
    resolved = load_recipe(recipe, list(overrides), unregularized)
    prepare_process(threads)
    from tier_train.manifest import read_manifest
    from tier_train.train import train

    manifest = read_manifest(path, skip_bad)
    checkpoint = train(
        manifest, resolved, Path(output), skip_bad, lambda s: click.echo(s, err=True)
    )
    areas = checkpoint.training["val_auc"]
    for label, area in areas.items():
        click.echo(f"val AUC {label:<24} {area:.3f}")
    click.echo(f"wrote {output}; next: tier-export --fp16 {output}")
    if checkpoint.alarm:
        click.echo(f"tier-train: collapse alarm: {checkpoint.alarm}", err=True)


@main.group(cls=Guarded, context_settings=CONTEXT)
def data() -> None:
    """Make datasets."""


@data.command(context_settings=CONTEXT)
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder to write.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Equal seeds, equal files.")
@click.option("--train", "n_train", type=COUNT, default=3000, show_default=True, help="Images.")
@click.option("--val", "n_val", type=COUNT, default=300, show_default=True, help="Images.")
@click.option("--test", "n_test", type=COUNT, default=800, show_default=True, help="Images.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def phantoms(output: str, seed: int, n_train: int, n_val: int, n_test: int, debug: bool) -> None:
    """Draw chest phantoms as DICOM files with impressions, labels and an unseen study.dcm.

    Drawings, not patients: they show that the software works, nothing clinical.
    """
    from tier_train.phantom_data import write_phantoms

    counts = {"train": n_train, "val": n_val, "test": n_test}
    if n_train < 1:
        raise UsageError("--train must be at least 1")
    manifest = write_phantoms(Path(output), seed, counts)
    click.echo(
        f"wrote {sum(counts.values())} phantoms and {manifest}; next: cd {output} && tier-train run"
    )


def dataset_path(data: str | None) -> Path:
    """The CSV that --data names, or ./manifest.csv; UsageError names the command that makes one."""
    if data is None:
        if Path("manifest.csv").is_file():
            return Path("manifest.csv")
        raise UsageError(
            "no data: there is no ./manifest.csv and no --data. Name a dataset with "
            "--data manifest:FILE.csv, or draw one with `tier-train data phantoms -o phantoms` and "
            "run again inside that folder"
        )
    kind, colon, rest = data.partition(":")
    if kind != "manifest" or not colon or not rest:
        raise UsageError(f"--data takes manifest:FILE.csv, got {data!r}")
    if not Path(rest).is_file():
        raise UsageError(f"--data {data}: no file {rest}")
    return Path(rest)


def prepare_process(threads: int | None) -> None:
    """Must run before torch is imported: OpenMP reads its environment once.

    Idle OpenMP threads that spin cost a busy two-core machine most of its speed, and glibc returns
    every activation to the kernel only to fault it in again; both are set for this process alone.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            libc.mallopt(-4, 0)  # M_MMAP_MAX: big blocks from the heap, which is kept
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError:
        raise UsageError("training needs its extra: pip install 'tier-cxr[train]'") from None
    if threads is not None:
        if threads < 1:
            raise UsageError("--threads must be at least 1")
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()

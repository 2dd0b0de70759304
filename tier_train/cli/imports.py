"""tier-train import."""

from __future__ import annotations

from pathlib import Path

import click

from tier_infer.errors import IntegrityError, UsageError
from tier_train.cli.process import CONTEXT, prepare_process

# What each source needs, as its users know the files.
FILES = {
    "biovil": ("biovil_image_resnet50_proj_size_128.pt", "CXR_BERT_FOLDER"),
    "biovil-t": ("biovil_t_image_model_proj_size_128.pt", "CXR_BERT_FOLDER"),
    "tier": ("best_model.pt", "CXR_BERT_FOLDER"),
    "chexzero": ("best_64_….pt", "bpe_simple_vocab_16e6.txt.gz"),
    "medclip": ("pytorch_model.bin", "BIO_CLINICALBERT_FOLDER"),
    "torchvision": ("resnet50-….pth",),
}
_USAGE = "\n".join(f"  {name:<12} {' '.join(files)}" for name, files in FILES.items())


@click.command(
    "import",
    context_settings=CONTEXT,
    epilog="\b\nSources and their files:\n" + _USAGE,
)
@click.argument("source", type=click.Choice(list(FILES)), metavar="SOURCE")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("-o", "--output", default="ckpt.pt", show_default=True, metavar="FILE")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def import_(source: str, files: tuple[Path, ...], output: str, debug: bool) -> None:
    """Make a checkpoint of published weights, which exports and scores like our own.

    It keeps the source's geometry, intensity and prompts. Files are fetched by you, read without
    running anything in them, and refused by name when a weight is missing, unknown or renamed.
    """
    needed = FILES[source]
    if len(files) != len(needed):
        raise UsageError(f"import {source} takes {' '.join(needed)}; {len(files)} were named")
    for path, name in zip(files, needed, strict=True):
        if not path.exists():
            raise UsageError(f"there is no {path}; import {source} takes {' '.join(needed)}")
        if path.is_dir() != name.isupper():
            kind = "folder" if name.isupper() else "file"
            raise UsageError(f"{path} is no {kind}; import {source} takes {' '.join(needed)}")
    target = Path(output)
    if any(target.exists() and target.samefile(path) for path in files):
        raise UsageError(f"{output} is one of the files to read; name another with -o")
    prepare_process(None)
    from tier_train.checkpoint import save_checkpoint
    from tier_train.imports.sources import SOURCES
    from tier_train.imports.weights import is_memory

    try:
        checkpoint = SOURCES[source](*files)
        save_checkpoint(target, checkpoint)
    except (MemoryError, RuntimeError) as error:
        if not is_memory(error):
            raise
        raise IntegrityError(
            f"{files[0]} asks for more memory than there is; compare it with the published file"
        ) from None
    recipe = checkpoint.recipe
    weights = sum(value.numel() for value in checkpoint.model.parameters())
    click.echo(
        f"{source}: {weights / 1e6:.1f} million weights, nothing missing, nothing left over; "
        f"{recipe.geometry}, {checkpoint.intensity}, {recipe.global_pool}, "
        f"prompts {recipe.prompts}, patches {checkpoint.training['patches']}"
    )
    for note in checkpoint.training["notes"]:
        click.echo(f"note: {note}", err=True)
    click.echo(f"wrote {output}; next: tier-export --fp16 {output}")

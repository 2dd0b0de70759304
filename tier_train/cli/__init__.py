"""tier-train: commands; the only package here that prints or exits. They import torch late."""

from __future__ import annotations

import click

from tier_train.cli.data import data
from tier_train.cli.evaluate import evaluate
from tier_train.cli.figures import figures
from tier_train.cli.imports import import_
from tier_train.cli.process import CONTEXT, Guarded
from tier_train.cli.reproduce import reproduce
from tier_train.cli.run import run
from tier_train.cli.search import search
from tier_train.cli.supervised import supervised


@click.group(cls=Guarded, context_settings=CONTEXT)
@click.version_option(package_name="tier-cxr")
def main() -> None:
    """Train a chest radiograph model from images and impressions, without labels."""


for command in (run, search, supervised, import_, evaluate, figures, reproduce, data):
    main.add_command(command)

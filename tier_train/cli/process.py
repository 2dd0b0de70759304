"""What every command of tier-train shares: how it ends, how the process is set up, its data."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from tier_infer.errors import UsageError
from tier_infer.guard import guarded

CONTEXT = {"help_option_names": ["-h", "--help"]}


class Guarded(click.Group):
    """Turns an error into its sentence and exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        return guarded("tier-train", ctx, lambda: click.Group.invoke(self, ctx))


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

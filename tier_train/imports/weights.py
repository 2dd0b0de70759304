"""Published weight files → plain tensors by name. Nothing in them can run.

Always a literal `weights_only=True`; zip archives are checked against their checksums first.
"""

from __future__ import annotations

import argparse
import pickle
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tier_infer.errors import IntegrityError, UsageError

DTYPES = (torch.float32, torch.float16, torch.int64)  # of published weights and counters
WRAPPERS = ("model_state_dict", "state_dict", "model", "state")  # the last is ours
PREFIXES = ("module.", "model.")  # DataParallel and Lightning put them before every key

# What a TIER checkpoint holds beside tensors: its command line and NumPy's scalars. NumPy 2 moved
# `scalar`; files written before name its old place.
_SCALAR: Any = np.float64(0).__reduce__()[0]
TIER_CLASSES: list[Any] = [
    argparse.Namespace,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int64")),
]


def load_table(path: Path, classes: Iterable[Any] = ()) -> Any:
    """What a torch file holds, tensors mapped from the file; `classes` may stand beside them.

    Raises UsageError when there is no file, IntegrityError for anything but tensors and plain
    values, damaged or cut off.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_archive(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(classes)):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError:
        raise IntegrityError(
            f"{path} holds pickled code or objects; only tensors and plain values are loaded"
        ) from None
    except Exception as error:  # damaged pickles end in any of a dozen
        raise IntegrityError(
            f"{path} is no weight file of torch, or not whole ({type(error).__name__}); "
            "compare its size and checksum with the published ones"
        ) from None


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        raise IntegrityError(f"{path} is no whole archive ({type(error).__name__})") from None
    if damaged is not None:
        raise IntegrityError(f"{path} is damaged: a member's checksum is wrong; fetch it again")


def load_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise IntegrityError(
            f"{path} is no whole safetensors file ({type(error).__name__})"
        ) from None


def plain_state(path: Path, table: Any) -> dict[str, Tensor]:
    """The state dict in `table`, out of its wrappers: name → dense float32, float16 or int64."""
    for wrapper in WRAPPERS:
        if isinstance(table, dict) and isinstance(table.get(wrapper), dict):
            table = table[wrapper]
    if not isinstance(table, dict) or not table:
        raise IntegrityError(f"{path} holds no weights by name")
    for key, value in table.items():
        if not isinstance(key, str):
            raise IntegrityError(f"{path} names its weights by {type(key).__name__}, not by text")
        if not isinstance(value, Tensor):
            raise IntegrityError(f"{path}: {key} is {type(value).__name__}, not a tensor")
        if value.dtype not in DTYPES or value.layout != torch.strided or value.is_meta:
            raise IntegrityError(f"{path}: {key} is {value.dtype}, {value.layout}; not a weight")
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in table):
            table = {key.removeprefix(prefix): value for key, value in table.items()}
    return dict(table)

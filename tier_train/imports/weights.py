"""Published weight files → plain tensors by name. Nothing in them can run.

Always a literal `weights_only=True`; zip archives are checked against their checksums first.
"""

from __future__ import annotations

import argparse
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tier_infer.errors import IntegrityError, UsageError
from tier_train.checkpoint import not_stored, shown

DTYPES = (torch.float32, torch.float16, torch.int64)  # of published weights and counters
WRAPPERS = ("model_state_dict", "state_dict", "model", "state")  # the last is ours
PREFIXES = ("module.", "model.")  # DataParallel and Lightning put them before every key

SCALARS = {"f4": "<f", "f8": "<d", "i8": "<q"}  # NumPy's code → that of struct


class NumpyType:
    """Stands in for numpy.dtype, which would make a type of any size at a file's word."""

    code = ""

    def __init__(self, code: object = "", *flags: object) -> None:
        if code not in SCALARS:
            raise pickle.UnpicklingError
        self.code = str(code)

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[1:] != ("<", None, None, None, -1, -1, 0):
            raise pickle.UnpicklingError


def numpy_scalar(kind: object, raw: object = None) -> float | int:
    """Stands in for NumPy's `scalar`: float32, float64 or int64 of exactly their bytes."""
    layout = SCALARS.get(kind.code) if isinstance(kind, NumpyType) else None
    if layout is None or type(raw) is not bytes or len(raw) != struct.calcsize(layout):
        raise pickle.UnpicklingError
    number: float | int = struct.unpack(layout, raw)[0]
    return number


# What a TIER checkpoint holds beside tensors: its command line and NumPy's scalars. NumPy 2 moved
# `scalar`; files written before name its old place.
TIER_CLASSES: list[Any] = [
    argparse.Namespace,
    (numpy_scalar, "numpy.core.multiarray.scalar"),
    (numpy_scalar, "numpy._core.multiarray.scalar"),
    (NumpyType, "numpy.dtype"),
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
        if is_memory(error):
            raise IntegrityError(f"{path} asks for more memory than there is") from None
        raise IntegrityError(
            f"{path} is no weight file of torch, or not whole ({type(error).__name__}); "
            "compare its size and checksum with the published ones"
        ) from None


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            rewritten = not_stored(archive, path.stat().st_size)
            damaged = None if rewritten else archive.testzip()
    except Exception as error:
        raise IntegrityError(f"{path} is no whole archive ({type(error).__name__})") from None
    if rewritten:
        raise IntegrityError(f"{path} is no archive that torch wrote: {rewritten}; fetch it again")
    if damaged is not None:
        raise IntegrityError(f"{path} is damaged: a member's checksum is wrong; fetch it again")


def is_memory(error: BaseException) -> bool:
    """Whether Python or torch, which has no class of its own for it, could not get memory."""
    words = str(error) if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or "allocate memory" in words


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
            raise IntegrityError(f"{path}: {shown(key)} is {type(value).__name__}, not a tensor")
        if type(value) not in (Tensor, nn.Parameter) or value.is_nested:
            raise IntegrityError(f"{path}: {shown(key)} is a tensor of another kind; not a weight")
        if value.dtype not in DTYPES or value.layout != torch.strided or value.is_meta:
            raise IntegrityError(
                f"{path}: {shown(key)} is {value.dtype}, {value.layout}; not a weight"
            )
    _check_hollow(path, table)
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in table):
            table = {key.removeprefix(prefix): value for key, value in table.items()}
    return dict(table)


def _check_hollow(path: Path, state: dict[str, Tensor]) -> None:
    """A view may repeat its bytes (stride 0): then kilobytes would become any amount of memory."""
    for key, value in state.items():
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise IntegrityError(f"{path}: {shown(key)} claims more weights than the file holds")
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    if claimed > 2 * path.stat().st_size:  # twice: tied weights are stored once
        raise IntegrityError(f"{path}: its weights claim {claimed} bytes, more than the file holds")

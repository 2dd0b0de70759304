"""One chest radiograph in many DICOM encodings, and files that must be refused or flagged.

Built with pydicom, Pillow, pyjpegls and imagecodecs, and with the formulas of PS3.3 written out a
second time: nothing here calls tier_infer, so that an error of its own can't hide in its test.

    python -m tests.infer.encodings FOLDER     writes all of it, for other readers
"""

from __future__ import annotations

from functools import cache

from tests.infer.encodings.base import Case
from tests.infer.encodings.same_files import file_cases
from tests.infer.encodings.same_values import values_cases
from tests.infer.encodings.same_windows import window_cases


@cache
def same() -> tuple[Case, ...]:
    """Every encoding of the one picture; the plain one, 'mono2', comes first."""
    return (*values_cases(), *window_cases(), *file_cases())

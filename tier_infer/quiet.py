"""Libraries repeat what files say, in warnings and log records; nothing of it may reach a log."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warning and no log record of anybody while a file is read.

    Disabling the loggers by name would not do: a disabled parent does not stop its children.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

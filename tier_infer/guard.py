"""How the three commands end when something goes wrong: a sentence, an exit code, no traceback."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from tier_infer.errors import TierError


def guarded(name: str, ctx: click.Context, call: Callable[[], Any]) -> Any:
    """Runs `call`. A traceback could hold what a file says, so only --debug shows one."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may be anything
            utf8 = stream.encoding.lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    try:
        return call()
    except KeyboardInterrupt:
        click.echo(f"{name}: interrupted; files written before are as they were", err=True)
        ctx.exit(130)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ctx.exit(141)
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        if isinstance(error, TierError):
            sentence, code = str(error), error.exit_code
        elif isinstance(error, OSError):
            place = f"{error.filename}: " if error.filename else ""
            sentence, code = f"{place}{error.strerror or type(error).__name__}", 2
        else:
            sentence = f"a bug of ours ({type(error).__name__}); --debug shows where"
            code = 1
        try:
            click.echo(f"{name}: {sentence}", err=True)
        except UnicodeEncodeError:  # a half of a surrogate pair that stands for no byte
            plain = sentence.encode("utf-8", "backslashreplace").decode("utf-8")
            click.echo(f"{name}: {plain}", err=True)
        ctx.exit(code)


def printable(text: str) -> str:
    """A file name for a terminal: control characters escaped, so that no name can forge a line."""
    return "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else repr(c)[1:-1] for c in text
    )

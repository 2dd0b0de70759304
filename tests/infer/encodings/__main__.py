"""Writes every case as a file, with cases.json saying what each of them is.

python -m tests.infer.encodings FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.infer.encodings import same
from tests.infer.encodings.flag import flags
from tests.infer.encodings.refuse_files import files
from tests.infer.encodings.refuse_pixels import pixels
from tests.infer.encodings.refuse_rules import rules


def write_all(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """folder/{same,refuse,flag}/NAME.dcm; the first of `same` is the plain file."""
    found: dict[str, list[dict[str, Any]]] = {"same": [], "refuse": [], "flag": []}

    def put(kind: str, name: str, suffix: str, data: bytes, **about: Any) -> None:
        path = folder / kind / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        file = str(path.relative_to(folder))
        found[kind].append({"name": name, "file": file, "suffix": suffix, **about})

    for case in same():
        about = {"window": case.window, "listed": case.listed, "defined": case.defined}
        put("same", case.name, case.suffix, case.data, **about)
    for refusal in (*rules(), *pixels(), *files()):
        about = {"reason": refusal.reason, "presets": refusal.presets, "scoring": refusal.scoring}
        put("refuse", refusal.name, refusal.suffix, refusal.data, **about)
    for case in flags():
        put("flag", case.name, case.suffix, case.data, flag=case.flag, presets=case.presets)
    (folder / "cases.json").write_text(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))

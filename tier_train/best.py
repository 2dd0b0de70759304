"""The best checkpoints of a run, for an ensemble: `<stem>.best/step-00001000.pt` and ranking.csv.

They gather in `<stem>.best.part/` and get their name when the run is complete, so that those of an
earlier run stay until then. A file goes only after the state that does without it is on disk.
"""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tier_infer.errors import IntegrityError
from tier_infer.files import sha256_of, sync_folder, write_atomic
from tier_train.recipe import Recipe
from tier_train.state import beside

COLUMNS = ("rank", "file", "step", "epoch", "val_auc", "val_loss", "sha256")


class Best:
    """The `keep_best` checkpoints with the highest validation AUC or the lowest validation loss."""

    def __init__(self, output: Path, recipe: Recipe, ranking: list[dict[str, Any]]) -> None:
        """`ranking` is that of the state: of a resumed run, what was kept so far."""
        self.part = beside(output, "best.part")
        self.final = beside(output, "best")
        self.ranking = ranking
        self._recipe = recipe

    def check(self, path: Path) -> None:
        """Raises IntegrityError when a file that the state at `path` ranks is gone or changed."""
        for entry in self.ranking:
            file = self._find(entry["file"])
            if not file.is_file() or sha256_of(file) != entry["sha256"]:
                raise IntegrityError(
                    f"{file} is missing or not the one that {path} ranks; start anew without "
                    "--resume"
                )

    def offer(self, entry: dict[str, Any], write: Callable[[Path], None]) -> None:
        """Writes the checkpoint if it is among the best so far. entry: step, epoch, val_auc,
        val_loss. Of equal ones the earlier is better."""
        ranked = sorted([*self.ranking, entry], key=self._order)[: self._recipe.keep_best]
        if entry not in ranked:
            return
        self.part.mkdir(exist_ok=True)
        entry["file"] = f"step-{entry['step']:08d}.pt"
        write(self.part / entry["file"])
        entry["sha256"] = sha256_of(self.part / entry["file"])
        self.ranking = ranked

    def prune(self) -> None:
        """Once the state with this ranking is on disk: says it in a table, removes the others."""
        if not self.part.is_dir():
            return
        if not self.ranking:
            shutil.rmtree(self.part, ignore_errors=True)
            return
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({"rank": i, **row} for i, row in enumerate(self.ranking, start=1))
        write_atomic(self.part / "ranking.csv", buffer.getvalue().encode())
        kept = {row["file"] for row in self.ranking}
        for path in self.part.glob("step-*.pt"):
            if path.name not in kept:
                path.unlink()

    def winner(self) -> Path:
        return self._find(self.ranking[0]["file"])

    def publish(self, say: Callable[[str], None]) -> None:
        """Gives the folder its name; again after a kill anywhere in between."""
        if not self.ranking:
            if self.final.is_dir():
                say(f"{self.final} holds the checkpoints of an earlier run")
            return
        old = self.final.with_name(f"{self.final.name}.old")
        if self.part.is_dir():
            if self.final.is_dir():
                shutil.rmtree(old, ignore_errors=True)
                self.final.rename(old)
            self.part.rename(self.final)
            sync_folder(self.final.parent)
        shutil.rmtree(old, ignore_errors=True)

    def _find(self, name: str) -> Path:
        """In the folder of the running run, or already in that of the complete one."""
        part = self.part / name
        return part if part.is_file() else self.final / name

    def _order(self, entry: dict[str, Any]) -> tuple[float, int]:
        by_auc = self._recipe.select_by == "auc"
        value = -entry["val_auc"] if by_auc else entry["val_loss"]
        return (math.inf if math.isnan(value) else value, entry["step"])

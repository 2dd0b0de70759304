"""Which label of a set somebody means: its id, or any of its names in any language."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from tier_infer.errors import UsageError
from tier_infer.label_sets import normal_id

LISTED = 20  # labels that a message names at most
Row = Mapping[str, Any]  # a label as the query graph carries it: id, name, names, …


def names_of(row: Row) -> dict[str, str]:
    """Language → name; empty for a label that was made without, or typed just now."""
    names = row.get("names")
    return {str(k): str(v) for k, v in names.items()} if isinstance(names, dict) else {}


class Names:
    """The labels of one set by all that they are called."""

    def __init__(self, set_id: str, rows: Sequence[Row]) -> None:
        self.set_id = set_id
        self.columns = {str(row["id"]): column for column, row in enumerate(rows)}
        self._rows = rows

    def __contains__(self, text: str) -> bool:
        key = normal_id(text)
        return key in self.columns or key in self._by_name

    def find(self, text: str) -> str:
        """Its id, in any case, with spaces or underscores. UsageError where none or two are meant.

        What is an id is no name of another label: `parse_label_set` refuses such a set.
        """
        key = text if text in self.columns else normal_id(text)
        if key in self.columns:
            return key
        _, ids = self._by_name.get(key, ("", []))
        if len(ids) > 1:
            raise UsageError(
                f"{text!r} is a name of the labels {', '.join(ids)} of set {self.set_id}; ask for "
                "one by its id"
            )
        if not ids:
            raise UsageError(f"label {text!r} is not in set {self.set_id}; {self._hint(key)}")
        return ids[0]

    @cached_property
    def _by_name(self) -> dict[str, tuple[str, list[str]]]:
        """Normal form → a name as written, and the ids of the labels that it is a name of."""
        found: dict[str, tuple[str, list[str]]] = {}
        for row in self._rows:
            spoken = {normal_id(n): n for n in (str(row.get("name", "")), *names_of(row).values())}
            for key, name in spoken.items():
                found.setdefault(key, (name, []))[1].append(str(row["id"]))
        return found

    def _hint(self, key: str) -> str:
        """The nearest across all names, each with the id to ask for; else what there is."""
        near = difflib.get_close_matches(key, {**self._by_name, **self.columns}, n=3, cutoff=0.4)
        if near:
            return f"nearest: {', '.join(self._shown(found) for found in near)}"
        more = len(self.columns) - LISTED
        listed = ", ".join([*self.columns][:LISTED])
        return f"it has {listed}" + (f" and {more} more" if more > 0 else "")

    def _shown(self, key: str) -> str:
        if key in self.columns:
            return key
        name, ids = self._by_name[key]
        return f"{name} ({', '.join(ids)})"

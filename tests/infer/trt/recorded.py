"""A stand-in for TensorRT: its surface is NVIDIA's own, recorded; its behaviour a test gives.

    trt = Recorded("tensorrt 11.4.0.106", {"Builder.create_network": lambda self, flags: …})
    monkeypatch.setitem(sys.modules, "tensorrt", trt.module)

Names, keywords, argument and property types, enums and their values are those of
tests/data/tensorrt_api.json: another attribute raises AttributeError, an argument that pybind would
refuse TypeError, a call or property of which the test said nothing NotImplementedError.
`trt.new("ITensor", name="pixels")` makes an object that NVIDIA's code would hand out; `trt.calls`
lists what was called and set.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, cast

from tests.conftest import DATA

API: dict[str, dict[str, Any]] = json.loads((DATA / "tensorrt_api.json").read_text())
VERSIONS = tuple(API)
Behaviour = Mapping[str, Callable[..., Any]]


def parameters(signature: str) -> inspect.Signature:
    """Of "(flag: BuilderFlag, index: int = 0) -> bool"; a default is pybind's text."""
    inside = signature[1 : signature.rindex(") -> ")]
    rows = []
    for part in re.split(r", (?=\w+: )", inside) if inside else []:
        found = re.fullmatch(r"(\w+): (.+?)(?: = (.+))?", part)
        if found is None:
            raise ValueError(signature)
        name, kind, default = found.groups()
        rows.append(
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if default is None else default,
                annotation=kind,
            )
        )
    return inspect.Signature(rows)


class Member:
    """A value of an enum: an int where one is asked for, equal to nothing but itself."""

    def __init__(self, kind: str, name: str, value: int) -> None:
        self.kind, self.name, self.value = kind, name, value

    def __int__(self) -> int:
        return self.value

    __index__ = __int__

    def __repr__(self) -> str:
        return f"<{self.kind}.{self.name}: {self.value}>"

    def __str__(self) -> str:
        return f"{self.kind}.{self.name}"


def enum_class(name: str, values: Mapping[str, int]) -> type[Member]:
    kind = type(name, (Member,), {})
    members = {key: kind(name, key, value) for key, value in values.items()}
    for key, member in members.items():
        setattr(kind, key, member)
    kind.__members__ = members  # type: ignore[attr-defined]
    return kind


class Recorded:
    """One version of the library."""

    def __init__(self, version: str, behaviour: Behaviour | None = None) -> None:
        self.behaviour: dict[str, Callable[..., Any]] = dict(behaviour or {})
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.rows = API[version]
        name, _, number = version.partition(" ")
        self.module: Any = ModuleType(name)
        self.module.__dict__["__version__"] = number
        self.kinds: dict[str, type] = {}
        for kind, row in sorted(self.rows.items(), key=lambda item: "base" in item[1]):
            made = self._class(kind, row) if kind not in self._enums() else None
            self.kinds[kind] = made or enum_class(kind, row["values"])
            setattr(self.module, kind, self.kinds[kind])
        unknown = [name for name in self.behaviour if not self._knows(name)]
        if unknown:
            raise AttributeError(f"{version} has no {', '.join(unknown)}")

    def new(self, kind: str, **values: Any) -> Any:
        """An object as the library hands it out, its properties as given."""
        made: Any = object.__new__(self.kinds[kind])
        made.__dict__.update(_made=True)
        row = self.rows[kind]
        for name in values:
            if kind != "IHostMemory" and name not in {
                **row.get("read", {}),
                **row.get("write", {}),
            }:
                raise AttributeError(f"{kind} has no {name}")
        made.__dict__["_values"] = values
        return made

    def memory(self, data: bytes) -> Any:
        """IHostMemory. It has the buffer protocol, of which a class can show __bytes__ alone."""
        return self.new("IHostMemory", data=data, nbytes=len(data))

    def called(self, name: str) -> list[dict[str, Any]]:
        return [arguments for call, arguments in self.calls if call == name]

    def fits(self, value: Any, kind: str) -> bool:
        """As pybind casts: None for a pointer, whatever has __index__ for an int."""
        if kind in self.kinds:
            known = self.kinds[kind]
            if kind == "Dims":
                return isinstance(value, known) or all(hasattr(v, "__index__") for v in value)
            if isinstance(value, known):
                return kind in self._enums() or "_made" in value.__dict__
            return value is None and kind not in self._enums()
        if kind == "Severity":
            return isinstance(value, Member) and value.kind == "Severity"
        if kind in ("int", "SupportsInt"):
            return hasattr(value, "__index__")
        if kind in ("Buffer", "buffer"):
            return isinstance(value, bytes | bytearray | memoryview)
        if kind in ("str", "bool"):
            return isinstance(value, str if kind == "str" else bool)
        if kind.startswith(("Sequence[", "List[")):
            inner = kind[kind.index("[") + 1 : -1]
            return isinstance(value, Sequence) and all(self.fits(v, inner) for v in value)
        return True

    def _enums(self) -> set[str]:
        return {kind for kind, row in self.rows.items() if set(row) == {"values"}}

    def _knows(self, name: str) -> bool:
        kind, _, member = name.partition(".")
        row = self.rows.get(kind, {})
        return any(member in row.get(part, {}) for part in ("calls", "read", "write"))

    def _bind(self, name: str, signatures: list[str], args: Any, keywords: Any) -> dict[str, Any]:
        for signature in map(parameters, signatures):
            try:
                bound = signature.bind(*args, **keywords)
            except TypeError:
                continue
            told = bound.arguments
            if all(self.fits(v, signature.parameters[k].annotation) for k, v in told.items()):
                return dict(told)
        raise TypeError(f"{name}(): incompatible function arguments: {signatures}")

    def _class(self, kind: str, row: dict[str, Any]) -> type:
        calls = row.get("calls", {})
        members: dict[str, Any] = {
            name: self._method(f"{kind}.{name}", told)
            for name, told in calls.items()
            if name != "__init__"
        }
        members["__init__"] = self._constructor(kind, calls.get("__init__"))
        for name in row.get("read", {}):
            members[name] = self._property(kind, name, None)
        for name, told in row.get("write", {}).items():
            members[name] = self._property(kind, name, told)
        if "values" in row:
            severity = enum_class("Severity", row["values"])
            members |= {"Severity": severity, **severity.__members__}  # type: ignore[attr-defined]
        if kind == "IHostMemory":
            members["__bytes__"] = lambda made: made.__dict__["_values"]["data"]
        bases = (self.kinds[row["base"]],) if "base" in row else ()
        made: Any = type(kind, bases, members)

        def strict(this: Any, name: str, value: Any) -> None:
            if type(this) is made and name not in row.get("write", {}):
                raise AttributeError(f"{kind} has no {name} that may be set")
            object.__setattr__(this, name, value)

        made.__setattr__ = strict
        return cast(type, made)

    def _constructor(self, kind: str, signatures: list[str] | None) -> Callable[..., None]:
        def made(this: Any, *args: Any, **keywords: Any) -> None:
            if signatures is None:
                raise TypeError(f"{kind}: No constructor defined!")
            told = self._bind(kind, signatures, args, keywords)
            self.calls.append((f"{kind}.__init__", told))
            this.__dict__.update(_made=True, _values={})

        return made

    def _method(self, name: str, signatures: list[str]) -> Callable[..., Any]:
        def call(this: Any, *args: Any, **keywords: Any) -> Any:
            told = self._bind(name, signatures, args, keywords)
            self.calls.append((name, told))
            if name not in self.behaviour:
                raise NotImplementedError(f"the test says nothing of {name}")
            return self.behaviour[name](this, **told)

        return call

    def _property(self, kind: str, name: str, told: str | None) -> property:
        full = f"{kind}.{name}"

        def read(this: Any) -> Any:
            values = this.__dict__["_values"]
            if name in values:
                return values[name]
            if full not in self.behaviour:
                raise NotImplementedError(f"the test says nothing of {full}")
            return self.behaviour[full](this)

        def write(this: Any, value: Any) -> None:
            if not self.fits(value, told or "object"):
                raise TypeError(f"{full} is a {told}, not {value!r}")
            self.calls.append((f"{full}=", {"value": value}))
            this.__dict__["_values"][name] = value

        return property(read, write if told else None)

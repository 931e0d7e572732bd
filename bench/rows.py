"""What every benchmark prints: one JSON document of rows, each our number beside a peer's or a limit."""

import importlib.metadata
import os
import platform
import ssl
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

LOWER_IS_BETTER = frozenset({"µs", "ms", "s", "core-s", "B/item", "MiB", "advantage", "points", "elements"})
HIGHER_IS_BETTER = frozenset({"MiB/s", "op/s"})
_SHOWN = ("veilsum", "numpy", "cryptography", "msgspec", "duckdb", "uvloop")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One number.

    Attributes:
        ours: veilsum's number, None if it could not be measured.
        peer: the peer's number from the same run, None if there is none or it could not be measured.
        ratio: how many times better ours is than the peer's, whichever way the unit counts.
        goal: the ratio to reach, or a limit in words.
        met: whether the goal is reached; None without a goal or without the numbers for it.
        note: what the reader must know to compare the two.
    """

    name: str
    ours: float | None
    peer: float | None = None
    peer_name: str | None = None
    unit: str
    ratio: float | None = None
    goal: float | str | None = None
    met: bool | None = None
    note: str = ""


def times_better(unit: str, ours: float, peer: float) -> float:
    """Return how many times better ours is: peer/ours where lower is better, else ours/peer.

    Raises:
        ValueError: it is not known which way the unit counts.
    """
    if unit in LOWER_IS_BETTER:
        return peer / ours
    if unit in HIGHER_IS_BETTER:
        return ours / peer
    raise ValueError(f"{unit!r} is in neither list of units")


def against(
    name: str,
    unit: str,
    ours: float | None,
    peer: float | None,
    peer_name: str,
    *,
    goal: float | None = None,
    note: str = "",
) -> Row:
    """Compare with a peer; ``goal`` is the ratio to reach."""
    ratio = None if ours is None or peer is None else times_better(unit, ours, peer)
    met = None if ratio is None or goal is None else ratio >= goal
    return Row(
        name=name,
        ours=ours,
        peer=peer,
        peer_name=peer_name,
        unit=unit,
        ratio=ratio,
        goal=goal,
        met=met,
        note=note,
    )


def within(
    name: str, unit: str, ours: float | None, peer: float | None, peer_name: str, *, margin: float
) -> Row:
    """Compare with a peer of which ours may be worse by an absolute margin (lower is better)."""
    row = against(name, unit, ours, peer, peer_name)
    met = None if ours is None or peer is None else ours - peer <= margin
    return msgspec.structs.replace(row, goal=f"≤ {margin:g} {unit} above the peer", met=met)


def at_most(
    name: str,
    unit: str,
    ours: float | None,
    other: float | None,
    other_name: str,
    *,
    times: float | None,
    note: str = "",
) -> Row:
    """Compare with another mode of our own that ours may exceed so many times (lower is better).

    Without ``times`` the two are only reported.
    """
    row = against(name, unit, ours, other, other_name, note=note)
    if times is None:
        return row
    met = None if ours is None or other is None else ours <= times * other
    return msgspec.structs.replace(row, goal=f"≤ {times:g} times the other", met=met)


def limited(name: str, unit: str, ours: float | None, limit: float | None, *, note: str = "") -> Row:
    """Compare with a limit: at most or, where higher is better, at least; None: only report the number."""
    if limit is None:
        return Row(name=name, ours=ours, unit=unit, note=note)
    lower = times_better(unit, 1, 2) > 1
    met = None if ours is None else (ours <= limit if lower else ours >= limit)
    goal = f"{'≤' if lower else '≥'} {limit:g} {unit}"
    return Row(name=name, ours=ours, unit=unit, goal=goal, met=met, note=note)


def document(bench: str, rows: Sequence[Row], versions: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the whole document as plain objects, numbers rounded to four significant digits."""
    body: dict[str, Any] = msgspec.to_builtins(
        {"bench": bench, "machine": machine(versions or {}), "rows": rows}
    )
    for row in body["rows"]:
        for key in ("ours", "peer", "ratio"):
            if row[key] is not None:
                row[key] = float(f"{row[key]:.4g}")
    return body


def emit(bench: str, rows: Sequence[Row], versions: Mapping[str, str] | None = None) -> None:
    """Print the document on standard output."""
    text = msgspec.json.format(msgspec.json.encode(document(bench, rows, versions)))
    sys.stdout.write(text.decode() + "\n")


def say(text: str) -> None:
    """Tell the person who waits; standard output is the document's alone."""
    print(text, file=sys.stderr, flush=True)


def machine(versions: Mapping[str, str]) -> dict[str, Any]:
    """Describe what the numbers were measured on, with ``versions`` of the peers."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION.split(" ")[1],
        "versions": {name: v for name in _SHOWN if (v := _version(name))} | dict(versions),
    }


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 -- a file of the kernel's, not a path of ours
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
    found = {key.strip(): value.strip() for key, value in facts.items()}
    flags = found.get("flags", "").split()
    wide = [flag for flag in ("avx2", "avx512f", "avx512ifma") if flag in flags]
    return " ".join([found.get("model name", platform.machine()), *wide])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

"""Fill the tables of ``measured.md`` from what the benchmarks printed: ``fill_measured.py FILE.json …``.

A benchmark that was run part by part has several files; its table then holds the rows of all of them.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "measured.md"
HEAD = ("what", "unit", "ours", "peer", "ratio", "goal", "met", "note")


def fill(page: str, document: Mapping[str, Any]) -> str:
    """Return the page with one benchmark's table replaced.

    Args:
        page: the text of ``measured.md``.
        document: what a benchmark printed: ``bench``, ``machine`` and ``rows``.

    Raises:
        ValueError: the page has no place for this benchmark.
    """
    name = document["bench"]
    place = re.compile(
        rf"(<!-- measured: {re.escape(name)} -->\n).*?(<!-- end: {re.escape(name)} -->)", re.DOTALL
    )
    text = f"{table(document['rows'])}\n\n{machine(document['machine'])}\n"
    filled, count = place.subn(lambda found: found[1] + text + found[2], page)
    if count != 1:
        raise ValueError(f"the page has {count} places for {name!r}")
    return filled


def merge(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one document of the parts of one benchmark, in their order.

    A row that comes again (same name, unit and peer) replaces the earlier one, at its place.

    Raises:
        ValueError: the parts were measured on different machines or with different versions.
    """
    rows: dict[tuple[str, ...], Mapping[str, Any]] = {}
    about: dict[str, Any] = {}
    versions: dict[str, str] = {}
    for document in documents:
        other = {key: value for key, value in document["machine"].items() if key != "versions"}
        differing = [key for key in about if about[key] != other[key]]
        # a part names the versions of its own peers only
        differing += [
            key for key, at in document["machine"]["versions"].items() if versions.get(key, at) != at
        ]
        if differing:
            raise ValueError(f"the parts of {document['bench']!r} differ in {', '.join(differing)}")
        about, versions = other, versions | document["machine"]["versions"]
        rows |= {(row["name"], row["unit"], row["peer_name"]): row for row in document["rows"]}
    machine = about | {"versions": versions}
    return {"bench": documents[0]["bench"], "machine": machine, "rows": list(rows.values())}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of a benchmark as a Markdown table."""
    lines: list[Sequence[str]] = [HEAD, ("---",) * len(HEAD)]
    for row in rows:
        peer = number(row["peer"]) + (f" ({row['peer_name']})" if row["peer_name"] else "")
        met = {True: "yes", False: "**no**", None: ""}[row["met"]]
        goal = f"{row['goal']:g} times" if isinstance(row["goal"], int | float) else row["goal"] or ""
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(
            (row["name"], row["unit"], number(row["ours"]), peer.strip(), ratio, goal, met, row["note"])
        )
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value: float | None) -> str:
    """Return a number as people read it; a dash where nothing could be measured."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def machine(about: Mapping[str, Any]) -> str:
    """Return one line about what the numbers were measured on."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"Measured on {about['cpu']}, {about['cores']} cores, {about['system']}, Python {about['python']}, "
        f"OpenSSL {about['openssl']}; {versions}."
    )


def main(files: Sequence[str]) -> None:
    """Fill the page from these files."""
    page = PAGE.read_text(encoding="utf-8")
    parts: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        document = json.loads(Path(file).read_text(encoding="utf-8"))
        parts.setdefault(document["bench"], []).append(document)
    for documents in parts.values():
        page = fill(page, merge(documents))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Parts of pages that are made from the code, so that they cannot drift from it.

A comment ``<!-- insert: NAME -->`` on a line of its own is replaced, while Sphinx reads the page, by what the
function NAME of `INSERTIONS` returns as Markdown.
"""

import contextlib
import datetime as dt
import inspect
import io
import os
import re
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer

from veilsum import events
from veilsum.cli import main
from veilsum.jobs import Job, Leak
from veilsum.net import control, link, messages
from veilsum.net.config import NetConfig
from veilsum.parties import PartyId, Role
from veilsum.protocols import hidden_psi

HERE = Path(__file__).parent
MARK = re.compile(r"^<!-- insert: ([a-z-]+) -->$", re.MULTILINE)


def insert(text: str) -> str:
    """Return a page with its marks replaced.

    Raises:
        KeyError: there is no such insertion.
    """
    return MARK.sub(lambda mark: INSERTIONS[mark[1]](), text)


def connect(app: Any) -> dict[str, Any]:
    """Let Sphinx replace the marks, and read such pages again at every build."""

    def replace(app: Any, page: str, source: list[str]) -> None:
        del app, page
        source[0] = insert(source[0])

    def outdated(app: Any, env: Any, *changes: set[str]) -> list[str]:
        del app, changes
        return [page for page in env.found_docs if MARK.search(Path(env.doc2path(page)).read_text())]

    app.connect("source-read", replace)
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True}


# -- leak tables


def alignment(members: Sequence[str], collector: str, *, share: bool) -> Job:
    """Return an alignment job."""
    parties = {hidden_psi.MEMBER: members, hidden_psi.COLLECTOR: (collector,)}
    return Job(
        kind=hidden_psi.KIND,
        purpose="an example",
        expires=dt.date(2100, 1, 1),
        parties={Role(role): tuple(PartyId(name) for name in names) for role, names in parties.items()},
        params={"share_matches": share},
    )


A, B, C = "insurer-a", "insurer-b", "insurer-c"
ALIGNMENTS: Mapping[str, Job] = {
    "Two members, one of them the collector, `share_matches = true`": alignment((A, B), A, share=True),
    "The same with `share_matches = false`": alignment((A, B), A, share=False),
    "Two members and a neutral collector": alignment((A, B), "referee", share=True),
    "Three members, one of them the collector": alignment((A, B, C), A, share=True),
}
"""The alignments that people ask for, in words."""


def leaks_of(job: Job) -> tuple[Leak, ...]:
    """Return the leak table of an alignment."""
    return hidden_psi.leaks(job, msgspec.convert(job.params, hidden_psi.Params))


def in_one_cell(leaks: Sequence[Leak]) -> str:
    """Return a leak table as one line, those who learn the same named together."""
    who: dict[str, list[str]] = {}
    for leak in leaks:
        who.setdefault(leak.what, []).append(leak.who)
    return "; ".join(f"{', '.join(names)}: {what}" for what, names in who.items())


def leak_tables() -> str:
    """Return one leak table per alignment that people ask for."""
    parts = []
    for title, job in ALIGNMENTS.items():
        rows = [[leak.who, leak.what] for leak in leaks_of(job)]
        parts.append(f"**{title}**\n\n{table(['who', 'will have learnt'], rows)}")
    return "\n\n".join(parts)


# -- the wire


def steps() -> str:
    """Return the table of messages that stands in the protocol's docstring."""
    return "\n".join(line for line in _doc(hidden_psi).splitlines() if line.startswith("|"))


def control_messages() -> str:
    """Return the control messages with their numbers, limits and fields."""
    return _messages(enumerate(control.CONTROL))


def protocol_messages() -> str:
    """Return the alignment's messages with their numbers, limits and fields."""
    return _messages(enumerate(hidden_psi.MESSAGES, start=control.FIRST_TYPE))


def frames() -> str:
    """Return what the module of frames says about them."""
    return _doc(link)


def payloads() -> str:
    """Return what the module of messages says about their bytes."""
    return _doc(messages)


def times_and_limits() -> str:
    """Return the numbers of the wire."""
    return _fields(NetConfig)


def params() -> str:
    """Return the parameters of an alignment."""
    return _fields(hidden_psi.Params)


def event_types() -> str:
    """Return the events and what they say."""
    base = events.Event.__struct_fields__
    rows = []
    for kind in typing.get_args(events.AnyEvent):
        own = [f"`{field}`" for field in kind.__struct_fields__ if field not in base]
        rows.append([f"`{kind.__name__}`", ", ".join(own), _first(kind)])
    return table(["event", "besides `party`, `at`, `run`", "says"], rows)


def _messages(numbered: Iterator[tuple[int, type[messages.Message]]]) -> str:
    rows = []
    for number, kind in numbered:
        wire = kind.wire
        who = " or ".join(wire.by) or "any"
        fields = [*wire.plain, *(f"{name}: {_shape(mark)}" for name, mark, _ in wire.buffers)]
        shown = ", ".join(f"`{field}`" for field in fields)
        rows.append([str(number), f"`{kind.__name__}`", who, _bytes(wire.limit), shown, _first(kind)])
    return table(["type", "message", "sent by", "limit", "fields", "meaning"], rows)


def _shape(mark: messages.Buffer) -> str:
    named = zip("nw", mark.shape, strict=False)
    sizes = ", ".join(letter if size is None else str(size) for letter, size in named)
    return f"({sizes}) {mark.dtype}"


def _bytes(size: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} B"


# -- the command line


def verbs(app: typer.Typer, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield every verb as its words."""
    for command in app.registered_commands:
        assert command.callback is not None
        yield (*before, command.name or command.callback.__name__.replace("_", "-"))
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from verbs(group.typer_instance, (*before, str(group.name)))


def command_line() -> str:
    """Return the help of every verb."""
    parts = []
    for words in sorted(verbs(main.build())):
        title = "veilsum " + " ".join(words)
        parts.append(f"## {title}\n\n```text\n{_help(words)}\n```")
    return "\n\n".join(parts)


def _help(words: Sequence[str]) -> str:
    out = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(out):
            main.build()([*words, "--help"], standalone_mode=False, prog_name="veilsum")
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return textwrap.dedent(out.getvalue()).strip()


# -- the pages themselves


def decisions() -> str:
    """Return a list of the decision records."""
    pages = sorted((HERE / "adr").glob("[0-9]*.md"))
    rows = []
    for page in pages:
        title = page.read_text().partition("\n")[0].removeprefix("# ")
        rows.append(f"- [{title}](adr/{page.name})")
    return "\n".join(rows)


# -- Markdown


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(_single(text).replace("|", "\\|").split())


def _fields(struct: type[msgspec.Struct]) -> str:
    """Return a table of a struct's fields with what its docstring says of each."""
    said = attributes(struct)
    rows = []
    for field in msgspec.structs.fields(struct):
        shown = "" if field.default is msgspec.NODEFAULT else f"`{field.default}`"
        if isinstance(field.default, bool):
            shown = shown.lower()
        rows.append([f"`{field.name}`", shown, said[field.name]])
    return table(["name", "default", "meaning"], rows)


def attributes(struct: type) -> dict[str, str]:
    """Return what a docstring says of every field under ``Attributes:``."""
    _, _, rest = inspect.cleandoc(struct.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    for part in re.split(r"\n(?=    \w)", rest.partition("\n\n")[0]):
        name, _, text = part.strip().partition(": ")
        found[name] = " ".join(text.split())
    return found


def _doc(module: object) -> str:
    return _single(inspect.cleandoc(str(module.__doc__)))


def _single(text: str) -> str:
    """Return the text with code in one pair of marks instead of two; fences stay."""
    return re.sub(r"(?<!`)``(?!`)", "`", text)


def _first(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0]


INSERTIONS: Mapping[str, Callable[[], str]] = {
    "leak-tables": leak_tables,
    "steps": steps,
    "control-messages": control_messages,
    "protocol-messages": protocol_messages,
    "frames": frames,
    "payloads": payloads,
    "times-and-limits": times_and_limits,
    "params": params,
    "events": event_types,
    "command-line": command_line,
    "decisions": decisions,
}
"""What a page can have inserted."""

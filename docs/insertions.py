"""Parts of pages that are made from the code, so that they cannot drift from it.

A comment ``<!-- insert: NAME -->`` on a line of its own is replaced, while Sphinx reads the page, by what the
function NAME of `INSERTIONS` returns as Markdown.
"""

import contextlib
import datetime as dt
import functools
import inspect
import io
import os
import re
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
import typer

from veilsum import events
from veilsum.cli import main
from veilsum.jobs import Job, Leak
from veilsum.mpc.gradients import Ranges
from veilsum.mpc.optimisers import Adam, Schedule, Sgd
from veilsum.mpc.training import Training
from veilsum.net import control, link, messages
from veilsum.net.config import NetConfig
from veilsum.node.kinds import kind_of, params_of
from veilsum.parties import PartyId, Role
from veilsum.protocols import dh_ring, hidden_psi, hidden_union, secure_learning

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


# -- the constructions of an alignment


class Construction(NamedTuple):
    """One way to align, as pages show it.

    Attributes:
        script: the protocol's module.
        examples: what people ask for, in words → a job that gives it.
    """

    script: ModuleType
    examples: Mapping[str, Job]


def job(parties: Mapping[str, Sequence[str]], **params: Any) -> Job:
    """Return an alignment job."""
    return Job(
        kind="hidden_psi",
        purpose="an example",
        expires=dt.date(2100, 1, 1),
        parties={Role(role): tuple(PartyId(name) for name in names) for role, names in parties.items()},
        params=params,
    )


A, B, C = "insurer-a", "insurer-b", "insurer-c"
PAIR = {"signer": (B,), "client": (A,)}
BLIND_RSA = Construction(
    hidden_psi,
    {
        "`hidden_one`": job(PAIR, mode="hidden_one"),
        "`hidden_one`, `reuse_key = true`": job(PAIR, mode="hidden_one", reuse_key=True),
        "`open`": job(PAIR, mode="open"),
        "`open`, `share_matches = true`": job(PAIR, mode="open", share_matches=True),
    },
)
UNION = Construction(hidden_union, {"`hidden_union`": job({"member": (A, B)}, mode="hidden_union")})
RING = Construction(
    dh_ring,
    {
        "Two members, one of them the collector, `share_matches = true`": job(
            {"member": (A, B), "collector": (A,)}, mode="open", share_matches=True
        ),
        "The same with `share_matches = false`": job(
            {"member": (A, B), "collector": (A,)}, mode="open", share_matches=False
        ),
        "Two members and a neutral collector": job(
            {"member": (A, B), "collector": ("referee",)}, mode="open", share_matches=True
        ),
        "Three members, one of them the collector": job(
            {"member": (A, B, C), "collector": (A,)}, mode="open", share_matches=True
        ),
    },
)
CONSTRUCTIONS: Mapping[str, Construction] = {"blind-rsa": BLIND_RSA, "union": UNION, "ring": RING}
"""All of them, by their names in marks."""


def learning_job(parties: Mapping[str, Sequence[str]], **params: Any) -> Job:
    """Return a job of secure learning."""
    asked = {"features": {"age": [0, 120]}} | params
    return msgspec.structs.replace(job(parties, **asked), kind=secure_learning.KIND)


HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")
_TOGETHER = {"owner": HOSPITALS, "computer": HOSPITALS}
_QUESTION = {"owner": ("hospital-b",), "modeller": ("hospital-a",), "computer": HOSPITALS}
LEARNING = Construction(
    secure_learning,
    {
        "Three hospitals train; metrics to all, the model to hospital-a": learning_job(
            _TOGETHER, target="ill", release={"metrics": list(HOSPITALS), "weights": ["hospital-a"]}
        ),
        "hospital-b asks the model of hospital-a": learning_job(
            _QUESTION,
            task="predict",
            model={"kind": "given", "digest": "5c42"},
            release={"predictions": ["hospital-b"]},
        ),
    },
)

_of_pair, _of_ring = list(BLIND_RSA.examples.values()), list(RING.examples.values())
_of_learning = list(LEARNING.examples.values())
QUESTIONS: Mapping[str, Job] = {
    "Line our customers up for a joint model; only one side may see whom we share": _of_pair[0],
    "The same, and neither side may see whom we share": UNION.examples["`hidden_union`"],
    "Which customers do we both have? One side is to learn it": _of_pair[2],
    "Which customers do we both have? Both are to learn it": _of_ring[0],
    "The same, compared by a neutral party": _of_ring[2],
    "Which customers do all of us (up to six) have?": _of_ring[3],
    "Train one model on the rows of all of us, and show nobody a row": _of_learning[0],
    "Ask another's model about my rows, and show neither": _of_learning[1],
}
"""The questions of the README, each with the job that answers it."""


def leaks_of(job: Job) -> tuple[Leak, ...]:
    """Return the leak table of a job, as `veilsum explain` finds it."""
    return kind_of(job).leaks(job, params_of(job))


def in_one_cell(leaks: Sequence[Leak]) -> str:
    """Return what a job leaks as one line, those who learn the same named together.

    Of an alignment it says nothing of models, which have jobs of their own.
    """
    aligning = any(leak.part == "alignment" for leak in leaks)
    who: dict[str, list[str]] = {}
    for leak in leaks:
        if leak.part == "alignment" or not aligning:
            who.setdefault(leak.what, []).append(leak.who)
    return "; ".join(f"{', '.join(names)}: {what}" for what, names in who.items())


def leak_tables(made: Construction) -> str:
    """Return one leak table per job that people ask for."""
    parts = []
    for title, example in made.examples.items():
        rows = [[leak.part, leak.who, leak.what] for leak in leaks_of(example)]
        parts.append(f"**{title}**\n\n{table(['part', 'who', 'will have learnt'], rows)}")
    return "\n\n".join(parts)


def steps(made: Construction) -> str:
    """Return the table of messages that stands in the protocol's docstring."""
    return "\n".join(line for line in _doc(made.script).splitlines() if line.startswith("|"))


def params(made: Construction) -> str:
    """Return the parameters of a construction."""
    return _fields(made.script.Params)


def training() -> str:
    """Return how a model is trained: the keys of training, of its schedule and of both optimisers."""
    titles = {"schedule": Schedule, "sgd": Sgd, "adam": Adam}
    more = (f"`{name}`:\n\n{_fields(struct)}" for name, struct in titles.items())
    return "\n\n".join([_fields(Training), *more])


def ranges() -> str:
    """Return the promises about a model's values."""
    return _fields(Ranges)


def protocol_messages(made: Construction) -> str:
    """Return a construction's messages with their numbers, limits and fields."""
    return _messages(enumerate(made.script.MESSAGES, start=control.FIRST_TYPE))


# -- the wire


def control_messages() -> str:
    """Return the control messages with their numbers, limits and fields."""
    return _messages(enumerate(control.CONTROL))


def frames() -> str:
    """Return what the module of frames says about them."""
    return _doc(link)


def payloads() -> str:
    """Return what the module of messages says about their bytes."""
    return _doc(messages)


def times_and_limits() -> str:
    """Return the numbers of the wire."""
    return _fields(NetConfig)


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
        if isinstance(field.default, msgspec.Struct):  # a table of its own
            tag = type(field.default).__struct_config__.tag
            shown = f"`{tag}`" if tag else ""
        if field.default == "":
            shown = ""
        rows.append([f"`{field.name}`", shown, said.get(field.name) or SAID[field.name]])
    return table(["name", "default", "meaning"], rows)


SAID: Mapping[str, str] = {
    "engine": "`rss3`: three computing parties, semi-honest; `rss4`: four, malicious with abort",
    "model": "what is trained or asked: `mlp`, `convnet` or `given`, each with keys of its own",
    "training": "how it is trained, below",
    "ranges": "what no value of the model exceeds, below",
    "release": "who gets what: `weights`, `metrics`, `predictions`, each a list of parties",
    "link": "`round_trip` (seconds) and `bandwidth` (bytes a second): they decide how deep circuits are",
    "max_rows": "the most rows that an owner brings",
    "optimiser": "`sgd` or `adam`, below",
    "schedule": "how the rate changes, below",
    "epochs": "how often all rows are learnt from",
    "rate": "of learning",
    "momentum": "the part of the last step that goes on",
    "decay": "of weights, in each step",
    "beta1": "of the first moment",
    "beta2": "of the second moment",
    "eps": "added to the root of the second moment",
    "clip": "the largest Euclidean norm of the gradient of a batch; 0 for none",
    "every": "epochs between two changes (`step`)",
    "factor": "of each change (`step`)",
}
"""What tables say of fields that explain themselves in code, or have tables of their own."""


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
    "control-messages": control_messages,
    "frames": frames,
    "payloads": payloads,
    "times-and-limits": times_and_limits,
    "events": event_types,
    "command-line": command_line,
    "decisions": decisions,
    "training": training,
    "ranges": ranges,
} | {
    f"{what}-{name}": functools.partial(make, made)
    for what, make in {
        "steps": steps,
        "params": params,
        "leaks": leak_tables,
        "messages": protocol_messages,
    }.items()
    for name, made in {**CONSTRUCTIONS, "learning": LEARNING}.items()
}
"""What a page can have inserted."""

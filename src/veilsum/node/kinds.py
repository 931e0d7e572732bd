"""The kinds of jobs: what each asks for, says beforehand, plays, and leaves behind."""

import difflib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from veilsum.arith import cpu
from veilsum.crypto import dh
from veilsum.data.alignment import Alignment
from veilsum.errors import ConfigError
from veilsum.jobs import Job, Leak
from veilsum.net.messages import Message
from veilsum.net.session import Session
from veilsum.node import config
from veilsum.node.summary import Fact
from veilsum.parties import PartyId, RunId
from veilsum.protocols import hidden_psi
from veilsum.store.files import Scratch, write_whole
from veilsum.store.results import write_alignment
from veilsum.store.sources import Source


class Inputs(NamedTuple):
    """What one party brings to a run, and where its results go."""

    source: Source | None
    scratch: Scratch
    folder: Path


class Finished(NamedTuple):
    """What one party has afterwards; ``files`` are names in its result folder."""

    facts: tuple[Fact, ...]
    leaks: tuple[Leak, ...]
    warnings: tuple[str, ...]
    files: dict[str, str]
    algorithms: dict[str, Any]


class Kind(NamedTuple):
    """One kind of job.

    Attributes:
        name: as ``kind`` in the job file.
        prefix: of its artefacts' ids.
        params: the type of ``[params]``.
        messages: the protocol's closed set of message types.
        adversary: whom it withstands, in a sentence.
        mode: says the choices that decide what leaks, in the user's words.
        bringers: the parties that bring data; raises ConfigError where the job does not fit the protocol.
        leaks: who will have learnt what.
        amounts: what a run costs in the exposure ledger, given the number of own rows.
        play: runs all of a party's roles and writes its results.
    """

    name: str
    prefix: str
    params: type[msgspec.Struct]
    messages: tuple[type[Message], ...]
    adversary: str
    mode: Callable[[Any], str]
    bringers: Callable[[Job, Any], tuple[PartyId, ...]]
    leaks: Callable[[Job, Any], tuple[Leak, ...]]
    amounts: Callable[[int], dict[str, float]]
    play: Callable[[Session, Any, Inputs], Awaitable[Finished]]


def kind_of(job: Job) -> Kind:
    """Return the kind of a job.

    Raises:
        ConfigError: no such kind is built; names the nearest.
    """
    if job.kind in KINDS:
        return KINDS[job.kind]
    near = difflib.get_close_matches(job.kind, KINDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"built are: {', '.join(KINDS)}"
    raise ConfigError(f"there is no kind of job {job.kind!r}", remedy=hint)


def params_of(job: Job) -> Any:
    """Return the job's parameters in their kind's type.

    Raises:
        ConfigError: an unknown key (names the nearest), a wrong type or a value that is not offered.
    """
    kind = kind_of(job)
    known = kind.params.__struct_fields__
    for key in job.params:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"
            raise ConfigError(f"[params] of a {kind.name} job has no key {key!r}", remedy=hint)
    try:
        return msgspec.convert(job.params, kind.params)
    except msgspec.ValidationError as error:
        key = str(error).partition("`$.")[2].rstrip("`") or "params"
        raise ConfigError(
            f"[params] {key}: {error}", remedy=f"see `veilsum explain` or the page on {kind.name}"
        ) from None


class _SourceIds:
    """A data set as the alignment sees it."""

    def __init__(self, source: Source) -> None:
        self.count, self.form = source.check().ids, source.schema.form
        self.batches = source.batches


async def _play_alignment(s: Session, params: hidden_psi.Params, inputs: Inputs) -> Finished:
    source = inputs.source
    ids = None if source is None else await s.compute(_SourceIds, source)
    path = cpu.best("x25519", config.cpu_cap())
    got = await hidden_psi.align(s, params, ids, inputs.scratch, path=path)
    facts = [Fact(f"ids of {name}", size, "ids") for name, size in got.sizes.items()]
    warnings: list[str] = []
    files: dict[str, str] = {}
    if got.cells is not None:
        facts += [Fact(f"ids held by exactly {' + '.join(who)}", n, "ids") for who, n in got.cells.items()]
    if source is not None:
        report = source.check()
        facts += [
            Fact("own rows", report.rows, "rows"),
            Fact("own rows without id", report.nulls, "rows"),
            Fact("own malformed ids", report.malformed, "rows"),
            Fact("own repeated ids", report.duplicates, "rows"),
        ]
        warnings += report.warnings
    if source is not None and got.matches is not None and got.matched is not None:
        facts.append(Fact("matches", got.matched, "ids"))
        if not got.matched:
            declared = source.schema.describe()
            warnings.append(
                f"no id matched: probably the members write their ids differently; declared is {declared}"
            )
        files = await s.compute(_write_alignment, s, params, source, got, inputs.folder)
    algorithms = {
        "suite": dh.SUITE,
        "path": path,
        "tag_bits": 8 * hidden_psi.tag_width(got.sizes),
        "batch": params.batch,
    }
    leaks = hidden_psi.leaks(s.job, params)
    return Finished(tuple(facts), leaks, tuple(warnings), files, algorithms)


def _write_alignment(
    s: Session, params: hidden_psi.Params, source: Source, got: hidden_psi.Matched, folder: Path
) -> dict[str, str]:
    """Write the artefact: its description, the rows' places, and the rows themselves."""
    assert got.matches is not None
    assert got.matched is not None
    described = Alignment(
        artefact=artefact_id("align", s.run),
        kind=hidden_psi.KIND,
        mode=params.mode,
        parties=tuple(got.sizes),
        ids=source.schema.form,
        rows=got.matched,
    )
    written = write_alignment(source, hidden_psi.pairs(s.journal, got.matches), folder)
    write_whole(folder / "alignment.json", msgspec.json.format(msgspec.json.encode(described)))
    names = ("places of own rows", "own matched rows", "own matched rows (CSV)")
    files = {name: path.name for name, path in zip(names, written, strict=True)}
    return files | {"description": "alignment.json"}


def artefact_id(prefix: str, run: RunId) -> str:
    """Return the id of a run's artefact, the same at every party."""
    return f"{prefix}-{run[:8]}"


KINDS: dict[str, Kind] = {
    hidden_psi.KIND: Kind(
        name=hidden_psi.KIND,
        prefix="align",
        params=hidden_psi.Params,
        messages=hidden_psi.MESSAGES,
        adversary=hidden_psi.ADVERSARY,
        mode=lambda params: f"{params.mode}, {params.suite}",
        bringers=lambda job, params: hidden_psi.Ring.of(job, params).members,
        leaks=hidden_psi.leaks,
        amounts=lambda rows: {"runs": 1, "rows": rows},
        play=_play_alignment,
    )
}
"""Every kind of job by its name."""

"""The kind ``hidden_psi``: the constructions of an alignment, chosen by mode and roles, and what they leave.

| mode | roles | script |
|---|---|---|
| ``hidden_one`` | signer, client | `veilsum.protocols.hidden_psi`, blind RSA and a random map |
| ``hidden_union`` | member (two) | `veilsum.protocols.hidden_union`, Private-ID |
| ``open`` | signer, client | `veilsum.protocols.hidden_psi`, blind RSA |
| ``open`` | member (two to six), collector | `veilsum.protocols.dh_ring`, Diffie-Hellman |
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from veilsum.arith import cpu
from veilsum.crypto import blind_rsa, dh
from veilsum.data.alignment import Alignment, Places
from veilsum.errors import ConfigError
from veilsum.jobs import Job
from veilsum.net.session import Session
from veilsum.node import config
from veilsum.node.config import PartyConfig
from veilsum.node.datasets import data_set, open_data_set
from veilsum.node.kind import Amounts, Finished, Inputs, Kind, artefact_id
from veilsum.node.summary import Fact
from veilsum.parties import PartyId
from veilsum.protocols import dh_ring, hidden_psi, hidden_union
from veilsum.store.files import write_whole
from veilsum.store.results import write_alignment
from veilsum.store.sources import Source

KIND: Final = hidden_psi.KIND
PREFIX: Final = "align"
MODES: Final = ("hidden_one", "hidden_union", "open")


def construction(job: Job) -> Kind:
    """Return the construction that a job's mode and roles ask for.

    Raises:
        ConfigError: there is no such mode.
    """
    ring = bool({dh_ring.MEMBER, dh_ring.COLLECTOR} & set(job.parties))
    mode = job.params.get("mode", "open" if ring else "hidden_one")
    if mode not in MODES:
        raise ConfigError(
            f"[params] mode: there is no mode {mode!r}", remedy=f"built are: {', '.join(MODES)}"
        )
    if mode == "hidden_union":
        return UNION
    return RING if mode == "open" and ring else BLIND_RSA


class Ids(NamedTuple):
    """A data set's ids, as what a party brings to an alignment."""

    name: str
    source: Source

    def check(self) -> None:
        """Read all ids once.

        Raises:
            DataError: they cannot enter a job.
        """
        self.source.check()

    def amounts(self) -> Amounts:
        """Return what a run may reveal: that it ran, and on how many ids."""
        return {self.name: {"runs": 1, "rows": self.source.check().ids}}

    def fingerprints(self, salt: bytes) -> dict[str, bytes]:
        """Return the fingerprint of the source under its name."""
        return {self.name: self.source.fingerprint(salt)}

    def close(self) -> None:
        """Close the source."""
        self.source.close()


def open_ids(party: PartyConfig, job: Job, params: Any, memory_mb: int) -> Ids | None:
    """Open the ids that a party brings, if it does.

    Raises:
        ConfigError, DataError: as `open_data_set`; or the job does not say which data set.
    """
    if party.name not in construction(job).bringers(job, params):
        return None
    name = data_set(job, party.name)
    return Ids(name, open_data_set(party, name, memory_mb=memory_mb))


class _SourceIds:
    """A data set as the alignment sees it."""

    def __init__(self, source: Source) -> None:
        self.count, self.form = source.check().ids, source.schema.form
        self.batches = source.batches


class _Lines(NamedTuple):
    """An alignment at one party, to be written.

    Attributes:
        rows: places of the common order.
        places: the lines.
        held: name of the files with the own rows that stand in the common order.
    """

    rows: int
    places: Iterator[Places]
    held: str
    weighted: bool = False


async def _play_blind_rsa(s: Session, params: hidden_psi.Params, inputs: Inputs) -> Finished:
    source, pair = _source(inputs), hidden_psi.Pair.of(s.job)
    keys = inputs.signing(pair.client) if inputs.signing is not None and s.me == pair.signer else None
    path = cpu.best("modexp", config.cpu_cap())
    ids = await s.compute(_SourceIds, source)
    got = await hidden_psi.align(s, params, ids, inputs.scratch, keys, least=inputs.least, path=path)
    facts = [*_sizes(got.sizes), *_own_rows(source)]
    warnings: tuple[str, ...] = ()
    if got.matched is not None:
        facts.append(Fact("matches", got.matched, "ids"))
        warnings = _no_match(source, got.matched)
    lines = None
    if got.rows is not None:
        client = s.me == pair.client
        hidden = params.mode == "hidden_one"
        places = hidden_psi.places(s.journal, params, got, client=client)
        if hidden:
            facts.append(Fact("places in the common order", got.rows, "ids"))
        lines = _Lines(got.rows, places, "aligned" if hidden and not client else "matched", hidden and client)
    algorithms = {
        "suite": blind_rsa.SUITE,
        "key_bits": params.key_bits,
        "primes": params.primes,
        "key": got.key.hex(),
        "path": path,
        "tag_bits": 8 * hidden_psi.tag_width(got.sizes),
        "batch": params.batch,
    }
    return await _finish(s, params, inputs, got.sizes, facts, warnings, lines, algorithms)


async def _play_ring(s: Session, params: dh_ring.Params, inputs: Inputs) -> Finished:
    source: Source | None = inputs.brought.source if inputs.brought is not None else None
    ids = None if source is None else await s.compute(_SourceIds, source)
    path = cpu.best("x25519", config.cpu_cap())
    got = await dh_ring.align(s, params, ids, inputs.scratch, least=inputs.least, path=path)
    facts = _sizes(got.sizes)
    if got.cells is not None:
        facts += [Fact(f"ids held by exactly {' + '.join(who)}", n, "ids") for who, n in got.cells.items()]
    warnings: tuple[str, ...] = ()
    lines = None
    if source is not None:
        facts += _own_rows(source)
    if source is not None and got.matches is not None and got.matched is not None:
        facts.append(Fact("matches", got.matched, "ids"))
        warnings = _no_match(source, got.matched)
        lines = _Lines(got.matched, dh_ring.places(s.journal, got), "matched")
    algorithms = {
        "suite": dh.SUITE,
        "path": path,
        "tag_bits": 8 * dh_ring.tag_width(got.sizes),
        "batch": params.batch,
    }
    return await _finish(s, params, inputs, got.sizes, facts, warnings, lines, algorithms)


async def _play_union(s: Session, params: hidden_union.Params, inputs: Inputs) -> Finished:
    source = _source(inputs)
    path = cpu.best("x25519", config.cpu_cap())
    ids = await s.compute(_SourceIds, source)
    got = await hidden_union.align(s, params, ids, inputs.scratch, least=inputs.least, path=path)
    facts = [
        *_sizes(got.sizes),
        *_own_rows(source),
        Fact("ids in common", got.common, "ids"),
        Fact("places in the common order", got.rows, "ids"),
    ]
    lines = _Lines(got.rows, hidden_union.places(s.journal, got), "aligned")
    algorithms = {"suite": dh.SUITE, "path": path, "batch": params.batch}
    return await _finish(
        s, params, inputs, got.sizes, facts, _no_match(source, got.common), lines, algorithms
    )


def _source(inputs: Inputs) -> Source:
    assert isinstance(inputs.brought, Ids)  # both parties of a pair bring ids
    return inputs.brought.source


def _sizes(sizes: dict[PartyId, int]) -> list[Fact]:
    return [Fact(f"ids of {name}", size, "ids") for name, size in sizes.items()]


def _own_rows(source: Source) -> list[Fact]:
    report = source.check()
    return [
        Fact("own rows", report.rows, "rows"),
        Fact("own rows without id", report.nulls, "rows"),
        Fact("own malformed ids", report.malformed, "rows"),
        Fact("own repeated ids", report.duplicates, "rows"),
    ]


def _no_match(source: Source, matched: int) -> tuple[str, ...]:
    if matched:
        return ()
    declared = source.schema.describe()
    return (f"no id matched: probably the parties write their ids differently; declared is {declared}",)


async def _finish(
    s: Session,
    params: Any,
    inputs: Inputs,
    sizes: dict[PartyId, int],
    facts: list[Fact],
    warnings: tuple[str, ...],
    lines: _Lines | None,
    algorithms: dict[str, Any],
) -> Finished:
    files: dict[str, str] = {}
    own: tuple[str, ...] = ()
    if isinstance(inputs.brought, Ids):
        source = inputs.brought.source
        own = tuple(source.check().warnings)
        if lines is not None:
            files = await s.compute(_write, s, params, source, sizes, lines, inputs.folder)
    leaks = construction(s.job).leaks(s.job, params)
    return Finished(tuple(facts), leaks, own + warnings, files, algorithms)


def _write(
    s: Session, params: Any, source: Source, sizes: dict[PartyId, int], lines: _Lines, folder: Path
) -> dict[str, str]:
    """Write the artefact: its description, the rows' places, and the rows themselves."""
    described = Alignment(
        artefact=artefact_id(PREFIX, s.run),
        kind=KIND,
        mode=params.mode,
        parties=tuple(sizes),
        ids=source.schema.form,
        rows=lines.rows,
        weighted=lines.weighted,
    )
    written = write_alignment(source, lines.places, folder, held=lines.held)
    write_whole(folder / "alignment.json", msgspec.json.format(msgspec.json.encode(described)))
    names = ("places of own rows", f"own {lines.held} rows", f"own {lines.held} rows (CSV)")
    files = {name: path.name for name, path in zip(names, written, strict=True)}
    return files | {"description": "alignment.json"}


BLIND_RSA: Final = Kind(
    name=KIND,
    prefix=PREFIX,
    params=hidden_psi.Params,
    messages=hidden_psi.MESSAGES,
    adversary=hidden_psi.ADVERSARY,
    mode=lambda params: f"{params.mode}, blind RSA-{params.key_bits}",
    bringers=lambda job, params: tuple(hidden_psi.Pair.of(job)),  # noqa: ARG005 -- another kind's depend on them
    leaks=hidden_psi.leaks,
    open=open_ids,
    play=_play_blind_rsa,
)
RING: Final = Kind(
    name=KIND,
    prefix=PREFIX,
    params=dh_ring.Params,
    messages=dh_ring.MESSAGES,
    adversary=dh_ring.ADVERSARY,
    mode=lambda params: f"{params.mode}, {params.suite}",
    bringers=lambda job, params: dh_ring.Ring.of(job, params).members,
    leaks=dh_ring.leaks,
    open=open_ids,
    play=_play_ring,
)
UNION: Final = Kind(
    name=KIND,
    prefix=PREFIX,
    params=hidden_union.Params,
    messages=hidden_union.MESSAGES,
    adversary=hidden_union.ADVERSARY,
    mode=lambda params: f"{params.mode}, {params.suite}",
    bringers=lambda job, params: hidden_union.members(job),  # noqa: ARG005 -- another kind's depend on them
    leaks=hidden_union.leaks,
    open=open_ids,
    play=_play_union,
)

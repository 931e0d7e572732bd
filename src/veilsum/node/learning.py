"""The kind ``secure_learning``: what a party brings to it, and what it leaves.

| ``engine`` | computing parties | adversary |
|---|---|---|
| ``rss3`` | 3 | semi-honest, one of them |
| ``rss4`` | 4 | malicious with abort, one of them |
"""

import hashlib
import hmac
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from veilsum.arith import cpu
from veilsum.data import features
from veilsum.errors import ConfigError
from veilsum.jobs import Job
from veilsum.learn.architectures import Given, check_agreed
from veilsum.learn.graph import Graph
from veilsum.learn.model import Model
from veilsum.mpc import cost, layers
from veilsum.mpc.engines import ENGINES
from veilsum.net.session import Session
from veilsum.node import architecture, config, learnt
from veilsum.node.config import PartyConfig
from veilsum.node.datasets import MODEL, data_set, model_file, open_columns
from veilsum.node.kind import Amounts, Finished, Inputs, Kind
from veilsum.parties import Federation, PartyId
from veilsum.protocols import secure_learning
from veilsum.protocols.secure_learning import Cast, Own, Params, Plan
from veilsum.store.features import Features

KIND: Final = secure_learning.KIND
PREFIX: Final = "model"
_TRIED: Final = 2
"""Rows of each owner with which a model is tried out before a run."""


def construction(job: Job) -> Kind:
    """Return the construction that a job's engine asks for.

    Raises:
        ConfigError: there is no such engine.
    """
    engine = job.params.get("engine", Params(features={}).engine)
    if engine not in KINDS:
        raise ConfigError(
            f"[params] engine: there is no engine {engine!r}", remedy=f"built are: {', '.join(KINDS)}"
        )
    return KINDS[str(engine)]


# -- what a party brings


class Holdings:
    """A party's rows, as an owner, and its model, as the modeller.

    Args:
        me: this party.
        job: of all parties.
        params: of the job.
        rows: name of the data set, and the data set.
        model: name of the model, and its file.
        most: the most rows that this party lets into a job.

    Attributes:
        columns: what `check` has read of the rows.
        model: what it has read of the model.
    """

    def __init__(
        self,
        me: PartyId,
        job: Job,
        params: Params,
        rows: tuple[str, Features] | None,
        model: tuple[str, Path] | None,
        most: int,
    ) -> None:
        self.me, self.job, self.params, self.most = me, job, params, most
        self._rows, self._file = rows, model
        self.columns: dict[str, features.Floats] | None = None
        self.model: Model | None = None

    @property
    def account(self) -> str:
        """The name under which the exposure ledger knows the model."""
        return "" if self._file is None else f"model {self._file[0]}"

    def check(self) -> None:
        """Read everything, and find whatever the protocol would refuse.

        Raises:
            DataError: a column, a value or a weight does not fit the job.
            BudgetExceeded: there are more rows than this party lets into a job.
            ConfigError: the model does not fit the job, or shares cannot compute it.
            JobMismatch: it is another model than the job's.
        """
        if self._rows is not None:
            self.columns = self._rows[1].read(columns_at(self.params, self.me), most=self.most)
            secure_learning.prepare(self.params, self.columns, self.me)
        if self._file is not None:
            assert isinstance(self.params.model, Given)
            model = Model.load(self._file[1])
            check_agreed("model", self.me, model.graph.digest().hex(), self.params.model.digest)
            try_out(self.job, self.params, model.graph)
            secure_learning.weights_of(Plan.of(self.params, {self.me: _TRIED}, model.graph).work, model)
            if self.params.model.public:
                check_agreed(
                    "public weights", self.me, architecture.weights_digest(model), self.params.model.public
                )
            self.model = model
        elif not isinstance(self.params.model, Given):
            try_out(self.job, self.params, secure_learning.graph_of(self.params))

    def amounts(self) -> Amounts:
        """Return what a run may reveal: rows that are learnt from, answers that the model may give."""
        found: dict[str, Mapping[str, float]] = {}
        if self._rows is not None and self.columns is not None:
            found[self._rows[0]] = {"runs": 1, "rows": len(next(iter(self.columns.values())))}
        if self._file is not None:
            # how many rows come is known only later; the ledger may overstate meanwhile
            asked = self.params.max_rows if self.params.task == "predict" else 0
            found[self.account] = {"runs": 1, "queries": asked}
        return found

    def fingerprints(self, salt: bytes) -> dict[str, bytes]:
        """Return the fingerprints of the source and of the model's file."""
        found = {}
        if self._rows is not None:
            found[self._rows[0]] = self._rows[1].fingerprint(salt)
        if self._file is not None:
            with self._file[1].open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
            found[self.account] = hmac.digest(salt, b"model" + content, "sha256")
        return found

    def close(self) -> None:
        """Close the source."""
        if self._rows is not None:
            self._rows[1].close()


def bring(party: PartyConfig, job: Job, params: Params, memory_mb: int) -> Holdings:
    """Open a party's rows and find its model, as its roles ask for.

    Raises:
        ConfigError: the job does not say which, or this party has none of that name.
        DataError: the content is not what its name says.
    """
    cast = Cast.of(job, params)
    model = rows = None
    if party.name == cast.modeller:
        model = (model_name(job, party.name), model_file(party, model_name(job, party.name)))
    if party.name in cast.owners:
        name = data_set(job, party.name)
        rows = (name, open_columns(party, name, memory_mb=memory_mb))
    return Holdings(party.name, job, params, rows, model, party.floor.max_rows)


def model_name(job: Job, modeller: PartyId) -> str:
    """Return the name of the model that the modeller brings.

    Raises:
        ConfigError: the job names none.
    """
    if MODEL not in job.inputs:
        raise ConfigError(
            f"{modeller} brings the model, and [inputs] does not say which",
            remedy='add model = "NAME" to [inputs] of the job; NAME as under [models] of its party.toml',
        )
    return job.inputs[MODEL]


def columns_at(params: Params, me: PartyId) -> list[str]:
    """Return the names of the columns that an owner reads."""
    if params.split == "rows":
        return [*features.expanded(params.features), *([params.target] if params.target else [])]
    held = params.holds[me]
    ranges = {key: params.features[key] for key in held if key != params.target}
    return [
        *(features.expanded(ranges) if ranges else ()),
        *([params.target] if params.target in held else ()),
    ]


def try_out(job: Job, params: Params, graph: Graph) -> None:
    """Try a model out on two rows, with nobody: what shares cannot compute is found before it matters.

    Raises:
        ConfigError: an operation is not built, or a range is unknown or too large; names its place.
    """
    for node in graph.nodes:
        layers.check(node)
    training = msgspec.structs.replace(params.training, epochs=1)
    small = msgspec.structs.replace(params, training=training, holdout=0.0)
    secure_learning.forecast(job, small, dict.fromkeys(Cast.of(job, params).owners, _TRIED), graph)


# -- what `explain` says


def about(job: Job, params: Params, party: PartyConfig, rows: int) -> tuple[tuple[str, str], ...]:
    """Return who computes and under which assumption, the model, and what the job will cost."""
    cast = Cast.of(job, params)
    lines = [("computing parties", ", ".join(cast.computers)), ("assumption", assumption(cast.computers))]
    graph = graph_at(job, params, party)
    if graph is None:
        assert isinstance(params.model, Given)
        return (*lines, ("model", f"{cast.modeller}'s, with the digest {params.model.digest}"))
    lines += [("model", text) for text in architecture.lines(graph)]
    found = secure_learning.forecast(job, params, dict.fromkeys(cast.owners, rows), graph)
    words = f"{rows:,} rows" + (" of each owner" if params.split == "rows" and len(cast.owners) > 1 else "")
    lines += [(f"cost with {words}", text) for text in in_words(found)]
    return tuple(lines)


def assumption(computers: Sequence[str]) -> str:
    """Return the assumption on which everything rests, in one sentence."""
    return (
        f"no two of {', '.join(computers)} work together: any two of them that do can read all rows and "
        "all weights"
    )


def cautions(job: Job, params: Params, federation: Federation) -> tuple[str, ...]:
    """Return what makes it likely that two computing parties are in one hand."""
    hosts: dict[str, list[str]] = {}
    for name in Cast.of(job, params).computers:
        address = federation.members[name].address
        host = config.split_address(address)[0] if address else ""
        hosts.setdefault(host, []).append(name)
    found = [
        f"{' and '.join(names)} compute at one address ({host}): who controls it reads all rows and weights"
        for host, names in hosts.items()
        if host and len(names) > 1
    ]
    for (one, first), (other, second) in itertools.combinations(hosts.items(), 2):
        if _domain(one) and _domain(one) == _domain(other):
            found.append(
                f"{first[0]} and {second[0]} compute under one domain ({_domain(one)}): "
                "make sure that nobody controls both"
            )
    return tuple(found)


def _domain(host: str) -> str:
    """Return the last two names of a host, "" for numbers and short names."""
    names = host.split(".")
    return ".".join(names[-2:]) if len(names) > 2 and names[-1].isalpha() else ""


def graph_at(job: Job, params: Params, party: PartyConfig) -> Graph | None:
    """Return the model's graph as this party knows it before the run."""
    if not isinstance(params.model, Given):
        return secure_learning.graph_of(params)
    cast = Cast.of(job, params)
    if cast.modeller != party.name:
        return None
    return Model.load(model_file(party, model_name(job, party.name))).graph


def in_words(found: cost.Estimate) -> tuple[str, ...]:
    """Return the lines of a cost report."""
    link, most = found.link, max(found.sent)
    limits = f"{1e3 * link.round_trip:g} ms a round and {link.bandwidth / 1e6:g} MB/s"
    return (
        f"{found.rounds:,} rounds; a computing party sends {most:,} bytes, all of them {sum(found.sent):,}",
        f"{found.memory / 2**20:,.0f} MiB of memory for numbers at a computing party",
        f"{found.seconds:,.1f} s: {found.computing:,.1f} s of computing, and params.link ({limits})",
    )


# -- the run


async def play(s: Session, params: Params, inputs: Inputs) -> Finished:
    """Play this party's roles and write what it got."""
    own: Holdings = inputs.brought
    got = await secure_learning.learn(s, params, Own(own.columns, own.model), least=inputs.least)
    cast = Cast.of(s.job, params)
    files = await s.compute(learnt.write, got, params, inputs.folder)
    spent: dict[str, dict[str, float]] = {}
    if own.model is not None:
        asked = sum(got.rows.values()) if params.task == "predict" else 0
        spent[own.account] = {"runs": 1, "queries": asked}
    return Finished(
        learnt.facts(got, params, cast),
        secure_learning.leaks(s.job, params),
        learnt.warnings(got, params),
        files,
        learnt.algorithms(got, params) | {"kernels": cpu.best("ring", config.cpu_cap())},
        learnt.charts(got, params),
        spent,
    )


def mode(params: Params) -> str:
    """Say the choices that decide what leaks."""
    return f"{params.task} on {params.engine}, {architecture.name(params)}"


def _kind(engine: str) -> Kind:
    return Kind(
        name=KIND,
        prefix=PREFIX,
        params=Params,
        messages=secure_learning.MESSAGES,
        adversary=ENGINES[engine].adversary,
        mode=mode,
        bringers=lambda job, params: Cast.of(job, params).owners,
        leaks=secure_learning.leaks,
        open=bring,
        play=play,
        about=about,
        cautions=cautions,
    )


KINDS: Final[Mapping[str, Kind]] = MappingProxyType({name: _kind(name) for name in ENGINES})
"""Engine → the kind on it."""

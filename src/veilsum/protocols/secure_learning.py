"""Training and queries of neural networks on secret shares (secure multi-party computation).

*Owners* hold rows (or columns of the same rows); a *modeller*, if there is one, holds a model; *computers*,
three or four, compute on shares that say nothing to any one of them; *receivers*, whom the job names under
``release``, get the weights, the metrics or the predictions. A party may play several roles.

| step | who | message |
|---|---|---|
| 1 | owner → everybody | `Rows(how many)` |
| 2 | modeller → everybody | `Architecture(the model's graph, without weights)` |
| 2 | modeller → computer | `Published(weights in clear, where the job says that they are public)` |
| 3 | owner, modeller → computer | `Dealt(shares of its numbers)` |
| 4 | computer → computer | `Heard(hashes of the components it holds)` |
| 5 | computer ↔ computer | rounds of the engine on a lane: keys, then epochs or batches |
| 5 | computer → others | `EpochDone(how many)` |
| 6 | computer → receiver | `Released(its components of a result)` |

Every epoch ends with a check of the engine and a checkpoint: each computer keeps its shares of the weights,
so that a run that was ended goes on from the last epoch that all of them have.

Adversary: of the engine. ``rss3``: semi-honest, one of three computers; ``rss4``: malicious with abort, one
of four. In both any two computers that collude read everything, so they must be parties that would not.
Not protected: what the released results themselves say about the rows (weights and predictions say a lot),
and lies about one's own rows.

Leaks:
    everybody: the number of rows of every owner, the architecture, names and ranges of the columns.
    computers: nothing else.
    receivers: what the job releases to them.

Source: the engines' papers (`veilsum.mpc.rss3`, `veilsum.mpc.rss4`).
"""

import asyncio
import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from veilsum.crypto.randomness import fresh
from veilsum.data import features
from veilsum.errors import BudgetExceeded, ConfigError, DataError, ProtocolError
from veilsum.exchanges import sharing
from veilsum.exchanges.checkpoints import Checkpoints
from veilsum.exchanges.sharing import Dealt, Heard, Released
from veilsum.jobs import Job, Leak, digest
from veilsum.learn import architectures
from veilsum.learn.architectures import Given, Mlp, check_agreed
from veilsum.learn.graph import Graph
from veilsum.learn.model import Model
from veilsum.learn.shapes import infer
from veilsum.mpc import cost, program
from veilsum.mpc.engine import Engine, Link
from veilsum.mpc.engines import ENGINES, start
from veilsum.mpc.fixed import Fixed, checked, decode, encode
from veilsum.mpc.gradients import Ranges
from veilsum.mpc.network import limits
from veilsum.mpc.program import Wanted, Work
from veilsum.mpc.shares import Arith, Words
from veilsum.mpc.training import Training
from veilsum.mpc.wire import LaneWire, Traffic
from veilsum.net.config import KIB, MIB
from veilsum.net.lane import Lane
from veilsum.net.messages import Buffer, Message, message
from veilsum.net.session import Session
from veilsum.parties import PartyId, Role

KIND: Final = "secure_learning"
OWNER, MODELLER, COMPUTER, RECEIVER = Role("owner"), Role("modeller"), Role("computer"), Role("receiver")
FRACTION: Final = 18
MOST_NUMBERS: Final = 1 << 28
"""Of one owner: a computing party holds two or three components of each, 8 bytes a component."""
Floats = NDArray[np.float64]


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who gets what; whoever is not named gets nothing.

    Attributes:
        weights: of the trained model, as a file.
        metrics: of the held-out rows, after every epoch; in ``predict`` of all rows.
        predictions: outputs for the held-out rows; in ``predict`` for all rows.
    """

    weights: tuple[PartyId, ...] = ()
    metrics: tuple[PartyId, ...] = ()
    predictions: tuple[PartyId, ...] = ()


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the parties agree on beyond their names.

    Attributes:
        task: ``train`` a model, or ``predict`` with the modeller's.
        features: column → its declared range [low, high], checked at the owner; ``p[0-63]`` names 64 columns.
        target: column of the label; "" in ``predict`` where nobody has it.
        classes: 2 or more; 0 for a number to be predicted.
        target_range: of the target where it is a number.
        split: owners hold ``rows``, or ``columns`` of the same rows in the same order.
        holds: by ``columns``: owner → the keys of ``features`` (and the target) that it holds.
        holdout: share of the rows that is kept from training.
    """

    task: Literal["train", "predict"] = "train"
    engine: Literal["rss3", "rss4"] = "rss3"
    model: architectures.Architecture = Mlp()
    features: dict[str, tuple[float, float]]
    target: str = ""
    classes: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 2
    target_range: tuple[float, float] = (-1.0, 1.0)
    split: Literal["rows", "columns"] = "rows"
    holds: dict[PartyId, tuple[str, ...]] = {}
    holdout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.2
    training: Training = Training()
    ranges: Ranges = Ranges()
    release: Release = Release()
    link: Link = Link()
    max_rows: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 10_000_000


@message(1, by="owner")
class Rows(Message, frozen=True):
    """How many rows the sender brings."""

    rows: int


@message(2, by="modeller", limit=16 * MIB)
class Architecture(Message, frozen=True):
    """The model's graph as JSON, (n,) uint8."""

    graph: Annotated[NDArray[np.uint8], Buffer("u1", (None,))]


@message(2, by="modeller", limit=8 * sharing.PIECE + KIB)
class Published(Message, frozen=True):
    """One piece of public weights as ring elements, (n,) uint64."""

    index: int
    words: Annotated[NDArray[np.uint64], Buffer("u8", (None,))]


@message(5, by="computer")
class EpochDone(Message, frozen=True):
    """How many epochs (in ``predict``: batches) the computing parties have done."""

    done: int


MESSAGES: Final = (Rows, Architecture, Published, Dealt, Heard, EpochDone, Released)


class Own(NamedTuple):
    """What a party brings.

    Attributes:
        columns: name → (rows,) float64, at an owner.
        model: at the modeller.
    """

    columns: Mapping[str, Floats] | None = None
    model: Model | None = None


class Learnt(NamedTuple):
    """What a party has afterwards.

    Attributes:
        rows: owner → number of its rows.
        graph: of the model.
        epochs: trained in all (``predict``: 0).
        traffic: of this computing party, None elsewhere.
        by_step: the same by part of the work.
        model: the trained one, at those who get the weights.
        metrics: (epochs, 2) mean loss and share of right answers (twice the loss for ``mse``).
        confusion: (classes, classes) counts, rows are the truth.
        predictions: (rows, outputs), at those who get them; owner after owner.
        held_out: owner → its rows that were kept from training.
    """

    rows: dict[PartyId, int]
    graph: Graph
    epochs: int
    held_out: dict[PartyId, NDArray[np.int64]]
    traffic: Traffic | None = None
    by_step: Mapping[str, Traffic] = {}
    model: Model | None = None
    metrics: Floats | None = None
    confusion: NDArray[np.int64] | None = None
    predictions: Floats | None = None


class Computed(NamedTuple):
    """What comes of the computation: shared results by name, and what a computing party said and heard."""

    results: Mapping[str, Arith]
    traffic: Traffic | None
    by_step: Mapping[str, Traffic]


async def learn(s: Session, params: Params, own: Own, *, least: int = 1) -> Learnt:
    """Play all of this party's roles.

    Args:
        s: the session.
        params: of the job.
        own: what this party brings.
        least: the fewest rows of another owner with which this party takes part.

    Raises:
        DataError: its data or model does not fit the job; nothing was shared.
        JobMismatch: the modeller's model is not the one that was agreed on.
        CheatingDetected: a check failed; nothing was released.
    """
    cast, engine = Cast.of(s.job, params), ENGINES[params.engine]
    matrix = None if own.columns is None else await s.compute(prepare, params, own.columns, s.me)
    async with s.step(1, "rows"):
        rows = await announce(s, params, cast, matrix, least)
    async with s.step(2, "architecture"):
        graph = await agree_on_graph(s, params, cast, own.model)
        plan = await s.compute(Plan.of, params, rows, graph)
        await s.compute(try_out, s.job, plan, params, least, s.me)
        known = await publish(s, plan, params, cast, own.model)
    async with s.step(3, "share"):
        secret = cast.modeller is not None and known is None
        shares = await share(s, plan, cast, engine, matrix, own.model, secret=secret)
    memory = Checkpoints.of(s, cast.computers) if s.me in cast.computers else None
    async with s.step(4, "compare shares"):
        if memory is not None:
            held, number = list(shares.values()), cast.number(s.me)
            await sharing.compare(s, engine, cast.computers, number, held, summed_up(plan, memory))
    async with s.step(5, "compute"):
        computed = await compute(s, plan, params, cast, shares, known, memory)
    async with s.step(6, "release"):
        got = await open_results(s, plan, params, cast, engine, computed.results)
    return learnt(plan, params, computed, rows, got)


# -- before: what the job says


class Cast(NamedTuple):
    """Who plays what."""

    owners: tuple[PartyId, ...]
    computers: tuple[PartyId, ...]
    modeller: PartyId | None

    @classmethod
    def of(cls, job: Job, params: Params) -> "Cast":
        """Return who plays what in a job.

        Raises:
            ConfigError: the roles, or the columns, do not fit the protocol.
        """
        roles = {OWNER, COMPUTER, MODELLER, RECEIVER}
        owners, computers = job.parties.get(OWNER, ()), job.parties.get(COMPUTER, ())
        modellers = job.parties.get(MODELLER, ())
        wanted = ENGINES[params.engine].parties
        if set(job.parties) - roles or not owners or len(computers) != wanted or len(modellers) > 1:
            raise ConfigError(
                f"a {KIND} job on {params.engine} has owners, {wanted} computers, at most one modeller,"
                " and receivers",
                remedy='write [parties] owner = ["a", "b"], computer = ["a", "b", "referee"]',
            )
        brought = isinstance(params.model, Given)
        if brought != bool(modellers) or (params.task == "predict" and not brought):
            raise ConfigError(
                "a model of kind given comes from the modeller, and predictions need one",
                remedy='name a modeller and write model = { kind = "given", digest = "…" }',
            )
        for what in params.release.__struct_fields__:
            for name in getattr(params.release, what):
                if name not in job.members:
                    raise ConfigError(
                        f"release.{what} names {name}, which is not in the job", remedy="name it as receiver"
                    )
        check_columns(params, owners)
        return cls(owners, computers, modellers[0] if modellers else None)

    def number(self, party: PartyId) -> int:
        """Return a computing party's number."""
        return self.computers.index(party)


def check_columns(params: Params, owners: tuple[PartyId, ...]) -> None:
    """Check the columns that a job names.

    Raises:
        ConfigError: ranges, the target or who holds what cannot be used.
    """
    features.expanded(params.features)
    if (params.task == "train" or params.release.metrics) and not params.target:
        raise ConfigError("training and metrics need a target column", remedy='write target = "…"')
    if params.training.loss == "cross_entropy" and params.classes < 2:
        raise ConfigError("cross_entropy needs two classes or more", remedy="write classes, or another loss")
    if params.split == "rows":
        return
    named = [key for keys in params.holds.values() for key in keys]
    wanted = [*params.features, *([params.target] if params.target else [])]
    if sorted(named) != sorted(wanted) or set(params.holds) != set(owners):
        raise ConfigError(
            "holds does not give every feature and the target to exactly one owner",
            remedy='write holds = { a = ["age"], b = ["income", "label"] }',
        )


def forecast(
    job: Job, params: Params, rows: Mapping[PartyId, int], graph: Graph | None = None
) -> cost.Estimate:
    """Return what the computing parties will spend, before anything is shared.

    Args:
        job: of all parties.
        params: of the job.
        rows: owner → number of its rows, known or supposed.
        graph: of a given model; None for one that the job states.

    Raises:
        ConfigError: the job, or a range within the model, cannot be.
    """
    cast = Cast.of(job, params)
    graph = graph_of(params) if graph is None else graph
    architectures.check_fit(graph, input_width(params), target_width(params))
    plan = Plan.of(params, {name: rows[name] for name in cast.owners}, graph)
    count = sum(rows.values()) if params.split == "rows" else max(rows.values())
    given = cast.modeller is not None
    return cost.estimate(params.engine, plan.work, count, target_width(params), params.link, given=given)


def leaks(job: Job, params: Params) -> tuple[Leak, ...]:
    """Return who will have learnt what, before anything runs."""
    cast = Cast.of(job, params)
    everybody = "the number of rows of every owner, names and ranges of the columns, the model's architecture"
    table = [Leak("modelling", who, everybody) for who in job.members]
    together = "nothing more alone; any two of the computing parties together read all rows and weights"
    table += [Leak("modelling", who, together) for who in cast.computers]
    if isinstance(params.model, Given) and params.model.public:
        table += [Leak("modelling", who, "the weights of the given model") for who in cast.computers]
    words = {
        "weights": "the weights of the trained model (they say something about the rows)",
        "metrics": "loss, accuracy and confusion counts of the held-out rows",
        "predictions": "the model's outputs for the rows that are predicted",
    }
    for what, text in words.items():
        table += [Leak("release", who, text) for who in getattr(params.release, what)]
    return tuple(table)


class Plan(NamedTuple):
    """Everything public that decides what happens, the same at all parties.

    Attributes:
        shapes: owner → rows and columns that it shares.
        order: where the job's columns stand when those of all owners lie side by side; None by rows.
        work: of the computing parties.
        held_out: owner → its rows that are not learnt from.
    """

    shapes: dict[PartyId, tuple[int, int]]
    order: NDArray[np.int64] | None
    work: Work
    held_out: dict[PartyId, NDArray[np.int64]]

    @property
    def epochs(self) -> int:
        """How many epochs training takes."""
        return self.work.training.epochs if len(self.work.learnt) else 0

    @classmethod
    def of(cls, params: Params, rows: Mapping[PartyId, int], graph: Graph) -> "Plan":
        """Return the plan of a job."""
        by_rows = params.split == "rows"
        width = input_width(params) + target_width(params)
        shapes, order = {name: (count, width) for name, count in rows.items()}, None
        if not by_rows:
            shapes, order = columns_of(params, rows)
        groups = dict(rows) if by_rows else {"": next(iter(rows.values()))}
        kept, held = np.ones(sum(groups.values()), bool), {}
        for at, (name, count) in zip(np.cumsum([0, *groups.values()]), groups.items(), strict=False):
            # every owner keeps a part of its rows back, in a public random order; all of them are predicted
            seed = int.from_bytes(digest("holdout", [params.training.seed, int(at)])[:8])
            part = round(count * params.holdout) if params.task == "train" else count
            held[name] = np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(count)[:part])
        starts = np.cumsum([0, *groups.values()])[:-1]
        tested = np.concatenate([own + at for own, at in zip(held.values(), starts, strict=True)])
        release = params.release
        wanted = Wanted(
            weights=bool(release.weights),
            metrics=bool(release.metrics),
            predictions=bool(release.predictions),
        )
        kept[tested] = False
        learnt = np.flatnonzero(kept)
        work = Work(graph, params.ranges, params.training, learnt, tested, wanted, bool(params.target))
        held_out = {name: held[name if by_rows else ""] for name in rows}
        return cls(shapes, order, work, held_out)


def summed_up(plan: Plan, memory: Checkpoints) -> bytes:
    """Return the hash of what decides what a computing party will do, and from where it goes on."""
    shapes = {name: list(shape) for name, shape in plan.shapes.items()}
    where = [memory.series, memory.epochs]
    return digest("learning", [shapes, plan.work.graph.digest().hex(), where])


def graph_of(params: Params) -> Graph:
    """Return the graph of a model that the job itself states."""
    assert not isinstance(params.model, Given)
    return architectures.stated(params.model, input_width(params), target_width(params))


def digest_of(words: Words) -> str:
    """Return the hash of a model's weights as ring elements, 64 hex digits."""
    return hashlib.sha256(words.astype("<u8").tobytes()).hexdigest()


def input_width(params: Params) -> int:
    """Return how many numbers a row has for the model."""
    return len(features.expanded(params.features))


def target_width(params: Params) -> int:
    """Return how many numbers state one target: one per class, one, or none."""
    if not params.target:
        return 0
    return params.classes if params.training.loss == "cross_entropy" else 1


def columns_of(
    params: Params, rows: Mapping[PartyId, int]
) -> tuple[dict[PartyId, tuple[int, int]], NDArray[np.int64]]:
    """Return the shapes that owners of columns share, and where the job's columns stand among them."""
    at: dict[str, int] = {}
    shapes = {}
    for name, count in rows.items():
        before = len(at)
        for key in params.holds[name]:
            several = [f"{key}/{n}" for n in range(target_width(params))]
            names = several if key == params.target else features.expanded({key: params.features[key]})
            at |= {one: len(at) + number for number, one in enumerate(names)}
        shapes[name] = (count, len(at) - before)
    wanted = [
        *features.expanded(params.features),
        *(f"{params.target}/{n}" for n in range(target_width(params))),
    ]
    return shapes, np.array([at[name] for name in wanted], np.int64)


def prepare(params: Params, columns: Mapping[str, Floats], me: PartyId) -> Floats:
    """Return what an owner shares: its features scaled to [-1, 1], and the target where it holds it.

    Raises:
        DataError: a column is missing, or a value is not a finite number within its declared range.
    """
    by_rows = params.split == "rows"
    keys = [*params.features, *([params.target] if params.target else [])] if by_rows else params.holds[me]
    kinds: dict[str, features.TargetKind] = {"cross_entropy": "classes", "bce": "bit", "mse": "number"}
    made: list[Floats] = []
    for key in keys:
        if key == params.target:
            kind = kinds[params.training.loss]
            made.append(features.target(columns, key, kind, params.classes, params.target_range))
        else:
            made += features.scaled(columns, {key: params.features[key]})
    if not len(made[0]):
        raise DataError("the data set has no rows", remedy="look at it with `veilsum data check`")
    return np.concatenate(made, axis=1)


# -- the steps


async def announce(
    s: Session, params: Params, cast: Cast, matrix: Floats | None, least: int
) -> dict[PartyId, int]:
    """Tell everybody how many rows one brings; learn it of all owners.

    Raises:
        BudgetExceeded: an owner brings fewer rows than ``least``.
        ProtocolError: one brings more than the job allows, or another number than the others by columns.
    """
    if matrix is not None:  # 1
        await s.broadcast(Rows(len(matrix)))
    got = await s.gather(Rows, of=cast.owners)  # 1
    counts = {
        name: len(matrix) if matrix is not None and name == s.me else got[name].rows for name in cast.owners
    }
    for name, count in counts.items():
        if not 0 < count <= params.max_rows:
            raise ProtocolError(f"{name} announces {count} rows, which the job does not allow", party=s.me)
        if count * (input_width(params) + target_width(params)) > MOST_NUMBERS:
            raise ProtocolError(f"the {count} rows of {name} are too many for this many columns", party=s.me)
        if name != s.me and count < least:
            raise BudgetExceeded(f"{name} brings only {count} rows; the floor here is {least}", party=s.me)
    if params.split == "columns" and len(set(counts.values())) > 1:
        numbers = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(
            f"owners of columns bring different numbers of rows: {numbers}",
            remedy="bring the same rows in the same order, as an alignment writes them",
            party=s.me,
        )
    return counts


async def agree_on_graph(s: Session, params: Params, cast: Cast, model: Model | None) -> Graph:
    """Return the model's graph, the modeller's or the one that the job states.

    Raises:
        JobMismatch: the modeller's is not the one that was agreed on.
        ConfigError: it does not fit the job's columns.
    """
    if not isinstance(params.model, Given):
        graph = graph_of(params)
    elif s.me == cast.modeller:
        assert model is not None
        graph = model.graph
        check_agreed("model", s.me, graph.digest().hex(), params.model.digest)
        text = np.frombuffer(msgspec.json.encode(graph), np.uint8)
        await s.broadcast(Architecture(text))  # 2
    else:
        assert cast.modeller is not None
        got = await s[cast.modeller].recv(Architecture)  # 2
        try:
            graph = msgspec.json.decode(got.graph.tobytes(), type=Graph)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"{cast.modeller} sent no model graph", party=s.me) from error
        check_agreed("model", cast.modeller, graph.digest().hex(), params.model.digest)
    architectures.check_fit(graph, input_width(params), target_width(params))
    if architectures.count(graph) > MOST_NUMBERS:
        raise ConfigError(
            f"the model has {architectures.count(graph):,} weights; the most are {MOST_NUMBERS:,}",
            remedy="take a smaller model",
        )
    return graph


def try_out(job: Job, plan: Plan, params: Params, least: int, me: PartyId) -> None:
    """Rehearse the computation on few rows with nobody, so that nothing is shared in vain.

    Raises:
        ConfigError: an operation is not built, or a range is unknown or too large; names its place.
        DataError: no row is left to learn from.
        BudgetExceeded: metrics would rest on fewer rows than this party's floor.
    """
    if params.task == "train" and not len(plan.work.learnt):
        raise DataError(
            "all rows are kept out of training", remedy="lower holdout, or bring more rows", party=me
        )
    if params.release.metrics and len(plan.work.tested) < least:
        raise BudgetExceeded(
            f"the released metrics rest on {len(plan.work.tested)} rows; the floor here is {least}",
            remedy="keep more rows out of training, or release no metrics",
            party=me,
        )
    cast = Cast.of(job, params)
    number = cast.number(me) if me in cast.computers else 0
    given = cast.modeller is not None
    try:
        cost.rehearse(params.engine, number, plan.work, target_width(params), params.link, given=given)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # a graph is somebody else's: whatever it makes of itself is no failure of this program
        raise ConfigError(
            "the model cannot be computed on shares", remedy="bring a model without empty layers", party=me
        ) from error


async def publish(s: Session, plan: Plan, params: Params, cast: Cast, model: Model | None) -> Words | None:
    """Give the computing parties weights that the job says are public; None where they are secret.

    Raises:
        JobMismatch: they are not those that were agreed on.
    """
    if not isinstance(params.model, Given) or not params.model.public:
        return None
    assert cast.modeller is not None
    if model is not None:
        words = await s.compute(weights_of, plan.work, model)
        check_agreed("public weights", s.me, digest_of(words), params.model.public)
        for index, (start, end) in enumerate(sharing.bounds(len(words))):
            await s.broadcast(Published(index, words[start:end]), of=cast.computers)  # 2
        return words
    words = np.empty(architectures.count(plan.work.graph), np.uint64)
    if s.me in cast.computers:
        for index, (start, end) in enumerate(sharing.bounds(len(words))):
            got = await s[cast.modeller].recv(Published)  # 2
            if got.index != index or len(got.words) != end - start:
                raise ProtocolError(f"{cast.modeller} publishes weights of another size", party=s.me)
            words[start:end] = got.words
        check_agreed("public weights", cast.modeller, digest_of(words), params.model.public)
    return words


async def share(
    s: Session,
    plan: Plan,
    cast: Cast,
    engine: type[Engine],
    matrix: Floats | None,
    model: Model | None,
    *,
    secret: bool,
) -> dict[str, Arith]:
    """Share what this party brings; return what it holds of everybody's inputs if it computes."""
    async with asyncio.TaskGroup() as tasks:
        given = tasks.create_task(give(s, plan, cast, engine, matrix, model if secret else None))
        got = tasks.create_task(get(s, plan, cast, engine, secret_weights=secret))
    return dict(sorted((given.result() | got.result()).items()))


async def give(
    s: Session, plan: Plan, cast: Cast, engine: type[Engine], matrix: Floats | None, model: Model | None
) -> dict[str, Arith]:
    """Share this party's rows and model among the computing parties; return its own part if it is one."""
    made: dict[str, Words] = {}
    if matrix is not None:
        made[f"rows {s.me}"] = await s.compute(encode, matrix, FRACTION)
    if model is not None:
        made["weights"] = await s.compute(weights_of, plan.work, model)
    held = {
        name: await sharing.deal(s, engine, cast.computers, ring, name) for name, ring in made.items()
    }  # 3
    return {name: own for name, own in held.items() if own is not None}


async def get(
    s: Session, plan: Plan, cast: Cast, engine: type[Engine], *, secret_weights: bool
) -> dict[str, Arith]:
    """Receive this computing party's part of what the others share."""
    if s.me not in cast.computers:
        return {}
    expected: dict[str, tuple[PartyId, tuple[int, ...]]] = {
        f"rows {owner}": (owner, shape) for owner, shape in plan.shapes.items()
    }
    if secret_weights:
        assert cast.modeller is not None
        expected["weights"] = (cast.modeller, (architectures.count(plan.work.graph),))
    number = cast.number(s.me)
    return {
        name: await sharing.take(s, engine, number, owner, shape)  # 3
        for name, (owner, shape) in expected.items()
        if owner != s.me
    }


def weights_of(work: Work, model: Model) -> Words:
    """Return a model's weights end to end as ring elements.

    Raises:
        DataError: one is beyond the declared range.
    """
    allowed = limits(work.graph, work.ranges)
    flat = [np.ravel(checked(model.weights[name], allowed[name])) for name in work.graph.weights()]
    return encode(np.concatenate([np.empty(0), *flat]), FRACTION)  # a model may have none


async def compute(
    s: Session,
    plan: Plan,
    params: Params,
    cast: Cast,
    shares: Mapping[str, Arith],
    known: Words | None,
    memory: Checkpoints | None,
) -> Computed:
    """Train or predict on shares; those who do not compute wait and hear how far it is."""
    steps = plan.epochs or 1
    if memory is None:
        for done in range(1, steps + 1):
            got = await s[cast.computers[0]].recv(EpochDone)  # 5
            if got.done != done:
                raise ProtocolError(f"{cast.computers[0]} counts epochs in another way", party=s.me)
            s.progress("compute", done, steps, "epochs")
        return Computed({}, None, {})
    number = cast.number(s.me)
    finished = asyncio.Queue[int]()
    loop = asyncio.get_running_loop()
    for epoch in range(memory.epochs):
        finished.put_nowait(epoch + 1)  # said again: those who wait count from the beginning

    def on_lanes(lanes: dict[PartyId, Lane]) -> Computed:
        wire = LaneWire(number, [lanes.get(name) for name in cast.computers])
        with wire.step("keys"):
            engine = start(params.engine, wire, fresh, params.link)
        x, y = rows_of(engine, plan, params, shares)
        weights = shares.get("weights") if known is None else engine.constant(known)

        def tell(epoch: int) -> None:
            loop.call_soon_threadsafe(finished.put_nowait, epoch)

        if params.task == "train":
            assert y is not None  # the job names a target
            results = program.train(engine, wire, plan.work, x, y, weights, memory, tell)
        else:
            assert weights is not None  # the modeller's
            results = program.predict(engine, wire, plan.work, x, y, weights, tell)
        return Computed(results, wire.total, wire.by_step)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(tell_others(s, cast, finished, steps))
        working = tasks.create_task(s.in_lane("compute", on_lanes, of=cast.computers))
    return working.result()


async def tell_others(s: Session, cast: Cast, done: "asyncio.Queue[int]", steps: int) -> None:
    """Tell those who do not compute how far it is, as the first computing party."""
    watchers = [name for name in s.job.members if name not in cast.computers]
    for _ in range(steps):
        epoch = await done.get()
        s.progress("compute", epoch, steps, "epochs")
        if s.me == cast.computers[0]:
            await s.broadcast(EpochDone(epoch), of=watchers)  # 5


def rows_of(
    engine: Engine, plan: Plan, params: Params, shares: Mapping[str, Arith]
) -> tuple[Fixed, Fixed | None]:
    """Return all rows as the model's input, and their targets, from what the owners shared."""
    owned = [shares[f"rows {name}"] for name in plan.shapes]
    if plan.order is None:
        whole = Arith.joined(owned)
    else:
        whole = Arith.joined(owned, axis=1).taken(plan.order, axis=1)
    width = input_width(params)
    ((_, value),) = plan.work.graph.inputs.items()
    x = Fixed(engine, whole[:, :width], 1.0).reshape(-1, *value.shape[1:])
    return x, Fixed(engine, whole[:, width:], 1.0) if params.target else None


async def open_results(
    s: Session, plan: Plan, params: Params, cast: Cast, engine: type[Engine], results: Mapping[str, Arith]
) -> dict[str, Floats]:
    """Give every receiver what the job releases to it; return what this party gets."""
    got: dict[str, Floats] = {}
    shapes = released(plan, params)

    async def give() -> None:
        for name in shapes:
            await sharing.release(s, receivers(params, name), name, results[name])  # 6

    async def get() -> None:
        for name, shape in shapes.items():
            if s.me in receivers(params, name):
                own = results.get(name)
                ring = await sharing.collect(s, engine, cast.computers, name, shape, own)  # 6
                got[name] = decode(ring, FRACTION)

    async with asyncio.TaskGroup() as tasks:
        if s.me in cast.computers:
            tasks.create_task(give())
        tasks.create_task(get())
    return got


def released(plan: Plan, params: Params) -> dict[str, tuple[int, ...]]:
    """Return the results of a job with their shapes, in the order in which they are released."""
    work = plan.work
    shapes: dict[str, tuple[int, ...]] = {}
    outputs = infer(work.graph)[work.graph.outputs[0]].shape[1]
    tested = len(work.tested)
    if work.wanted.metrics and work.targets and tested:
        shapes["metrics"] = (plan.epochs or 1, 2)
        if params.training.loss != "mse":
            classes = params.classes if params.training.loss == "cross_entropy" else 2
            shapes["confusion"] = (classes, classes)
    if work.wanted.predictions and tested:
        shapes["predictions"] = (tested, outputs)
    if work.wanted.weights and plan.epochs:
        shapes["weights"] = (architectures.count(work.graph),)
    return shapes


def receivers(params: Params, name: str) -> tuple[PartyId, ...]:
    """Return who gets a result."""
    whose = "metrics" if name == "confusion" else name
    found: tuple[PartyId, ...] = getattr(params.release, whose)
    return found


def learnt(
    plan: Plan, params: Params, computed: Computed, rows: dict[PartyId, int], got: Mapping[str, Floats]
) -> Learnt:
    """Return what this party has afterwards, in the units of the job."""
    model, predictions = None, got.get("predictions")
    if "weights" in got:
        weights, at = {}, 0
        for name, shape in plan.work.graph.weights().items():
            weights[name] = got["weights"][at : at + math.prod(shape)].reshape(shape)
            at += math.prod(shape)
        model = Model(plan.work.graph, weights)
    if predictions is not None and params.training.loss == "mse":
        low, high = params.target_range
        predictions = (predictions + 1) * ((high - low) / 2) + low
    confusion = np.round(got["confusion"]).astype(np.int64) if "confusion" in got else None
    metrics = got["metrics"] / len(plan.work.tested) if "metrics" in got else None
    return Learnt(
        rows,
        plan.work.graph,
        plan.epochs,
        plan.held_out,
        computed.traffic,
        computed.by_step,
        model,
        metrics,
        confusion,
        predictions,
    )

"""Training on shares from Python: owners, computing parties and the whole protocol in this process."""

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from veilsum.errors import ConfigError
from veilsum.jobs import Job, job_hash, key_digests
from veilsum.learn.architectures import Architecture, Given, Mlp
from veilsum.learn.model import Model
from veilsum.mpc.engines import ENGINES
from veilsum.mpc.gradients import Ranges
from veilsum.mpc.training import Training
from veilsum.mpc.wire import Traffic
from veilsum.net.memory import MemoryHub
from veilsum.net.session import Session
from veilsum.parties import NAME, Federation, Member, PartyId, Role
from veilsum.protocols import secure_learning
from veilsum.protocols.secure_learning import Learnt, Own, Params, Release
from veilsum.store.journal import MemoryJournal

RECEIVER = PartyId("caller")
_MODELLER = PartyId("modeller")


class Trained(NamedTuple):
    """What `train` gives back.

    Attributes:
        model: the trained model.
        metrics: (epochs, 2): mean loss and share of right answers of the held-out rows.
        confusion: (classes, classes) counts of the held-out rows, truth by answer; None for numbers.
        predictions: (held-out rows, outputs), party after party.
        held_out: party → its rows that were kept from training.
        traffic: what the first computing party said and heard.
    """

    model: Model
    metrics: NDArray[np.float64]
    confusion: NDArray[np.int64] | None
    predictions: NDArray[np.float64]
    held_out: dict[str, NDArray[np.int64]]
    traffic: Traffic


def train(
    data: Mapping[str, Mapping[str, ArrayLike]],
    features: Mapping[str, tuple[float, float]],
    target: str,
    *,
    classes: int = 2,
    model: Architecture | Model = Mlp(),  # noqa: B008 -- frozen
    training: Training | None = None,
    ranges: Ranges | None = None,
    holdout: float = 0.2,
    engine: Literal["rss3", "rss4"] = "rss3",
) -> Trained:
    """Train a model on rows of several parties, with every role of the real protocol in this process.

    For trying things out, teaching and tests: whoever runs this sees all the data anyway. The computing
    parties are extra ones.

    Args:
        data: party → its columns, name → one number a row.
        features: column → its declared range [low, high]; ``p[0-63]`` names 64 columns.
        target: column of the label: 0 … classes - 1, or a number within [-1, 1] (loss ``mse``).
        classes: of the label.
        model: a kind of model, or a model whose weights training begins with.
        training: loss, optimiser, epochs, batches; cross-entropy by SGD by default.
        ranges: what values within the model do not exceed.
        holdout: share of every party's rows that is kept from training.
        engine: ``rss3`` (three, semi-honest) or ``rss4`` (four, malicious with abort).

    Raises:
        ConfigError: a declaration does not fit.
        DataError: a value is missing or outside of its declared range.
    """
    owners = [PartyId(name) for name in data]
    for name in owners:
        if not NAME.fullmatch(name) or name in {RECEIVER, _MODELLER}:
            raise ConfigError(f"{name!r} cannot be a party's name", remedy="use small letters and digits")
    kind = Given(digest=model.graph.digest().hex()) if isinstance(model, Model) else model
    who = (RECEIVER,)
    params = Params(
        engine=engine,
        model=kind,
        features=dict(features),
        target=target,
        classes=classes,
        holdout=holdout,
        training=training or Training(),
        ranges=ranges or Ranges(),
        release=Release(weights=who, metrics=who, predictions=who),
    )
    computers = tuple(PartyId(f"computer-{number}") for number in range(ENGINES[engine].parties))
    parties = {
        Role("owner"): tuple(owners),
        Role("computer"): computers,
        Role("receiver"): who,
    }
    own = {name: Own(columns=_columns(data[name])) for name in owners}
    if isinstance(model, Model):
        parties[Role("modeller")] = (_MODELLER,)
        own[_MODELLER] = Own(model=model)
    job = Job(
        kind=secure_learning.KIND,
        purpose="training in one process",
        expires=dt.datetime.now(dt.UTC).date(),
        parties=parties,
        params=msgspec.to_builtins(params),
    )
    got = asyncio.run(_play(job, params, own))
    return _trained(got[RECEIVER], got[computers[0]])


def _trained(mine: Learnt, computer: Learnt) -> Trained:
    outputs = 0 if mine.predictions is None else mine.predictions.shape[1]
    nothing = np.zeros((0, outputs))
    assert mine.model is not None
    assert computer.traffic is not None
    return Trained(
        mine.model,
        nothing.reshape(0, 2) if mine.metrics is None else mine.metrics,
        mine.confusion,
        nothing if mine.predictions is None else mine.predictions,
        {str(name): rows for name, rows in mine.held_out.items()},
        computer.traffic,
    )


def _columns(table: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
    columns = {name: np.asarray(values, np.float64).reshape(-1) for name, values in table.items()}
    if len({len(values) for values in columns.values()}) > 1:
        raise ConfigError("columns of one party have different lengths", remedy="give one number a row")
    return columns


async def _play(job: Job, params: Params, own: Mapping[PartyId, Own]) -> dict[PartyId, Learnt]:
    hub = MemoryHub()
    federation = Federation("one process", {name: Member(name.encode()) for name in job.members})

    async def one(name: PartyId) -> Learnt:
        session = Session(
            name,
            job,
            job_hash=job_hash(job, federation),
            job_keys=key_digests(job, federation),
            inputs=b"",
            messages=secure_learning.MESSAGES,
            links=hub.links(name),
            open_journal=lambda _run: (MemoryJournal(), 1),
        )
        async with session:
            return await secure_learning.learn(session, params, own.get(name, Own()))

    try:
        results = await asyncio.gather(*(one(name) for name in job.members), return_exceptions=True)
    finally:
        hub.close()
    failed: Sequence[Any] = [result for result in results if isinstance(result, BaseException)]
    # the one that found it, before those who only heard
    for error in sorted(failed, key=lambda e: getattr(e, "code", "") == "PeerAborted"):
        raise error
    return {name: got for name, got in zip(job.members, results, strict=True) if isinstance(got, Learnt)}

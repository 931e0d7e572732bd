"""What a computation will cost, before it runs: bytes and rounds exactly, memory and time from a rehearsal.

Every party's own program runs against a wire that carries nothing (`DryWire`). Only shapes decide what is
said, so that what it counts is what the real run will say; epochs and batches of one shape cost the same, so
that three short rehearsals give all of it.
"""

import math
import time
import tracemalloc
from collections.abc import Sequence

import msgspec
import numpy as np

from veilsum.crypto.prg import KEY_BYTES
from veilsum.mpc import program
from veilsum.mpc.engine import Engine, Link
from veilsum.mpc.engines import ENGINES
from veilsum.mpc.fixed import Fixed
from veilsum.mpc.program import Nothing, Work
from veilsum.mpc.shares import Arith
from veilsum.mpc.wire import DryWire, Traffic


class Estimate(msgspec.Struct, frozen=True):
    """The cost of one computation.

    Attributes:
        rounds: one after the other.
        sent: bytes that each computing party sends to the others, without TLS and the numbers of rounds.
        memory: bytes that the arrays of the largest party take at once.
        computing: processor seconds of the busiest party on this machine.
        link: that the time rests on.
    """

    rounds: int
    sent: tuple[int, ...]
    memory: int
    computing: float
    link: Link

    @property
    def seconds(self) -> float:
        """The time on the stated link, if every party has a processor like this one."""
        return self.computing + self.link.seconds(self.rounds, max(self.sent))


def estimate(engine: str, work: Work, rows: int, outputs: int, link: Link, *, given: bool) -> Estimate:
    """Return what a computation will cost.

    Args:
        engine: its name.
        work: as the job says.
        rows: of all owners.
        outputs: numbers that state a target; 0 without targets.
        link: between the computing parties.
        given: whether the initial weights come as shares.
    """
    kind = ENGINES[engine]
    rehearse = _trained if len(work.learnt) else _predicted
    found = [rehearse(_Dry(kind, me, link), work, rows, outputs, given=given) for me in range(kind.parties)]
    rounds = {traffic.rounds for traffic, _, _ in found}
    assert len(rounds) == 1  # all parties count alike
    sent = tuple(traffic.sent for traffic, _, _ in found)
    memory, computing = max(m for _, m, _ in found), max(c for _, _, c in found)
    return Estimate(rounds.pop(), sent, memory, computing, link)


def rehearse(engine: str, me: int, work: Work, outputs: int, link: Link, *, given: bool) -> None:
    """Play one party's part once, on no data, one batch and two rows besides: its ranges and operations.

    Args:
        engine: its name.
        me: the party's number.
        work: as the job says.
        outputs: numbers that state a target; 0 without targets.
        link: between the computing parties.
        given: whether the initial weights come as shares.

    Raises:
        ConfigError: an operation is not built, or a range is unknown or too large; names its place.
    """
    learnt = np.arange(min(len(work.learnt), work.training.batch))
    tested = np.arange(min(len(work.tested), 2))
    how = msgspec.structs.replace(work.training, epochs=1)
    rows = max(len(learnt), len(tested), 1)
    short = work._replace(learnt=learnt, tested=tested, training=how)
    _play(_Dry(ENGINES[engine], me, link), short, rows, outputs, given=given)


class _Dry:
    """One party's engine, made anew for every rehearsal."""

    def __init__(self, kind: type[Engine], me: int, link: Link) -> None:
        self.kind, self.me, self.link = kind, me, link

    def make(self) -> tuple[Engine, DryWire]:
        """Return an engine, and the wire that counts for it."""
        wire = DryWire(self.me, self.kind.parties)
        keys = [bytes([component]) * KEY_BYTES for component in self.kind.held(self.me)]
        return ENGINES[self.kind.name](wire, keys, self.link), wire


_Found = tuple[Traffic, int, float]


def _predicted(dry: _Dry, work: Work, rows: int, outputs: int, *, given: bool) -> _Found:
    return _played(dry, work, rows, outputs, given=given)


def _trained(dry: _Dry, work: Work, rows: int, outputs: int, *, given: bool) -> _Found:
    """Put the cost of all epochs together from rehearsals of one and two, with one and two full batches."""
    batch = work.training.batch
    full, rest = divmod(len(work.learnt), batch)
    if full < 2 and work.training.epochs < 2:
        return _played(dry, work, rows, outputs, given=given)

    def short(epochs: int, batches: int) -> _Found:
        learnt = work.learnt[: batches * batch + rest]
        how = msgspec.structs.replace(work.training, epochs=epochs)
        return _played(dry, work._replace(learnt=learnt, training=how), rows, outputs, given=given)

    first = min(full, 1)
    base, memory, computing = short(1, first)
    again, _, computing_again = short(2, first)
    epoch, epoch_computing = again - base, computing_again - computing
    step, step_computing = Traffic(), 0.0
    if full > 1:
        longer, more, computing_longer = short(1, 2)
        step, step_computing = longer - base, computing_longer - computing
        memory = max(memory, more)
    epochs = work.training.epochs
    total = base
    for part, times in ((epoch, epochs - 1), (step, epochs * (full - first))):
        total = total + Traffic(part.sent * times, part.received * times, part.rounds * times)
    computing += max(epoch_computing, 0) * (epochs - 1) + max(step_computing, 0) * epochs * (full - first)
    # what the rehearsals did not hold of the rows that are learnt from
    width = outputs + int(np.prod(_shape(work), dtype=np.int64))
    missing = len(work.learnt) - min(len(work.learnt), 2 * batch + rest)
    memory += missing * width * 8 * len(dry.kind.held(dry.me))
    return total, memory, computing


def _played(dry: _Dry, work: Work, rows: int, outputs: int, *, given: bool) -> _Found:
    """Rehearse one computation at one party, once for its time and once, slower, for its memory."""
    began = time.thread_time()
    traffic = _play(dry, work, rows, outputs, given=given)
    computing = time.thread_time() - began
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    _play(dry, work, rows, outputs, given=given)
    _, peak = tracemalloc.get_traced_memory()
    if not tracing:
        tracemalloc.stop()
    return traffic, peak - before, computing


def _play(dry: _Dry, work: Work, rows: int, outputs: int, *, given: bool) -> Traffic:
    engine, wire = dry.make()
    x = Fixed(engine, _zeros(engine, (rows, *_shape(work))), 1.0)
    y = Fixed(engine, _zeros(engine, (rows, outputs)), 1.0) if outputs else None
    count = sum(math.prod(shape) for shape in work.graph.weights().values())
    weights = _zeros(engine, (count,)) if given else None
    if len(work.learnt):
        assert y is not None
        program.train(engine, wire, work, x, y, weights, Nothing(), _silent)
    else:
        assert weights is not None
        program.predict(engine, wire, work, x, y, weights, _silent)
    return wire.total


def _zeros(engine: Engine, shape: Sequence[int]) -> Arith:
    return Arith(np.zeros((len(engine.held(engine.me)), *shape), np.uint64))


def _shape(work: Work) -> tuple[int, ...]:
    ((_, value),) = work.graph.inputs.items()
    return value.shape[1:]


def _silent(done: int) -> None:
    del done

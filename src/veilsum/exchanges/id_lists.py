"""Lists of ids among parties: their sizes are told first, then everything about them goes in fixed batches.

| step | who | message |
|---|---|---|
| 1 | bringer → everybody | `Size(how many ids, their declared form)` |

Leaks: the size of a list to everybody in the job; the number and sizes of all later batches follow.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from veilsum.data.ids import IdBatch
from veilsum.errors import BudgetExceeded, DataError, ProtocolError
from veilsum.net.messages import Message, message
from veilsum.net.peer import Peer
from veilsum.net.session import Session
from veilsum.net.stage import Stage
from veilsum.parties import PartyId
from veilsum.store.files import Scratch
from veilsum.store.tables import Records, Shuffled

M = TypeVar("M", bound=Message)
HASHED_AT_ONCE: Final = 65536  # ids


@message(1, by=("member", "signer", "client"))
class Size(Message, frozen=True):
    """How many distinct ids the sender brings, and the form that it declares for them."""

    ids: int
    form: str


class Ids(Protocol):
    """A party's distinct, valid ids in their declared normal form."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def form(self) -> str:
        """The declared form in public words; equal at all that bring ids."""

    def batches(self, size: int) -> Iterator[IdBatch]:
        """Yield them, ``size`` at a time, in an order that is the same every time."""


async def announce(
    s: Session, ids: Ids | None, most: Mapping[PartyId, int], *, least: int = 1
) -> dict[PartyId, int]:
    """Tell everybody one's own size and form; learn those of all that bring ids.

    Args:
        s: the session.
        ids: this party's own; None for one that brings none.
        most: bringer → the most ids that the job allows it.
        least: the fewest ids of another party that this one answers to; a list of one asks about that one.

    Returns:
        bringer → number of its ids, in the order of ``most``.

    Raises:
        DataError: no ids, more than the job allows, or another form than the others'.
        BudgetExceeded: a peer brings fewer ids than ``least``.
        ProtocolError: a peer announces what the job does not allow, or another size than before.
    """
    if ids is not None:  # 1
        check_own(ids, most[s.me], s.me)
        await s.broadcast(Size(ids.count, ids.form))
    theirs = await s.gather(Size, of=most)  # 1
    if ids is not None:
        theirs[s.me] = Size(ids.count, ids.form)
    for name, size in theirs.items():
        if not 0 < size.ids <= most[name]:
            raise ProtocolError(f"{name} announces {size.ids} ids; the job allows 1 to {most[name]}")
        if name != s.me and size.ids < least:
            raise BudgetExceeded(
                f"{name} brings {size.ids} ids; {s.me} takes part in alignments with {least} or more",
                remedy="the owner of the data alone can lower floor.min_group",
                party=s.me,
            )
    forms = {name: theirs[name].form for name in most}
    if len(set(forms.values())) > 1:
        shown = "; ".join(f"{name}: {form}" for name, form in forms.items())
        raise DataError(
            f"the parties declare different forms of ids ({shown})",
            remedy="agree on one ids = { … } declaration",
        )
    sizes = {name: theirs[name].ids for name in most}
    if msgspec.json.decode(await s.once("sizes", lambda: msgspec.json.encode(sizes))) != sizes:
        raise ProtocolError("a party announces another size than in an earlier attempt", party=s.me)
    return sizes


def check_own(ids: Ids, most: int, me: PartyId) -> None:
    """Refuse one's own list before anything of it is told.

    Raises:
        DataError: it is empty, or longer than the job allows.
    """
    if not ids.count:
        raise DataError("the data set holds no usable id", remedy="see `veilsum data check`", party=me)
    if ids.count > most:
        raise DataError(
            f"the data set holds {ids.count} ids, the job allows {most}",
            remedy="raise the job's limit, if all parties agree",
            party=me,
        )


def shuffle(
    s: Session, ids: Ids, scratch: Scratch, hashing: Callable[[IdBatch], Records], width: int
) -> Shuffled:
    """Hash all ids and put the hashes with their rows in a secret, uniformly random order.

    Args:
        s: the session, whose randomness gives the order.
        ids: this party's own.
        scratch: room for the table, of which half the budget is used.
        hashing: a batch → (n, width) uint8.
        width: bytes of a hash.

    Returns:
        Records of ``width + 8`` bytes: a hash, then the row number; see `split`.
    """
    table = Shuffled(scratch.folder, width + 8, expected=ids.count, budget=scratch.budget // 2)
    for index, batch in enumerate(ids.batches(HASHED_AT_ONCE)):
        # the same order at every attempt: what was sent before a crash stays where it was
        table.append(join(hashing(batch), batch.rows), s.random.numbers(0, "order", index, len(batch)))
    return table


def join(rows: Records, numbers: NDArray[np.int64]) -> Records:
    """Put numbers (n,) behind rows (n, w) of bytes: (n, w + 8) uint8."""
    return np.concatenate([rows, numbers.astype("<i8").view(np.uint8).reshape(-1, 8)], axis=1)


def split(records: Records) -> tuple[Records, NDArray[np.int64]]:
    """Return what `join` has put together: rows (n, w) uint8 and numbers (n,) int64."""
    numbers = np.ascontiguousarray(records[:, -8:]).view("<i8")[:, 0]
    return np.ascontiguousarray(records[:, :-8]), numbers.astype(np.int64)


def matrix(data: bytes, width: int) -> Records:
    """Return a committed output as rows (n, width) uint8."""
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def batch_count(size: int, batch: int) -> int:
    """Return in how many batches a list of ``size`` comes."""
    return -(-size // batch)


async def send(
    s: Session, receiver: Peer, stage: Stage, theirs: str, cls: type[M], make: Callable[[int, bytes], M]
) -> None:
    """Send a list's batches as they are committed, then the end of the list.

    Args:
        s: the session.
        receiver: who gets them.
        stage: what is sent.
        theirs: the receiver's stage that shows how many batches it holds from earlier attempts.
        cls: the type of message.
        make: index and committed output → the message.
    """
    start = s.done_by(receiver.name, theirs)
    if start < stage.count:
        async for index, data in stage.follow(start):
            await receiver.send(make(index, data))
        await receiver.end(cls)


async def receive(
    s: Session, sender: Peer, cls: type[M], stage: Stage, size: int, batch: int
) -> AsyncIterator[M]:
    """Yield a list's batches from where ``stage`` stands; they are to be committed there in this order.

    Args:
        s: the session.
        sender: whose batches they are.
        cls: a message with an ``index`` and, first among its buffers, one entry per id.
        stage: where the receiver keeps one output a batch.
        size: of the whole list, as announced.
        batch: ids per message; the last one holds the rest.

    Raises:
        ProtocolError: a batch is not the next one or not of its public size, or the list ends early.
    """
    if stage.complete:
        return
    rows, due = cls.wire.buffers[0][0], stage.done
    async for part in sender.stream(cls):
        _check_next(s, sender.name, part, len(getattr(part, rows)), due, stage.count, size, batch)
        due += 1
        yield part
    if due < stage.count:
        raise ProtocolError(f"{sender.name} ended a list after {due} of {stage.count} batches", party=s.me)


def _check_next(
    s: Session, sender: PartyId, part: Any, count: int, due: int, batches: int, size: int, batch: int
) -> None:
    length = min(batch, size - part.index * batch)
    if part.index != due or part.index >= batches or count != length:
        raise ProtocolError(
            f"{sender} sent batch {part.index} of {count} where batch {due} of {length} was due", party=s.me
        )

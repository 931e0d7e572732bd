"""Computing parties as threads of one process, over queues: for tests of engines and programs on shares."""

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

import numpy as np

from veilsum.errors import PeerAborted
from veilsum.mpc.engine import Engine, Link
from veilsum.mpc.rss3 import RSS3
from veilsum.mpc.rss4 import RSS4
from veilsum.mpc.shares import Words
from veilsum.mpc.wire import Incoming, Outgoing, Wire

T = TypeVar("T")
_PATIENCE = 60.0


class MemoryWire(Wire):
    """Rounds over queues; what is sent is copied, as a socket would."""

    def __init__(self, me: int, queues: Sequence[Sequence[SimpleQueue[Words | None]]]) -> None:
        super().__init__(me, len(queues))
        self._queues = queues

    def _exchange(self, send: Outgoing, receive: Incoming) -> None:
        for peer, array in send.items():
            self._queues[self.me][peer].put(array.copy())
        for peer, array in receive.items():
            try:
                got = self._queues[peer][self.me].get(timeout=_PATIENCE)
            except Empty:
                raise PeerAborted(f"party {peer} said nothing") from None
            if got is None:
                raise PeerAborted(f"party {peer} ended")
            if got.size != array.size:
                raise PeerAborted(f"party {peer} sent {got.size} words where {array.size} are due")
            array[...] = got.reshape(array.shape)

    def end(self) -> None:
        """Wake whoever waits for this party."""
        for queue in self._queues[self.me]:
            queue.put(None)


def wires(parties: int) -> list[MemoryWire]:
    """Return connected wires, one a party."""
    queues: list[list[SimpleQueue[Words | None]]] = [
        [SimpleQueue() for _ in range(parties)] for _ in range(parties)
    ]
    return [MemoryWire(me, queues) for me in range(parties)]


def rss3(wire: Wire, seed: int = 0, link: Link | None = None) -> RSS3:
    """Return a party of three whose keys come from a seed."""
    keys = np.random.default_rng(seed).bytes(48)
    return RSS3(wire, [keys[16 * (at % 3) : 16 * (at % 3) + 16] for at in (wire.me, wire.me + 1)], link)


def rss4(wire: Wire, seed: int = 0, link: Link | None = None) -> RSS4:
    """Return a party of four whose keys come from a seed."""
    keys = np.random.default_rng(seed).bytes(64)
    return RSS4(wire, [keys[16 * at : 16 * at + 16] for at in RSS4.held(wire.me)], link)


def together(
    program: Callable[[Engine], T],
    make: Callable[[Wire], Engine] = rss3,
    parties: int = 3,
    *,
    ends: Sequence[MemoryWire] | None = None,
) -> list[T]:
    """Run one program at every party; return what each gave.

    Raises:
        Exception: the first error by party number that is not merely another party's end.
    """
    ends = ends or wires(parties)
    outcomes: list[T | BaseException] = outcomes_of(program, make, ends)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for error in sorted(errors, key=lambda e: isinstance(e, PeerAborted)):
        raise error
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


def outcomes_of(
    program: Callable[[Engine], T], make: Callable[[Wire], Engine], ends: Sequence[MemoryWire]
) -> list[T | BaseException]:
    """Run one program at every party; return what each gave or raised."""
    outcomes: list[T | BaseException] = [PeerAborted("did not run") for _ in ends]

    def run(wire: MemoryWire) -> None:
        try:
            outcomes[wire.me] = program(make(wire))
        except BaseException as error:  # noqa: BLE001 -- handed to the caller
            outcomes[wire.me] = error
            wire.end()

    threads = [threading.Thread(target=run, args=(wire,), daemon=True) for wire in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes

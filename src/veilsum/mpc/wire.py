"""How a computing party talks to the others: one call is one round; bytes and rounds are counted."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import msgspec
import numpy as np

from veilsum.mpc.shares import Words
from veilsum.net.lane import Lane

Outgoing = Mapping[int, Words]
Incoming = Mapping[int, Words]


class Traffic(msgspec.Struct):
    """What one party has sent and received, in payload bytes, and in how many rounds."""

    sent: int = 0
    received: int = 0
    rounds: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.sent + other.sent, self.received + other.received, self.rounds + other.rounds)

    def __sub__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.sent - other.sent, self.received - other.received, self.rounds - other.rounds)


class Wire(ABC):
    """Connections with the other computing parties, which are known by number.

    Args:
        me: this party's number.
        parties: how many there are.
    """

    dry: ClassVar[bool] = False
    """Whether nobody answers: what is heard says nothing, and must not be checked."""

    def __init__(self, me: int, parties: int) -> None:
        self.me, self.parties = me, parties
        self.total = Traffic()
        self.by_step: dict[str, Traffic] = {}
        self._step = ""

    def exchange(self, send: Outgoing, receive: Incoming) -> None:
        """Play ONE round: send contiguous arrays and fill others, some peers or none in either direction.

        Every party calls it in every round of the protocol, also where it has nothing to say, so that rounds
        are counted alike. Arrays that were sent must not change afterwards.

        Raises:
            VeilsumError: a peer is lost, aborts, or is in another round.
        """
        sent = sum(array.nbytes for array in send.values())
        received = sum(array.nbytes for array in receive.values())
        for traffic in (self.total, self.by_step.setdefault(self._step, Traffic())):
            traffic.sent += sent
            traffic.received += received
            traffic.rounds += 1
        self._exchange(send, receive)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count what happens inside under a name."""
        before, self._step = self._step, name
        try:
            yield
        finally:
            self._step = before

    @abstractmethod
    def _exchange(self, send: Outgoing, receive: Incoming) -> None:
        """Move the bytes."""


class LaneWire(Wire):
    """Rounds over one `Lane` to each of the others.

    Args:
        lanes: by number, none under ``me``.
    """

    def __init__(self, me: int, lanes: Sequence[Lane | None]) -> None:
        super().__init__(me, len(lanes))
        self._lanes = lanes

    def _exchange(self, send: Outgoing, receive: Incoming) -> None:
        for peer, array in send.items():
            if array.size:
                self._lane(peer).send(array.reshape(-1).data)
        for peer, array in receive.items():
            if array.size:
                self._lane(peer).receive(array.reshape(-1).data)

    def _lane(self, peer: int) -> Lane:
        lane = self._lanes[peer]
        assert lane is not None  # nobody talks to itself
        return lane


class DryWire(Wire):
    """Counts what would be said, and hears zeros: for cost reports."""

    dry: ClassVar[bool] = True

    def _exchange(self, send: Outgoing, receive: Incoming) -> None:
        del send
        for array in receive.values():
            array[...] = np.uint64(0)

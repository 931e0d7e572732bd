"""Four parties: what two of them know becomes shared between all, for one word to a third."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np

from veilsum.arith import ring
from veilsum.crypto.prg import Prg
from veilsum.mpc.joint import PARTIES, Joint, Message
from veilsum.mpc.shares import Words, words

Pair = tuple[int, int]


class Route(NamedTuple):
    """How what two parties know becomes shared: component ``other`` is told to ``receiver``.

    Component ``receiver`` comes from the generator that the receiver lacks.
    """

    sender: int
    voucher: int
    receiver: int
    other: int


# by the two components that carry it; loads are even
MIXED: Final = MappingProxyType(
    {
        (0, 2): Route(3, 1, 2, 0),
        (0, 3): Route(1, 2, 0, 3),
        (1, 2): Route(0, 3, 1, 2),
        (1, 3): Route(2, 0, 3, 1),
    }
)
# what both parties of a side know: two ways, taken in turns or together
_BY_FIRST: Final = (Route(1, 0, 3, 2), Route(0, 1, 2, 3))
_BY_SECOND: Final = (Route(2, 3, 0, 1), Route(3, 2, 1, 0))


class Sum:
    """A sharing in the making: one party's components, summed up from several dealings.

    Args:
        me: the party.
        shape: of the value.
        start: components to begin with, copied; None for none.
        xor: of bits, not of integers.
    """

    __slots__ = ("begun", "parts", "slots", "xor")

    def __init__(
        self, me: int, shape: tuple[int, ...], start: Words | None = None, *, xor: bool = False
    ) -> None:
        held = (component for component in range(PARTIES) if component != me)
        self.slots = {component: at for at, component in enumerate(held)}
        self.parts = np.empty((len(self.slots), *shape), np.uint64) if start is None else start.copy()
        self.begun = set() if start is None else set(self.slots)
        self.xor = xor

    def __getitem__(self, component: int) -> Words:
        part: Words = self.parts[self.slots[component]]
        return part

    def add(self, component: int, values: Words) -> None:
        """Add to a component."""
        at = self.slots[component]
        if component not in self.begun:
            self.parts[at] = values
            self.begun.add(component)
        elif self.xor:
            self.parts[at] ^= values
        else:
            self.parts[at] += values

    def draw(self, component: int, generator: Prg) -> Words:
        """Add fresh random words to a component and return them; they are valid until the next change."""
        if component not in self.begun:
            generator.fill(self[component])
            self.begun.add(component)
            return self[component]
        drawn = generator.words(*self.parts.shape[1:])
        self.add(component, drawn)
        return drawn

    def done(self) -> Words:
        """Return the components; those that nothing was added to are zero."""
        for component in set(self.slots) - self.begun:
            self.parts[self.slots[component]] = 0
        return self.parts


class Term(NamedTuple):
    """What two parties know and are about to share.

    Attributes:
        known: at these two, in the shape of ``into``.
        into: the sharing that it is added to.
        bits: how many of the lowest bits matter and travel; 0 for all.
    """

    route: Route
    known: Words | None
    into: Sum
    bits: int = 0


class Dealer:
    """One party's side of sharing what two know.

    Args:
        me: the party.
        generators: of the components that it holds.
        joint: passes the messages.
    """

    def __init__(self, me: int, generators: Mapping[int, Prg], joint: Joint) -> None:
        self.me, self.first = me, me < 2
        self._generators, self._joint = generators, joint
        self._turn = 0

    def begin(self) -> None:
        """Let the next value take the first of its two ways again."""
        self._turn = 0

    def share(self, *terms: Term) -> None:
        """Share any number of terms: one round for all."""
        messages, arriving = [], []
        for term in terms:
            route, known, into, bits = term
            if self.me == route.receiver:
                shape = into.parts.shape[1:]
                told = np.empty((bits, words(shape[0])) if bits else shape, np.uint64)
                arriving.append((term, told))
            else:
                mask = into.draw(route.receiver, self._generators[route.receiver])
                if known is None:
                    continue
                rest = known ^ mask if into.xor else known - mask
                into.add(route.other, rest)
                told = ring.planes(rest, bits) if bits else rest
            messages.append(Message(route.sender, route.voucher, route.receiver, told))
        self._joint.tell(messages)
        for (route, _, into, bits), told in arriving:
            into.add(route.other, ring.from_planes(told, into.parts.shape[1]) if bits else told)

    def share_pairs(self, known: Mapping[Pair, Words], into: Sum) -> None:
        """Share the six terms of a product, by the components that they come from."""
        way = self.turn()
        routes = {**MIXED, (0, 1): _BY_SECOND[way], (2, 3): _BY_FIRST[way]}
        self.share(*(Term(route, known.get(pair), into) for pair, route in routes.items()))

    def share_mixed(self, known: Mapping[Pair, Words], into: Sum, bits: int = 0) -> None:
        """Share terms that come from a component of each side."""
        self.share(*(Term(route, known.get(pair), into, bits) for pair, route in MIXED.items()))

    def by_sides(self, mine: Words, first: Sum, second: Sum, way: int, bits: int = 0) -> tuple[Term, Term]:
        """Return the terms by which each side shares what it knows."""
        return (
            Term(_BY_FIRST[way], mine if self.first else None, first, bits),
            Term(_BY_SECOND[way], None if self.first else mine, second, bits),
        )

    def turn(self) -> int:
        """Return 0 and 1 in turns: which way to take if one is enough."""
        self._turn ^= 1
        return self._turn

    def to_sides(self, known: Mapping[Pair, Words]) -> Words:
        """Turn the six terms of a product into summands of the sides: return what both of this side know."""
        summand = known[(2, 3) if self.first else (0, 1)].copy()
        messages = []
        for pair, (sender, voucher, receiver, other) in MIXED.items():
            if self.me == receiver:
                rest = np.empty_like(summand)
                messages.append(Message(sender, voucher, receiver, rest))
                continue
            mask = self._generators[receiver].words(summand.size)
            beside = (receiver < 2) == self.first
            if not beside:
                summand += mask
            if self.me != other:
                rest = known[pair] - mask
                messages.append(Message(sender, voucher, receiver, rest))
                if beside:
                    summand += rest
        self._joint.tell(messages)
        for message in messages:
            if message.receiver == self.me:
                summand += message.words
        return summand

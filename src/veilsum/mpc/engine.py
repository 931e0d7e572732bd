"""The one interface of all engines: what can be done with shares, and who talks for it.

Programs (`veilsum.mpc.functions`, models, protocols) are written once against `Engine`; all computing parties
run the same program in the same order. Only sizes and shapes decide what is sent, never values.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from veilsum.mpc.shares import Arith, Bits, Product, Words

RING_BITS = 64
HEADROOM = 61
"""Truncation is without wrap error for |z| < 2^62; programs stay below 2^61."""


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a round and a byte cost between the computing parties: it decides how deep adders are.

    Attributes:
        round_trip: seconds a round takes at least.
        bandwidth: bytes a second that a party sends.
    """

    round_trip: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 1e-4
    bandwidth: Annotated[float, msgspec.Meta(gt=0, le=1e15)] = 3e8

    def seconds(self, rounds: int, sent: int) -> float:
        """Return the time of some rounds in which a party sends some bytes in all."""
        return rounds * self.round_trip + sent / self.bandwidth


class Engine(ABC):
    """One computing party's side of a way to compute on shares.

    Attributes:
        name: as jobs and results write it.
        parties: how many computing parties it needs.
        me: this party's number, 0 to parties - 1.
        link: what rounds and bytes cost.
        fraction: bits of fixed-point numbers (`veilsum.mpc.fixed`) behind the point.
    """

    name: ClassVar[str]
    parties: ClassVar[int]
    components: ClassVar[int]
    malicious: ClassVar[bool] = False
    adversary: ClassVar[str]
    me: int
    link: Link
    fraction: int = 18

    # -- who holds what

    @staticmethod
    @abstractmethod
    def holders(component: int) -> tuple[int, ...]:
        """Return the parties that hold a component (and its key)."""

    @staticmethod
    @abstractmethod
    def held(party: int) -> tuple[int, ...]:
        """Return the components that a party holds, in the order of ``parts``."""

    # -- public numbers

    @abstractmethod
    def constant(self, values: Words) -> Arith:
        """Return public ring elements as a share (no communication)."""

    @abstractmethod
    def flip(self, bits: Bits) -> Bits:
        """Return the negated bits (no communication)."""

    def plus(self, x: Arith, public: Words | int) -> Arith:
        """Return x plus public ring elements that broadcast to it."""
        number = np.uint64(public % (1 << RING_BITS)) if isinstance(public, int) else public
        return x + self.constant(np.broadcast_to(number, np.broadcast_shapes(x.shape, np.shape(number))))

    # -- in and out

    @abstractmethod
    def deal(self, values: Words | None, owner: int, shape: tuple[int, ...]) -> Arith:
        """Share what one computing party knows (``values`` there, None at the others)."""

    @abstractmethod
    def open(self, *shares: Arith) -> list[Words]:
        """Make shared values public to all computing parties, in one round.

        Raises:
            CheatingDetected: a check failed; nothing was opened.
        """

    @abstractmethod
    def reveal_bits(self, bits: Bits) -> Words:
        """Make bits public: (planes, words)."""

    # -- products

    @abstractmethod
    def times(self, x: Arith, y: Arith) -> Product:
        """Return the elementwise product, unfinished; shapes broadcast (no communication)."""

    @abstractmethod
    def times_matrix(self, x: Arith, y: Arith) -> Product:
        """Return the matrix product of the last two axes, unfinished (no communication)."""

    def unfinished(self, x: Arith) -> Product:
        """Return a share as a product, to be added to others (no communication)."""
        return self.times(x, self.constant(np.ones(x.shape, np.uint64)))

    @abstractmethod
    def reduce(self, product: Product, drop: int = 0) -> Arith:
        """Make a product a share, divided by 2^drop.

        Where drop > 0 the result is one of the two integers beside the exact quotient, for every |z| < 2^61:
        never wrong by a wrap. Engines of several parties round stochastically, without bias.
        """

    def reduce_all(self, products: Sequence[Product], drop: int = 0) -> list[Arith]:
        """Reduce several products in the rounds of one."""
        flat = self.reduce(Product.joined([product.reshape(-1) for product in products]), drop)
        out, at = [], 0
        for product in products:
            out.append(flat[at : at + product.size].reshape(*product.shape))
            at += product.size
        return out

    @abstractmethod
    def truncate(self, x: Arith, drop: int) -> Arith:
        """Divide by 2^drop, as `reduce` does."""

    def multiply(self, x: Arith, y: Arith, drop: int = 0) -> Arith:
        """Return x y / 2^drop."""
        return self.reduce(self.times(x, y), drop)

    def matmul(self, x: Arith, y: Arith, drop: int = 0) -> Arith:
        """Return the matrix product over 2^drop."""
        return self.reduce(self.times_matrix(x, y), drop)

    # -- bits

    @abstractmethod
    def conjunction(self, x: Bits, y: Bits) -> Bits:
        """Return x and y, bit by bit."""

    @abstractmethod
    def majority(self, u: Bits, v: Bits, c: Bits) -> Bits:
        """Return the majority of three bits, with one conjunction."""

    @abstractmethod
    def msb(self, x: Arith, width: int = RING_BITS) -> Bits:
        """Return the sign of values with |x| < 2^(width - 1): one plane."""

    @abstractmethod
    def decompose(self, x: Arith, width: int = RING_BITS) -> Bits:
        """Return the lowest ``width`` bits of ring elements."""

    @abstractmethod
    def compose(self, bits: Bits) -> Arith:
        """Return the integers whose bits these are."""

    @abstractmethod
    def select(self, bit: Bits, x: Arith) -> Arith:
        """Return x where the bit (one plane) is one, zero elsewhere."""

    # -- joint randomness, known to nobody

    @abstractmethod
    def random_bits(self, shape: tuple[int, ...], planes: int = 1) -> Bits:
        """Return uniform bits that no party knows."""

    def random_integers(self, shape: tuple[int, ...], bits: int) -> Arith:
        """Return uniform integers below 2^bits that no party knows."""
        return self.compose(self.random_bits(shape, bits))

    @abstractmethod
    def shuffle(self, *shares: Arith) -> list[Arith]:
        """Put the rows (first axis) of shares into one random order that no party knows."""

    def begin(self) -> None:  # noqa: B027 -- most have nothing to do
        """Note that a batch begins: what it says then does not depend on what was before."""

    # -- trust

    @abstractmethod
    def verify(self) -> None:
        """Check everything that was said so far.

        Raises:
            CheatingDetected: a party deviated (malicious engines).
            ProtocolError: the parties' generators are not in step.
        """

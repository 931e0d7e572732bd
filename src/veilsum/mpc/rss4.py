"""Four computing parties, replicated secret sharing over the integers modulo 2^64, against one that cheats.

A value is x0 + x1 + x2 + x3; party i lacks component i and holds the other three. The three that hold a
component share a generator. Whatever is sent, two parties know: one sends it, the other vouches for it
(`veilsum.mpc.joint`), and nothing is opened before all of it has been compared.

What two parties k and l know is shared between all four for one word: with i and j the other two, component
j is drawn from the generator that j lacks, component i is the rest, which j is told. A product is the sum of
six terms that two parties know each, one for every two components a and b,

    xy = sum over the pairs (02), (03), (12), (13) of (xa + xb)(ya + yb)
       - sum over the pairs (01), (23) of (xa - xb)(ya - yb),

because every xa ya comes three times, twice with plus. Parties 0 and 1 are one side, 2 and 3 the other: the
first both know x2 + x3, the others x0 + x1, a sharing between two sides of which each has two witnesses.

| what | bytes of all parties | rounds |
|---|---|---|
| product, matrix product, per element of the result | 48 | 1 |
| the same, divided by 2^f without wrap error | 48 + 6 f / 8 | 3 |
| division of a share by 2^f | 16 + 6 f / 8 | 2 |
| conjunction of bits | 6 bits | 1 |
| bits of the two sides, before an adder | 2 bits a bit | 1 |
| selection by a bit | 64 | 2 |
| integers of m bits from their bits | 16 m + 32 | 2 |
| input of a computing party | 16 | 1 |
| shuffle, per element | 96 | 4 |
| check of all that was said | 1248 in all | 4 |
| opening | 32, and 1600 in all with its check | 5 |

Adversary: one of the four deviates as it likes. It learns nothing but what is opened; every deviation that
could change a result ends the program at every honest party, with an error and without a result (abort,
unanimous: a false vote in the last two rounds of a check is outvoted and changes nothing). What it can do is
to stop the program, also after it has seen an opened value, and to enter inputs of its choice. One that falls
silent in the very last round of an opening may leave some honest parties with the (right) result and others
with an error. Two that collude read everything. Soundness: collisions of SHA-256 and of tags of 256 bits,
far below 2^-40.

Who deviated: one that opens or shows something else than it should is named; when messages do not agree, only
that it is one of the other three. To say more, digests of what depends on secrets would have to be shown.

Leaks: shapes, and what the program opens.

Source: Dalskov, Escudero and Keller, "Fantastic Four: Honest-Majority Four-Party Secure Computation With
Malicious Security" (USENIX Security 2021, eprint 2020/1330), with abort; the truncation follows the
known-top-bit wrap of Cheetah (USENIX Security 2022, section 4).
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np

from veilsum.arith import ring
from veilsum.crypto.prg import KEY_BYTES, Prg
from veilsum.errors import CheatingDetected, VeilsumError
from veilsum.mpc import adders
from veilsum.mpc.dealing import MIXED, Dealer, Route, Sum, Term
from veilsum.mpc.engine import RING_BITS, Engine, Link
from veilsum.mpc.joint import DIGEST, PARTIES, Joint, derived, digest, objected
from veilsum.mpc.plain import matrices
from veilsum.mpc.shares import Arith, Bits, Product, Words, words
from veilsum.mpc.wire import Wire

_OFFSET: Final = 1 << 62
_TOP: Final = np.uint64(RING_BITS - 1)
_ONE: Final = np.uint64(1)


class RSS4(Engine):
    """One of four parties.

    Args:
        wire: connects the four.
        keys: of the components that ``me`` holds, rising, 16 bytes each; each is known to its three holders.
        link: what rounds and bytes cost.
    """

    name: ClassVar[str] = "rss4"
    parties: ClassVar[int] = PARTIES
    components: ClassVar[int] = PARTIES
    malicious: ClassVar[bool] = True
    adversary: ClassVar[str] = (
        "malicious with abort; one of four computing parties, any two that collude read everything"
    )

    def __init__(self, wire: Wire, keys: Sequence[bytes], link: Link | None = None) -> None:
        self.wire, self.me, self.link = wire, wire.me, link or Link()
        self.first = self.me < 2
        held = dict(zip(self.held(self.me), keys, strict=True))
        self._prgs = {c: Prg(derived(key, b"masks")[:KEY_BYTES]) for c, key in held.items()}
        self._joint = Joint(wire, held, self._prgs)
        self._public = Prg(bytes(KEY_BYTES))  # no secret: decides what is rounded up
        self._dealer = Dealer(self.me, self._prgs, self._joint)
        self._pairs = [  # by component and by where it stands
            ((a, b), (i, j)) for i, a in enumerate(held) for j, b in enumerate(held) if a < b
        ]
        self._mixed = [pair for pair, _ in self._pairs if pair in MIXED]

    @staticmethod
    def holders(component: int) -> tuple[int, ...]:
        return tuple(party for party in range(PARTIES) if party != component)

    @staticmethod
    def held(party: int) -> tuple[int, ...]:
        return tuple(component for component in range(PARTIES) if component != party)

    # -- public numbers

    def constant(self, values: Words) -> Arith:
        parts = np.zeros((3, *np.shape(values)), np.uint64)
        if self.me != 0:  # component 0 holds it
            parts[0] = values
        return Arith(parts)

    def flip(self, bits: Bits) -> Bits:
        parts = bits.parts
        if self.me != 0:
            parts = parts.copy()
            np.invert(parts[0], out=parts[0])
        return Bits(parts, bits.shape)

    # -- in and out

    def deal(self, values: Words | None, owner: int, shape: tuple[int, ...]) -> Arith:
        # the two who are told the third component compare it; the one that the owner lacks is zero
        count = math.prod(shape)
        out = Sum(self.me, (count,))
        one, two, told = self.held(owner)
        drawn = [
            out.draw(component, self._prgs[component]) for component in (one, two) if component != self.me
        ]
        if self.me == owner:
            assert values is not None
            rest = values.reshape(-1) - drawn[0] - drawn[1]
            out.add(told, rest)
            self.wire.exchange({one: rest, two: rest}, {})
        elif self.me in {one, two}:
            rest = np.empty(count, np.uint64)
            self.wire.exchange({}, {owner: rest})
            self._joint.absorb(owner, one if self.me == two else two, rest)
            out.add(told, rest)
        else:
            self.wire.exchange({}, {})
        return Arith(out.done().reshape(3, *shape))

    def open(self, *shares: Arith) -> list[Words]:
        flat = np.concatenate([share.parts.reshape(3, -1) for share in shares], axis=1)
        total = self._missing(flat)
        for part in flat:
            total += part
        opened, at = [], 0
        for share in shares:
            opened.append(total[at : at + share.size].reshape(share.shape))
            at += share.size
        return opened

    def reveal_bits(self, bits: Bits) -> Words:
        total = self._missing(bits.parts.reshape(3, -1))
        for part in bits.parts:
            total ^= part.reshape(-1)
        return total.reshape(bits.parts.shape[1:])

    def _missing(self, parts: Words) -> Words:
        """Check everything, then get the component that this party lacks: one sends it, two its digest."""
        objection = self._joint.compare()
        count = parts.shape[1]
        outgoing: dict[int, Words] = {}
        for peer, part in zip(self.held(self.me), parts, strict=True):
            whole = self.me == (peer + 1) % PARTIES
            said = np.zeros(1 + (count if whole else DIGEST), np.uint64)
            said[0] = objection is not None
            if objection is None:  # else all stay in step, and get nothing
                said[1:] = part if whole else digest(b"open", np.ascontiguousarray(part))
            outgoing[peer] = said
        sender, *witnesses = ((self.me + step) % PARTIES for step in (1, 2, 3))
        heard = {sender: np.empty(1 + count, np.uint64)}
        heard |= {witness: np.empty(1 + DIGEST, np.uint64) for witness in witnesses}
        self.wire.exchange(outgoing, heard)
        missing = heard[sender][1:]
        if not self.wire.dry:
            objection = objection or _odd_one(missing, sender, heard)
        self._joint.settle(objection)
        return missing

    # -- products

    def times(self, x: Arith, y: Arith) -> Product:
        out = np.empty((3, *np.broadcast_shapes(x.shape, y.shape)), np.uint64)
        for at, (pair, slots) in enumerate(self._pairs):
            np.multiply(*_factors(x, y, pair, slots), out=out[at])
        return Product(out)

    def times_matrix(self, x: Arith, y: Arith) -> Product:
        terms = [matrices(*_factors(x, y, pair, slots)) for pair, slots in self._pairs]
        return Product(np.stack(terms))

    def unfinished(self, x: Arith) -> Product:
        # x0 + x1 and x2 + x3 are terms that two parties know
        out = np.zeros_like(x.parts, order="C")
        at = [pair for pair, _ in self._pairs].index((2, 3) if self.first else (0, 1))
        out[at] = self._known(x.parts)
        return Product(out)

    def reduce(self, product: Product, drop: int = 0) -> Arith:
        flat = product.parts.reshape(3, -1)
        known = {pair: flat[at] for at, (pair, _) in enumerate(self._pairs)}
        if drop:
            return self._truncate(self._dealer.to_sides(known), drop, product.shape)
        out = Sum(self.me, flat.shape[1:])
        self._dealer.share_pairs(known, out)
        return Arith(out.parts.reshape(3, *product.shape))

    def truncate(self, x: Arith, drop: int) -> Arith:
        if not drop:
            return x
        summand = self._known(x.parts).reshape(-1)
        # rounding is without bias only where the summands are uniform, whatever the components are
        shift = self._public.words(x.size)
        summand = summand + shift if self.first else summand - shift
        return self._truncate(summand, drop, x.shape)

    def _truncate(self, summand: Words, drop: int, shape: tuple[int, ...]) -> Arith:
        """Divide what the two sides hold summands of; may change the summand.

        With the offset 2^62 the value's top bit is zero, so the summands wrap exactly if m1 or m2, their top
        bits, is set. Shifting with the sign takes care of m1 + m2; the product m1 m2 is shared modulo
        2^drop. Shifting the summands apart loses 1 more than the floor with the probability that makes the
        whole an unbiased stochastic rounding, exact where nothing is cut off, once all but an ulp of 1 is
        added; the offset has it.
        """
        if self.first:
            summand = summand + np.uint64(_OFFSET + (1 << drop) - 1)
        quotient = (summand.view(np.int64) >> drop).view(np.uint64)
        if self.first:
            quotient -= np.uint64(_OFFSET >> drop)
        out, tops, both = (Sum(self.me, summand.shape) for _ in range(3))
        self._dealer.share(
            *self._dealer.by_sides(quotient, out, out, 0),
            *self._dealer.by_sides(summand >> _TOP, tops, tops, 1, drop),
        )
        self._dealer.share_mixed({(a, b): tops[a] * tops[b] for a, b in self._mixed}, both, drop)
        both.parts <<= np.uint64(RING_BITS - drop)
        out.parts += both.parts
        return Arith(out.parts.reshape(3, *shape))

    # -- bits

    def conjunction(self, x: Bits, y: Bits) -> Bits:
        return self._conjunction(x, y, None)

    def majority(self, u: Bits, v: Bits, c: Bits) -> Bits:
        return self._conjunction(u ^ c, v ^ c, c.parts)

    def _conjunction(self, x: Bits, y: Bits, plus: Words | None) -> Bits:
        out = Sum(self.me, x.parts.shape[1:], plus, xor=True)
        known = {pair: (x.parts[i] ^ x.parts[j]) & (y.parts[i] ^ y.parts[j]) for pair, (i, j) in self._pairs}
        self._dealer.share_pairs(known, out)
        return Bits(out.parts, x.shape)

    def msb(self, x: Arith, width: int = RING_BITS) -> Bits:
        u, v = self._halves(x, width)
        top = width - 1
        if top == 0:
            return u ^ v
        return u[top] ^ v[top] ^ adders.carry(self, u[:top], v[:top])

    def decompose(self, x: Arith, width: int = RING_BITS) -> Bits:
        return adders.add(self, *self._halves(x, width))

    def _halves(self, x: Arith, width: int) -> tuple[Bits, Bits]:
        """Share the bits of x2 + x3 and of x0 + x1."""
        planes = ring.planes(self._known(x.parts).reshape(-1), width)
        u, v = (Sum(self.me, planes.shape, xor=True) for _ in range(2))
        self._dealer.share(*self._dealer.by_sides(planes, u, v, self._dealer.turn()))
        return Bits(u.done(), x.shape), Bits(v.done(), x.shape)

    def compose(self, bits: Bits) -> Arith:
        """Return the sum of 2^p (c + d - 2 c d) over planes p, where one side knows c, the other d."""
        known = self._known(bits.parts, xor=True)
        mine = np.stack([ring.from_planes(plane[None], bits.size) for plane in known])
        sides = Sum(self.me, mine.shape)
        self._dealer.share(*self._dealer.by_sides(mine, sides, sides, self._dealer.turn()))
        weights = _ONE << np.arange(bits.planes, dtype=np.uint64)[:, None]
        out = Sum(self.me, (bits.size,), (sides.parts * weights).sum(axis=1, dtype=np.uint64))
        both = {(a, b): (sides[a] * sides[b] * weights).sum(axis=0, dtype=np.uint64) for a, b in self._mixed}
        self._dealer.share_mixed({pair: np.negative(term << _ONE) for pair, term in both.items()}, out)
        return Arith(out.parts.reshape(3, *bits.shape))

    def select(self, bit: Bits, x: Arith) -> Arith:
        """Return (c + d - 2 c d)(u + v), where one side knows c and u, the other d and v.

        It is g + h + d (u - 2 g) + c (v - 2 h) with g = c u and h = d v. The sides share g, c, h and d; as u
        and v are sums of components, u - 2 g and v - 2 h are shared with them.
        """
        n = x.size
        parts = x.parts.reshape(3, -1)
        mine = ring.from_planes(self._known(bit.parts, xor=True), n)
        out, sides = Sum(self.me, (n,)), Sum(self.me, (n,))
        self._dealer.share(
            *self._dealer.by_sides(mine * self._known(parts), out, out, 0),
            *self._dealer.by_sides(mine, sides, sides, 1),
        )
        rest = dict(zip(out.slots, parts - (out.parts << _ONE), strict=True))
        cross = {(a, b): sides[a] * rest[b] + sides[b] * rest[a] for a, b in self._mixed}
        self._dealer.share_mixed(cross, out)
        return Arith(out.parts.reshape(3, *x.shape))

    # -- joint randomness

    def random_bits(self, shape: tuple[int, ...], planes: int = 1) -> Bits:
        plane = words(math.prod(shape))
        return Bits(np.stack([prg.words(planes, plane) for prg in self._prgs.values()]), shape)

    def shuffle(self, *shares: Arith) -> list[Arith]:
        # four orders, each unknown to one party, one after another
        held = list(shares)
        for blind in range(PARTIES):
            held = self._shuffle_past(blind, held)
        return held

    def _shuffle_past(self, blind: int, shares: list[Arith]) -> list[Arith]:
        """Put rows into an order that all but one party know, and share them anew.

        Of the other components two parties each know the order too; their shares end in component ``blind``
        and in fresh masks.
        """
        rows = shares[0].shape[0]
        flat = np.concatenate([share.parts.reshape(3, rows, -1) for share in shares], axis=2)
        out = Sum(self.me, flat.shape[1:])
        if self.me != blind:
            order = np.argsort(self._prgs[blind].words(rows), kind="stable")
            flat = flat[:, order]
            out.add(blind, flat[out.slots[blind]])
        terms = []
        for component in self.held(blind):
            after = ((component + step) % PARTIES for step in range(1, PARTIES))
            sender, voucher = (party for party in after if party != blind)
            known = flat[out.slots[component]] if self.me in {sender, voucher} else None
            terms.append(Term(Route(sender, voucher, component, blind), known, out))
        self._dealer.share(*terms)
        shuffled, at = [], 0
        for share in shares:
            width = share.size // rows if rows else 0
            shuffled.append(Arith(out.parts[:, :, at : at + width].reshape(share.parts.shape)))
            at += width
        return shuffled

    def begin(self) -> None:
        self._dealer.begin()

    # -- trust

    def verify(self) -> None:
        self._joint.settle(self._joint.compare())

    # -- local

    def _known(self, parts: Words, *, xor: bool = False) -> Words:
        """Return x2 + x3 to the first side, x0 + x1 to the second."""
        one, two = parts[1:] if self.first else parts[:2]
        known: Words = np.bitwise_xor(one, two, order="C") if xor else np.add(one, two, order="C")
        return known


def _factors(x: Arith, y: Arith, pair: tuple[int, int], slots: tuple[int, int]) -> tuple[Words, Words]:
    """Return the two factors of the term of components a and b."""
    i, j = slots
    if pair in MIXED:
        return np.add(x.parts[i], x.parts[j], order="C"), np.add(y.parts[i], y.parts[j], order="C")
    return (
        np.subtract(x.parts[i], x.parts[j], order="C"),
        np.subtract(y.parts[j], y.parts[i], order="C"),
    )


def _odd_one(opened: Words, sender: int, heard: dict[int, Words]) -> VeilsumError | None:
    """Compare what one party sent with the digests of two others: of three, only one lies."""
    for party, said in heard.items():
        if said[0]:
            return objected(party)
    mine = digest(b"open", opened)
    differing = [party for party, said in heard.items() if party != sender and (said[1:] != mine).any()]
    if not differing:
        return None
    liar = differing[0] if len(differing) == 1 else sender
    return CheatingDetected(
        f"computing party {liar} opens another value than the others hold",
        remedy="no result was returned; leave this party out or have its software examined",
    )

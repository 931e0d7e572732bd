"""Three computing parties, replicated secret sharing over the integers modulo 2^64, semi-honest.

A value is x0 + x1 + x2; party i holds the components i and i + 1, so that a component is held by two. They
share a generator per component, from which masks come without communication.

| what | bytes of all parties | rounds |
|---|---|---|
| product, matrix product, per element of the result | 24 | 1 |
| the same, divided by 2^f without wrap error | 24 + (f + 2) / 8 | 3 |
| conjunction of bits | 3 bits | 1 |
| selection by a bit | 40 | 2 |
| opening | 24 | 1 |

Adversary: one of the three looks at everything it holds; it learns nothing but what is opened. Two that
collude read everything. A party that deviates changes results unseen: see `veilsum.mpc.rss4`.

Leaks: shapes, and what the program opens.

Source: Araki et al., "High-Throughput Semi-Honest Secure Three-Party Computation with an Honest Majority"
(CCS 2016); the truncation follows the known-top-bit wrap of Cheetah (USENIX Security 2022, section 4).
"""

from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np

from veilsum.arith import ring
from veilsum.crypto.prg import Prg
from veilsum.errors import ProtocolError
from veilsum.mpc import adders
from veilsum.mpc.engine import RING_BITS, Engine, Link
from veilsum.mpc.plain import matrices
from veilsum.mpc.shares import Arith, Bits, Product, Words, words
from veilsum.mpc.wire import Wire

_OFFSET: Final = np.uint64(1 << 62)
_TOP: Final = RING_BITS - 1


class RSS3(Engine):
    """One of three parties.

    Args:
        wire: connects the three.
        keys: of the components ``me`` and ``me + 1``, 16 bytes each; each is known to its two holders.
        link: what rounds and bytes cost.
    """

    name: ClassVar[str] = "rss3"
    parties: ClassVar[int] = 3
    components: ClassVar[int] = 3
    adversary: ClassVar[str] = (
        "semi-honest; one of three computing parties, any two that collude read everything"
    )

    def __init__(self, wire: Wire, keys: Sequence[bytes], link: Link | None = None) -> None:
        self.wire, self.me, self.link = wire, wire.me, link or Link()
        self.before, self.after = (self.me - 1) % 3, (self.me + 1) % 3
        self._mine, self._next = Prg(keys[0]), Prg(keys[1])  # shared with `before`, with `after`

    @staticmethod
    def holders(component: int) -> tuple[int, ...]:
        return (component, (component - 1) % 3)

    @staticmethod
    def held(party: int) -> tuple[int, ...]:
        return (party, (party + 1) % 3)

    # -- public numbers

    def constant(self, values: Words) -> Arith:
        parts = np.zeros((2, *np.shape(values)), np.uint64)
        if self.me != 1:  # component 0 holds it
            parts[0 if self.me == 0 else 1] = values
        return Arith(parts)

    def flip(self, bits: Bits) -> Bits:
        parts = bits.parts
        if self.me != 1:
            parts = parts.copy()
            at = 0 if self.me == 0 else 1
            np.invert(parts[at], out=parts[at])
        return Bits(parts, bits.shape)

    # -- in and out

    def deal(self, values: Words | None, owner: int, shape: tuple[int, ...]) -> Arith:
        # the owner's two components carry it; the third, which it does not hold, is zero
        parts = np.zeros((2, int(np.prod(shape, dtype=np.int64))), np.uint64)
        if self.me == owner:
            assert values is not None
            self._mine.fill(parts[0])
            np.subtract(values.reshape(-1), parts[0], out=parts[1])
            self.wire.exchange({self.after: parts[1]}, {})
        elif self.before == owner:
            self.wire.exchange({}, {owner: parts[0]})
        else:
            self._next.fill(parts[1])
            self.wire.exchange({}, {})
        return Arith(parts.reshape(2, *shape))

    def open(self, *shares: Arith) -> list[Words]:
        flat = np.concatenate([share.parts[1].reshape(-1) for share in shares])
        third = np.empty_like(flat)
        self._rotate(flat, third)
        opened, at = [], 0
        for share in shares:
            rest = third[at : at + share.size]
            known = share.parts.reshape(2, -1)
            opened.append((known[0] + known[1] + rest).reshape(share.shape))
            at += share.size
        return opened

    def reveal_bits(self, bits: Bits) -> Words:
        mine = np.ascontiguousarray(bits.parts[1])
        third = np.empty_like(mine)
        self._rotate(mine, third)
        return np.asarray(bits.parts[0] ^ mine ^ third)

    # -- products

    def times(self, x: Arith, y: Arith) -> Product:
        if x.shape == y.shape:
            x0, x1, y0, y1 = (np.ascontiguousarray(part) for part in (*x.parts, *y.parts))
            return Product(ring.product(x0, x1, y0, y1)[None])
        # axes of length 1 stay: without any, numpy would compute with scalars and warn of every overflow
        z: Words = x.parts[:1] * (y.parts[:1] + y.parts[1:])
        z += x.parts[1:] * y.parts[:1]
        return Product(z)

    def times_matrix(self, x: Arith, y: Arith) -> Product:
        # x0 (y0 + y1) + x1 y0 as one product of twice the inner length
        left = np.concatenate([x.parts[0], x.parts[1]], axis=-1)
        right = np.concatenate([y.parts[0] + y.parts[1], y.parts[0]], axis=-2)
        return Product(matrices(left, right)[None])

    def unfinished(self, x: Arith) -> Product:
        return Product(x.parts[:1])

    def reduce(self, product: Product, drop: int = 0) -> Arith:
        z = np.ascontiguousarray(product.parts[0]).reshape(-1)
        if drop:
            return self._truncate(z, drop, product.shape, folded=False)
        parts = self._masks(z.shape)
        ring.add_masks(z, parts[0], parts[1], out=parts[0])
        return Arith(self._rotated(parts).reshape(2, *product.shape))

    def truncate(self, x: Arith, drop: int) -> Arith:
        if not drop:
            return x
        # x0 + x1 is known to party 0 and x2 to party 1: a sharing between two already
        # (with a mask between the two: rounding is without bias only where the summands are uniform)
        flat = x.parts.reshape(2, -1)
        summand = (flat[0] + flat[1], flat[1], flat[0])[self.me]
        if self.me == 0:
            summand = summand + self._next.words(x.size)
        elif self.me == 1:
            summand = summand - self._mine.words(x.size)
        return self._truncate(summand, drop, x.shape, folded=True)

    def _truncate(self, z: Words, drop: int, shape: tuple[int, ...], *, folded: bool) -> Arith:
        """Divide what parties 0 and 1 (and 2, if not folded) hold summands of; party 2 helps.

        With the offset 2^62 the value's top bit is zero, so the summands of parties 0 and 1 wrap exactly if
        one of their top bits is set. That "or" is shared modulo 2^f by help of a product of random bits.
        Shifting the summands apart loses 1 with a probability that makes the whole an unbiased stochastic
        rounding once 1 - 2^-drop is added, and exact quotients exact; the offset has it.
        """
        n, plane = z.size, words(z.size)
        out = np.empty((2, n), np.uint64)
        if self.me == 2:
            mask = None if folded else self._next.words(n)
            a, both = self._next.words(plane), self._next.words(n)
            b = self._mine.words(plane)
            lacking = ring.planes(ring.from_planes((a & b)[None], n) - both, drop)
            dealt = lacking.reshape(-1) if mask is None else np.concatenate([z + mask, lacking.reshape(-1)])
            self.wire.exchange({1: dealt}, {})  # 1
            self.wire.exchange({}, {})  # 2
            self._mine.fill(out[0])
            self._next.fill(out[1])
            self.wire.exchange({}, {})  # 3
            return Arith(out.reshape(2, *shape))
        lead = self.me == 0
        source = self._mine if lead else self._next
        if lead:
            offset = _OFFSET + np.uint64((1 << drop) - 1)
            summand = z + offset if folded else z - source.words(n) + offset
            triple, both = source.words(plane), source.words(n)
            self.wire.exchange({}, {})  # 1
        else:
            triple = source.words(plane)
            dealt = np.empty((0 if folded else n) + drop * plane, np.uint64)
            self.wire.exchange({}, {2: dealt})  # 1
            summand = z if folded else z + dealt[:n]
            both = ring.from_planes(dealt[-drop * plane :].reshape(drop, plane), n)
        peer = 1 if lead else 0
        own, other = ring.plane(summand, _TOP) ^ triple, np.empty(plane, np.uint64)
        self.wire.exchange({peer: own}, {peer: other})  # 2
        held, made = (out[0], out[1]) if lead else (out[1], out[0])
        source.fill(held)
        mine = ring.truncate_share(summand, own, other, triple, both, drop, lead, np.negative(held))
        self.wire.exchange({peer: mine}, {peer: made})  # 3
        made += mine
        return Arith(out.reshape(2, *shape))

    # -- bits

    def conjunction(self, x: Bits, y: Bits) -> Bits:
        xa, xb, ya, yb = (np.ascontiguousarray(part) for part in (*x.parts, *y.parts))
        parts = self._masks(xa.shape)
        ring.conjunction(xa, xb, ya, yb, parts[0], parts[1], out=parts[0])
        return Bits(self._rotated(parts), x.shape)

    def majority(self, u: Bits, v: Bits, c: Bits) -> Bits:
        ua, ub, va, vb, ca, cb = (np.ascontiguousarray(part) for one in (u, v, c) for part in one.parts)
        parts = self._masks(ua.shape)
        ring.majority(ua, ub, va, vb, ca, cb, parts[0], parts[1], out=parts[0])
        return Bits(self._rotated(parts), u.shape)

    def msb(self, x: Arith, width: int = RING_BITS) -> Bits:
        u, v = self._halves(x, width)
        top = width - 1
        if top == 0:
            return u ^ v
        return u[top] ^ v[top] ^ adders.carry(self, u[:top], v[:top])

    def decompose(self, x: Arith, width: int = RING_BITS) -> Bits:
        return adders.add(self, *self._halves(x, width))

    def compose(self, bits: Bits) -> Arith:
        """Return the sum of 2^p (c + d - 2 c d) over planes p; party 0 knows c, the others know d."""
        n, planes = bits.size, bits.planes
        parts = self._masks((n,))
        z = np.subtract(parts[0], parts[1], out=parts[0])
        if self.me == 0:
            c = [ring.from_planes((bits.parts[0, p] ^ bits.parts[1, p])[None], n) for p in range(planes)]
            w = np.concatenate([np.uint64(1) - (one << np.uint64(1)) for one in c])
            w -= self._mine.words(w.size)
            self.wire.exchange({1: w}, {})
            for p, one in enumerate(c):
                z += one << np.uint64(p)
        else:
            if self.me == 1:
                w, known = np.empty(n * planes, np.uint64), bits.parts[1]
                self.wire.exchange({}, {0: w})
            else:
                w, known = self._next.words(n * planes), bits.parts[0]
                self.wire.exchange({}, {})
            for p in range(planes):
                d = ring.from_planes(np.ascontiguousarray(known[p])[None], n)
                d *= w[p * n : (p + 1) * n]
                z += d << np.uint64(p)
        return Arith(self._rotated(parts).reshape(2, *bits.shape))

    def select(self, bit: Bits, x: Arith) -> Arith:
        """Return (c + d - 2 c d)(u + v): party 0 knows c and u, the others know d and v.

        It is c u + d v + d ((1 - 2 c) u) + c ((1 - 2 d) v), where party 0 shares (1 - 2 c) u and c between
        the other two.
        """
        n = x.size
        held = [np.ascontiguousarray(part).reshape(-1) for part in x.parts]
        parts = self._masks((n,))
        z, minus = parts
        if self.me == 0:
            w, c = dealt = self._mine.words(2, n)
            plane = bit.parts[0, 0] ^ bit.parts[1, 0]
            ring.select_deal(held[0] + held[1], plane, w, c, z, minus, out=(w, c, z))
            self.wire.exchange({1: dealt}, {})
        else:
            second = self.me == 1
            if second:
                dealt, mine = np.empty((2, n), np.uint64), 1
                self.wire.exchange({}, {0: dealt})
            else:
                dealt, mine = self._next.words(2, n), 0
                self.wire.exchange({}, {})
            plane = np.ascontiguousarray(bit.parts[mine, 0])
            ring.select_take(held[mine], plane, dealt[0], dealt[1], second, z, minus, out=z)
        return Arith(self._rotated(parts).reshape(2, *x.shape))

    def _halves(self, x: Arith, width: int) -> tuple[Bits, Bits]:
        """Share the bits of x0 + x1, which party 0 knows, and of x2, which the others know."""
        n, flat = x.size, np.ascontiguousarray(x.parts).reshape(2, -1)
        parts = np.zeros((2, 2, width, words(n)), np.uint64)  # of u, of v
        u, v = parts
        if self.me == 0:
            known = flat[0] + flat[1]
            self._mine.fill(u[0])
            ring.planes(known, width, out=u[1])
            u[1] ^= u[0]
            self.wire.exchange({1: u[1]}, {})
        elif self.me == 1:
            ring.planes(flat[1], width, out=v[1])
            self.wire.exchange({}, {0: u[0]})
        else:
            ring.planes(flat[0], width, out=v[0])
            self._next.fill(u[1])
            self.wire.exchange({}, {})
        return Bits(u, x.shape), Bits(v, x.shape)

    # -- joint randomness

    def random_bits(self, shape: tuple[int, ...], planes: int = 1) -> Bits:
        plane = words(int(np.prod(shape, dtype=np.int64)))
        parts = np.stack([self._mine.words(planes, plane), self._next.words(planes, plane)])
        return Bits(parts, shape)

    def shuffle(self, *shares: Arith) -> list[Arith]:
        # three orders, each known to two parties, one after another
        held = list(shares)
        for lead in range(3):
            held = self._shuffle_by(lead, held)
        return held

    def _shuffle_by(self, lead: int, shares: list[Arith]) -> list[Arith]:
        """Put rows into an order that parties ``lead`` and ``lead + 1`` know, and share them anew."""
        second, helper = (lead + 1) % 3, (lead + 2) % 3
        rows = shares[0].shape[0]
        out = [np.empty_like(share.parts) for share in shares]
        if self.me == helper:
            for parts in out:
                self._mine.fill(parts[0])
                self._next.fill(parts[1])
            self.wire.exchange({}, {})
            return [Arith(parts) for parts in out]
        leads = self.me == lead
        peer, common = (second, self._next) if leads else (lead, self._mine)
        order = np.argsort(common.words(2, rows)[0], kind="stable")
        source = self._mine if leads else self._next  # with the helper
        sent = []
        for share, parts in zip(shares, out, strict=True):
            summand = share.parts[0] + share.parts[1] if leads else share.parts[1]
            kept = parts[0] if leads else parts[1]
            source.fill(kept)
            sent.append((summand[order] - kept).reshape(-1))
        mine = np.concatenate(sent)
        other = np.empty_like(mine)
        self.wire.exchange({peer: mine}, {peer: other})
        mine = mine + other
        at = 0
        for parts in out:
            made = parts[1] if leads else parts[0]
            made[...] = mine[at : at + made.size].reshape(made.shape)
            at += made.size
        return [Arith(parts) for parts in out]

    # -- trust

    def verify(self) -> None:
        mine = np.array([self._mine.position, self._next.position], np.uint64)
        theirs = {peer: np.empty(1, np.uint64) for peer in (self.before, self.after)}
        self.wire.exchange({self.before: mine[:1], self.after: mine[1:]}, theirs)
        for at, peer in enumerate((self.before, self.after)):
            if theirs[peer][0] != mine[at] and not self.wire.dry:
                raise ProtocolError(
                    f"computing party {peer} has drawn other random numbers: it runs another program",
                    remedy="give all computing parties the same version of veilsum, job and model",
                )

    # -- rounds

    def _rotate(self, mine: Words, theirs: Words) -> None:
        self.wire.exchange({self.before: mine}, {self.after: theirs})

    def _masks(self, shape: tuple[int, ...]) -> Words:
        """Return two arrays of a shape; their difference is a party's summand of a sharing of zero."""
        parts = np.empty((2, *shape), np.uint64)
        self._mine.fill(parts[0])
        self._next.fill(parts[1])
        return parts

    def _rotated(self, parts: Words) -> Words:
        """Tell one neighbour what this party has put into the first component; hear the second."""
        self._rotate(parts[0], parts[1])
        return parts

"""The reference engine: one party, nothing hidden, the arithmetic of the others. Their twin in tests."""

from typing import ClassVar

import numpy as np

from veilsum.arith import ring
from veilsum.mpc.engine import RING_BITS, Engine, Link
from veilsum.mpc.shares import Arith, Bits, Product, Words


class Plain(Engine):
    """Values in clear as "shares" of one component; truncation rounds to the nearest.

    Args:
        seed: of what the other engines draw jointly.
    """

    name: ClassVar[str] = "plain"
    parties: ClassVar[int] = 1
    components: ClassVar[int] = 1
    adversary: ClassVar[str] = "nobody: the values are in clear"

    def __init__(self, seed: int = 0, link: Link | None = None) -> None:
        self.me, self.link = 0, link or Link()
        self._random = np.random.default_rng(seed)

    @staticmethod
    def holders(component: int) -> tuple[int, ...]:
        return (component,)

    @staticmethod
    def held(party: int) -> tuple[int, ...]:
        return (party,)

    def constant(self, values: Words) -> Arith:
        return Arith(np.asarray(values, np.uint64)[None])

    def flip(self, bits: Bits) -> Bits:
        return Bits(~bits.parts, bits.shape)

    def deal(self, values: Words | None, owner: int, shape: tuple[int, ...]) -> Arith:
        assert values is not None
        assert owner == 0
        return self.constant(values.reshape(shape))

    def open(self, *shares: Arith) -> list[Words]:
        return [share.parts[0] for share in shares]

    def reveal_bits(self, bits: Bits) -> Words:
        return np.asarray(bits.parts[0])

    def times(self, x: Arith, y: Arith) -> Product:
        return Product((x.parts[0] * y.parts[0])[None])

    def times_matrix(self, x: Arith, y: Arith) -> Product:
        return Product(matrices(x.parts[0], y.parts[0])[None])

    def unfinished(self, x: Arith) -> Product:
        return Product(x.parts)

    def reduce(self, product: Product, drop: int = 0) -> Arith:
        return self.truncate(Arith(product.parts), drop)

    def truncate(self, x: Arith, drop: int) -> Arith:
        if not drop:
            return x
        return Arith(((x.parts + np.uint64(1 << (drop - 1))).view(np.int64) >> drop).view(np.uint64))

    def conjunction(self, x: Bits, y: Bits) -> Bits:
        return Bits(x.parts & y.parts, x.shape)

    def majority(self, u: Bits, v: Bits, c: Bits) -> Bits:
        return Bits(((u.parts ^ c.parts) & (v.parts ^ c.parts)) ^ c.parts, u.shape)

    def msb(self, x: Arith, width: int = RING_BITS) -> Bits:
        return Bits(ring.plane(_flat(x), width - 1)[None, None], x.shape)

    def decompose(self, x: Arith, width: int = RING_BITS) -> Bits:
        return Bits(ring.planes(_flat(x), width)[None], x.shape)

    def compose(self, bits: Bits) -> Arith:
        return Arith(ring.from_planes(np.ascontiguousarray(bits.parts[0]), bits.size).reshape(1, *bits.shape))

    def select(self, bit: Bits, x: Arith) -> Arith:
        chosen = ring.from_planes(np.ascontiguousarray(bit.parts[0]), bit.size).reshape(bit.shape)
        return Arith(x.parts * chosen)

    def random_bits(self, shape: tuple[int, ...], planes: int = 1) -> Bits:
        size = int(np.prod(shape, dtype=np.int64))
        values = self._random.integers(0, 1 << 64, (1, planes, -(-size // 64)), dtype=np.uint64)
        return Bits(values, shape)

    def shuffle(self, *shares: Arith) -> list[Arith]:
        order = self._random.permutation(shares[0].shape[0])
        return [share.taken(order) for share in shares]

    def verify(self) -> None:
        pass


def matrices(a: Words, b: Words) -> Words:
    """Return the matrix products of the last two axes modulo 2^64; leading axes broadcast."""
    if a.ndim == b.ndim == 2:
        return ring.matmul(a, b)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = np.broadcast_to(a, lead + a.shape[-2:]), np.broadcast_to(b, lead + b.shape[-2:])
    out = np.empty((*lead, a.shape[-2], b.shape[-1]), np.uint64)
    for index in np.ndindex(lead):
        ring.matmul(a[index], b[index], out=out[index])
    return out


def _flat(x: Arith) -> Words:
    return np.ascontiguousarray(x.parts[0]).reshape(-1)

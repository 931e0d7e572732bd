"""What a party holds of a shared value: ring elements, unfinished products, bits. Three types, never mixed.

A share's ``parts`` are this party's components of the sharing, the first axis; behind it stands the shape of
the value. What is linear is local and the same in every engine, so it stands here; what needs other parties,
or a public number, stands in `veilsum.mpc.engine`.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
WORD = 64


class Linear:
    """A share on which sums and moves are local.

    Attributes:
        parts: uint64, the components first, then the value's shape; never changed in place.
    """

    __slots__ = ("parts",)
    __hash__ = None  # type: ignore[assignment]  # equal shares do not mean equal values

    def __init__(self, parts: Words) -> None:
        self.parts = parts

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.shape}"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the shared value."""
        return self.parts.shape[1:]

    @property
    def size(self) -> int:
        """The number of shared elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def ndim(self) -> int:
        """The number of axes of the shared value."""
        return self.parts.ndim - 1

    def __add__(self, other: Self) -> Self:
        return type(self)(np.add(*self._aligned_with(other)))

    def __sub__(self, other: Self) -> Self:
        return type(self)(np.subtract(*self._aligned_with(other)))

    def __neg__(self) -> Self:
        return type(self)(np.negative(self.parts))

    def __getitem__(self, index: Any) -> Self:
        index = index if isinstance(index, tuple) else (index,)
        return type(self)(self.parts[(slice(None), *index)])

    def scaled(self, by: int | Words) -> Self:
        """Return the product with public integers modulo 2^64 (a number, or an array that broadcasts)."""
        if isinstance(by, int):
            return type(self)(self.parts * np.uint64(by % (1 << 64)))
        return type(self)(_aligned(self.parts, by.ndim) * by)

    def sum(self, axis: int | tuple[int, ...], *, keep: bool = False) -> Self:
        """Return the sum over one or more axes (``keep``: they stay, with length 1)."""
        axes = tuple(self._axis(a) for a in ((axis,) if isinstance(axis, int) else axis))
        return type(self)(self.parts.sum(axis=axes, keepdims=keep, dtype=np.uint64))

    def reshape(self, *shape: int) -> Self:
        """Return the same elements in another shape."""
        return type(self)(self.parts.reshape(self.parts.shape[0], *shape))

    def permuted(self, *axes: int) -> Self:
        """Return the axes in another order."""
        return type(self)(self.parts.transpose(0, *(self._axis(a) for a in axes)))

    @property
    def T(self) -> Self:  # noqa: N802 -- numpy's name
        """The last two axes exchanged."""
        return type(self)(np.swapaxes(self.parts, -1, -2))

    def spread(self, shape: Sequence[int]) -> Self:
        """Return the value broadcast to a shape, without a copy."""
        wanted = (self.parts.shape[0], *shape)
        return type(self)(np.broadcast_to(_aligned(self.parts, len(shape)), wanted))

    def taken(self, indices: NDArray[np.integer[Any]], axis: int = 0) -> Self:
        """Return the elements at public indices along an axis."""
        return type(self)(self.parts.take(indices, axis=self._axis(axis)))

    @classmethod
    def joined(cls, shares: Sequence[Self], axis: int = 0) -> Self:
        """Return several shares end to end along an axis."""
        first = shares[0]
        for other in shares[1:]:
            first._alike(other)  # noqa: SLF001 -- of the same class
        return cls(np.concatenate([share.parts for share in shares], axis=axis % max(first.ndim, 1) + 1))

    def _aligned_with(self, other: "Linear") -> tuple[Words, Words]:
        self._alike(other)
        return _aligned(self.parts, other.ndim), _aligned(other.parts, self.ndim)

    def _axis(self, axis: int) -> int:
        # among the parts' axes
        return (axis % max(self.ndim, 1)) + 1

    def _alike(self, other: "Linear") -> None:
        if type(other) is not type(self) or other.parts.shape[0] != self.parts.shape[0]:
            raise TypeError(f"{self!r} and {other!r} are not shares of one kind and engine")


class Arith(Linear):
    """Ring elements modulo 2^64, shared."""

    __slots__ = ()


class Product(Linear):
    """Sums of products of shares, each party holding a summand: to be made `Arith` by `Engine.reduce`."""

    __slots__ = ()


class Bits:
    """Bits, shared: bit planes, 64 elements to a word.

    Attributes:
        parts: (components, planes, words) uint64; bit j of word w of plane p is bit p of element 64 w + j.
        shape: of the elements.
    """

    __slots__ = ("parts", "shape")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, parts: Words, shape: tuple[int, ...]) -> None:
        self.parts, self.shape = parts, shape

    def __repr__(self) -> str:
        return f"Bits{self.shape} of {self.planes}"

    @property
    def planes(self) -> int:
        """How many bits an element has."""
        return int(self.parts.shape[1])

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __xor__(self, other: "Bits") -> "Bits":
        if other.shape != self.shape:
            raise TypeError(f"{self!r} and {other!r} are not bits of the same elements")
        return Bits(self.parts ^ other.parts, self.shape)

    def __getitem__(self, planes: int | slice) -> "Bits":
        chosen = slice(planes, planes + 1) if isinstance(planes, int) else planes
        return Bits(self.parts[:, chosen], self.shape)

    def reshape(self, *shape: int) -> "Bits":
        """Return the same elements in another shape."""
        rest = -int(np.prod(shape, dtype=np.int64))
        full = tuple(self.size // rest if n == -1 else n for n in shape) if -1 in shape else shape
        if int(np.prod(full, dtype=np.int64)) != self.size:
            raise ValueError(f"{self!r} cannot take the shape {shape}")
        return Bits(self.parts, full)


def words(count: int) -> int:
    """Return how many words a plane of ``count`` bits takes."""
    return -(-count // WORD)


def _aligned(parts: Words, ndim: int) -> Words:
    """Put axes of length 1 behind the components, so that values broadcast as without them."""
    missing = ndim + 1 - parts.ndim
    return parts.reshape(parts.shape[0], *(1,) * missing, *parts.shape[1:]) if missing > 0 else parts

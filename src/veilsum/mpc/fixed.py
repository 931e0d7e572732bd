"""Fixed-point numbers on shares, each with a public bound that no value exceeds.

A number v is the ring element round(v 2^f). Every operation knows the bound of its result from those of its
operands; where a result could leave the ring's safe range it raises instead of wrapping. A bound that grows
too pessimistic is replaced by a declared one with `Fixed.within`: a promise about the values, which the
program's author makes and nobody can check on shares.
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from veilsum.errors import ConfigError, DataError
from veilsum.mpc.engine import HEADROOM, RING_BITS, Engine
from veilsum.mpc.shares import Arith, Bits, Words

Floats = NDArray[np.float64]
_FINEST = 40
"""Most bits of a public factor beyond f: what is dropped must stay below `HEADROOM`."""


class Fixed:
    """A shared array of fixed-point numbers.

    Attributes:
        engine: of the share.
        share: ring elements, value times 2^f.
        bound: what no value's magnitude exceeds.
    """

    __slots__ = ("bound", "engine", "share")
    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None  # numpy leaves ``array + fixed`` to this class

    def __init__(self, engine: Engine, share: Arith, bound: float) -> None:
        limit = 2.0 ** (HEADROOM - engine.fraction)
        if not 0 <= bound <= limit:
            raise ConfigError(
                f"values up to {bound:.3g} do not fit {engine.fraction} bits behind the point",
                remedy=f"the limit is {limit:.3g}: declare tighter ranges",
            )
        self.engine, self.share, self.bound = engine, share, float(bound)

    def __repr__(self) -> str:
        return f"Fixed{self.shape} within {self.bound:.4g}"

    # -- shape

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the shared array."""
        return self.share.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.share.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.share.size

    @property
    def T(self) -> Self:  # noqa: N802 -- numpy's name
        """The last two axes exchanged."""
        return self._with(self.share.T)

    def __getitem__(self, index: Any) -> Self:
        return self._with(self.share[index])

    def reshape(self, *shape: int) -> Self:
        """Return the same elements in another shape."""
        return self._with(self.share.reshape(*shape))

    def permuted(self, *axes: int) -> Self:
        """Return the axes in another order."""
        return self._with(self.share.permuted(*axes))

    def spread(self, shape: Sequence[int]) -> Self:
        """Return the numbers broadcast to a shape, without a copy."""
        return self._with(self.share.spread(shape))

    def taken(self, indices: NDArray[np.integer[Any]], axis: int = 0) -> Self:
        """Return the numbers at public indices along an axis."""
        return self._with(self.share.taken(indices, axis))

    @staticmethod
    def joined(numbers: Sequence["Fixed"], axis: int = 0) -> "Fixed":
        """Return several arrays end to end along an axis."""
        share = Arith.joined([one.share for one in numbers], axis)
        return Fixed(numbers[0].engine, share, max(one.bound for one in numbers))

    # -- ranges

    def within(self, bound: float) -> Self:
        """Return the same numbers under a tighter, promised bound.

        A value beyond it makes wrong results of operations that trust it, silently.
        """
        return type(self)(self.engine, self.share, min(bound, self.bound))

    @property
    def width(self) -> int:
        """How many bits hold every value with its sign."""
        return width_of(self.bound, self.engine.fraction)

    # -- arithmetic

    def __add__(self, other: "Fixed | ArrayLike") -> Self:
        if isinstance(other, Fixed):
            return type(self)(self.engine, self.share + other.share, self.bound + other.bound)
        public = np.asarray(other, np.float64)
        shape = np.broadcast_shapes(self.shape, public.shape)
        ring = encode(public, self.engine.fraction)
        share = self.engine.plus(self.share.spread(shape), ring)
        return type(self)(self.engine, share, self.bound + _largest(decode(ring, self.engine.fraction)))

    __radd__ = __add__

    def __sub__(self, other: "Fixed | ArrayLike") -> Self:
        if isinstance(other, Fixed):
            return type(self)(self.engine, self.share - other.share, self.bound + other.bound)
        return self + (-np.asarray(other, np.float64))

    def __rsub__(self, other: ArrayLike) -> Self:
        return (-self) + other

    def __neg__(self) -> Self:
        return self._with(-self.share)

    def __mul__(self, other: "Fixed | ArrayLike") -> Self:
        f = self.engine.fraction
        if isinstance(other, Fixed):
            bound = self.product_bound(other.bound)
            share = self.engine.multiply(self.share, other.share, f)
            return type(self)(self.engine, share, bound)
        public = np.asarray(other, np.float64)
        if np.all(public == np.round(public)) and _largest(public) < 2.0**20:
            # whole numbers need no truncation
            whole = np.asarray(public.astype(np.int64)).view(np.uint64)
            return type(self)(self.engine, self.share.scaled(whole), self.bound * _largest(public))
        drop = f + self._finer(_largest(public))
        factor = np.asarray(encode(public, drop))
        bound = self.product_bound(_largest(decode(factor, drop)))
        return type(self)(self.engine, self.engine.truncate(self.share.scaled(factor), drop), bound)

    __rmul__ = __mul__

    def __matmul__(self, other: "Fixed | ArrayLike") -> Self:
        f = self.engine.fraction
        if isinstance(other, Fixed):
            bound = self.product_bound(other.bound, self.shape[-1])
            return type(self)(self.engine, self.engine.matmul(self.share, other.share, f), bound)
        public = np.asarray(other, np.float64)
        ring = encode(public, f)
        bound = self.product_bound(_largest(decode(ring, f)), self.shape[-1])
        return type(self)(self.engine, self.engine.matmul(self.share, self.engine.constant(ring), f), bound)

    def sum(self, axis: int | tuple[int, ...] | None = None, *, keep: bool = False) -> Self:
        """Return the sum over axes (None: all)."""
        axes = tuple(range(self.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
        count = math.prod(self.shape[a] for a in axes)
        return type(self)(self.engine, self.share.sum(axes, keep=keep), self.bound * count)

    def mean(self, axis: int | tuple[int, ...] | None = None, *, keep: bool = False) -> Self:
        """Return the mean over axes (None: all)."""
        axes = tuple(range(self.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
        count = math.prod(self.shape[a] for a in axes)
        return (self.sum(axes, keep=keep) * (1.0 / count)).within(self.bound + 2.0**-self.engine.fraction)

    def halved(self, bits: int) -> Self:
        """Return the numbers divided by 2^bits."""
        if bits <= 0:
            return type(self)(self.engine, self.share.scaled(1 << -bits), self.bound * 2.0**-bits)
        bound = self.bound * 2.0**-bits + 2.0**-self.engine.fraction
        return type(self)(self.engine, self.engine.truncate(self.share, bits), bound)

    def _finer(self, factor: float) -> int:
        """Return how many more bits than f a public factor gets, for products right to the last bit."""
        if not self.bound * factor:
            return 0
        room = HEADROOM - 2 * self.engine.fraction - math.log2(self.bound * factor)
        return max(0, min(math.ceil(math.log2(self.bound)), math.floor(room) - 1, _FINEST))

    def _with(self, share: Arith) -> Self:
        return type(self)(self.engine, share, self.bound)

    def product_bound(self, other: float, terms: int = 1) -> float:
        """Return the bound of a sum of products, whose ring elements have twice the fraction bits.

        Raises:
            ConfigError: they would not fit.
        """
        bound = self.bound * other * terms
        limit = 2.0 ** (HEADROOM - 2 * self.engine.fraction)
        if bound > limit:
            raise ConfigError(
                f"a product of values within {self.bound:.3g} and {other:.3g}"
                f"{f', summed over {terms}' if terms > 1 else ''} may reach {bound:.3g}, beyond {limit:.3g}",
                remedy="declare tighter ranges of what enters it",
            )
        # truncation and the operands' own rounding
        return bound + 2.0**-self.engine.fraction


# -- between numbers and ring elements


def encode(values: ArrayLike, fraction: int) -> Words:
    """Return ring elements of public numbers: round(v 2^f), which must be finite and fit.

    Raises:
        DataError: a value is not finite or too large.
    """
    with np.errstate(over="ignore"):  # infinity is refused below
        scaled = np.round(np.asarray(values, np.float64) * 2.0**fraction)
    if not np.all(np.isfinite(scaled)):
        raise DataError("a value is not a finite number", remedy="remove or fill missing and infinite values")
    if scaled.size and float(np.max(np.abs(scaled))) > 2.0**HEADROOM:
        raise DataError("a value is too large for the fixed-point range", remedy="scale the data")
    return np.asarray(scaled.astype(np.int64)).view(np.uint64)


def decode(values: Words, fraction: int) -> Floats:
    """Return the numbers that ring elements stand for."""
    return np.asarray(values.view(np.int64) / 2.0**fraction)


def width_of(bound: float, fraction: int) -> int:
    """Return how many bits hold every fixed-point number within a bound, with its sign."""
    return min(RING_BITS, max(2, math.ceil(math.log2(bound * 2.0**fraction + 1)) + 2))


def public(engine: Engine, values: ArrayLike) -> Fixed:
    """Return public numbers as a (trivial) share."""
    ring = encode(values, engine.fraction)
    return Fixed(engine, engine.constant(ring), _largest(decode(ring, engine.fraction)))


def deal(engine: Engine, values: ArrayLike | None, owner: int, shape: tuple[int, ...], bound: float) -> Fixed:
    """Share numbers that one computing party knows.

    Raises:
        DataError: at the owner, before anything is sent: a value is not finite or beyond the bound.
    """
    ring = None if values is None else encode(checked(values, bound), engine.fraction)
    return Fixed(engine, engine.deal(ring, owner, shape), bound)


def checked(values: ArrayLike, bound: float) -> Floats:
    """Return numbers that keep a declared range.

    Raises:
        DataError: one is not finite or beyond the bound.
    """
    numbers = np.asarray(values, np.float64)
    bad = ~np.isfinite(numbers)
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} of {numbers.size} values are not finite numbers",
            remedy="remove or fill missing and infinite values",
        )
    beyond = int((np.abs(numbers) > bound).sum())
    if beyond:
        raise DataError(
            f"{beyond} of {numbers.size} values are beyond the declared range of {bound:g}",
            remedy="scale the data, or declare a larger range at all parties",
        )
    return numbers


def reveal(*numbers: Fixed) -> list[Floats]:
    """Open numbers to all computing parties, in one round, after `Engine.verify`."""
    engine = numbers[0].engine
    return [decode(ring, engine.fraction) for ring in engine.open(*(one.share for one in numbers))]


def choose(bit: Bits, yes: Fixed, no: Fixed | None = None) -> Fixed:
    """Return ``yes`` where the bit is one and ``no`` (None: zero) elsewhere."""
    engine = yes.engine
    if no is None:
        return Fixed(engine, engine.select(bit, yes.share), yes.bound)
    share = no.share + engine.select(bit, yes.share - no.share)
    return Fixed(engine, share, max(yes.bound, no.bound))


def _largest(values: Floats) -> float:
    return float(np.max(np.abs(values))) if values.size else 0.0

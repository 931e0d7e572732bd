"""What passes between operations on shares: numbers, indices, and gradients that are not reduced yet.

Gradients that are products stay unfinished (`Pending`) until all of them meet, so that they are reduced in
the rounds of one.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from veilsum.errors import ConfigError
from veilsum.mpc.engine import HEADROOM, Engine
from veilsum.mpc.fixed import Fixed
from veilsum.mpc.shares import Arith, Product

Range = Annotated[float, msgspec.Meta(gt=0, le=2.0**43)]


class Ranges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What no value of a model exceeds: promises of who states the job.

    Attributes:
        inputs: features; checked at their owners before anything is shared.
        activations: results of every operation.
        weights: parameters, whenever they are read.
        gradients: of the loss of ONE row by any value.
    """

    inputs: Range = 16.0
    activations: Range = 64.0
    weights: Range = 8.0
    gradients: Range = 4.0


class OneHot(NamedTuple):
    """Whole numbers as shared rows of zeros and one one: (…, rows) of ring elements 0 and 1."""

    share: Arith

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the numbers."""
        return self.share.shape[:-1]

    def reshape(self, *shape: int) -> "OneHot":
        """Return the same numbers in another shape."""
        return OneHot(self.share.reshape(*shape, self.share.shape[-1]))

    def permuted(self, *axes: int) -> "OneHot":
        """Return the axes of the numbers in another order."""
        return OneHot(self.share.permuted(*axes, len(axes)))

    def spread(self, shape: Sequence[int]) -> "OneHot":
        """Return the numbers broadcast to a shape."""
        return OneHot(self.share.spread((*shape, self.share.shape[-1])))


class Pending(NamedTuple):
    """Products that will be numbers once they are reduced by the fraction bits."""

    product: Product
    bound: float

    def __add__(self, other: "Pending") -> "Pending":  # type: ignore[override]
        return Pending(self.product + other.product, self.bound + other.bound)


Gradient = Fixed | Pending | None
Value = Fixed | OneHot


class Pass(NamedTuple):
    """One pass of one batch through a model.

    Attributes:
        batch: rows.
        coins: public random numbers, the same at all parties, for dropout; None in inference.
        moved: buffers that training has moved, by name.
    """

    engine: Engine
    ranges: Ranges
    batch: int
    coins: np.random.Generator | None
    moved: dict[str, Fixed]

    @property
    def training(self) -> bool:
        """Whether a backward pass follows."""
        return self.coins is not None


def settle(engine: Engine, gradients: Sequence[Gradient], extra: int = 0) -> list[Fixed | None]:
    """Reduce everything pending in the rounds of one; divide it by 2^extra on the way."""
    open_ones = [one for one in gradients if isinstance(one, Pending)]
    largest, most = limit(engine), max((one.bound for one in open_ones), default=0.0)
    if most > largest:
        raise ConfigError(
            f"a sum of products may reach {most:.3g}, beyond {largest:.3g}",
            remedy="declare tighter ranges, or take a smaller batch",
        )
    drop = engine.fraction + extra
    done = iter(engine.reduce_all([one.product for one in open_ones], drop) if open_ones else [])
    settled: list[Fixed | None] = []
    for one in gradients:
        if isinstance(one, Pending):
            settled.append(Fixed(engine, next(done), one.bound * 2.0**-extra + 2.0**-engine.fraction))
        else:
            settled.append(one)
    return settled


def limit(engine: Engine) -> float:
    """Return what an unfinished product must not exceed."""
    return 2.0 ** (HEADROOM - 2 * engine.fraction) * (1 + 2.0**-20)  # the bounds' own roundings


def times(a: Fixed, b: Fixed) -> Pending:
    """Return an elementwise product, unfinished."""
    return Pending(a.engine.times(a.share, b.share), a.product_bound(b.bound))


def times_matrix(a: Fixed, b: Fixed) -> Pending:
    """Return a matrix product of the last two axes, unfinished."""
    return Pending(a.engine.times_matrix(a.share, b.share), a.product_bound(b.bound, a.shape[-1]))


def finish(pending: Pending, engine: Engine) -> Fixed:
    """Reduce one product."""
    (done,) = settle(engine, [pending])
    assert done is not None
    return done


def summed(grad: Fixed | Pending, shape: tuple[int, ...]) -> Gradient:
    """Return a gradient summed over the axes along which its value was broadcast."""
    inner: Any = grad.product if isinstance(grad, Pending) else grad.share
    lead = tuple(range(inner.ndim - len(shape)))
    kept = tuple(
        at
        for at, (have, want) in enumerate(zip(inner.shape[len(lead) :], shape, strict=True))
        if have != want
    )
    count = int(np.prod([inner.shape[a] for a in lead], dtype=np.int64)) if lead else 1
    if lead:
        inner = inner.sum(lead)
    count *= int(np.prod([inner.shape[a] for a in kept], dtype=np.int64)) if kept else 1
    if kept:
        inner = inner.sum(kept, keep=True)
    if isinstance(grad, Pending):
        return Pending(inner, grad.bound * count)
    return Fixed(grad.engine, inner, grad.bound * count)

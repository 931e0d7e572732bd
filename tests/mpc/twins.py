"""A program on numbers, played in clear and by three parties."""

import numpy as np

from veilsum.mpc import fixed
from veilsum.mpc.engine import Link
from veilsum.mpc.fixed import Fixed
from veilsum.mpc.plain import Plain
from veilsum.mpc.shares import Arith
from veilsum.testing.computing import rss3, together

ULP = 2.0**-18
LINK = Link(round_trip=1e-4)


def grid(low, high, count=4001):
    """Return numbers of the fixed-point grid, both ends among them."""
    return np.clip(
        on_grid(np.linspace(low, high, count)), np.ceil(low / ULP) * ULP, np.floor(high / ULP) * ULP
    )


def decades(low, high, count=4001):
    """Return numbers of the fixed-point grid, as many in every octave."""
    return np.clip(
        on_grid(np.geomspace(low, high, count)), np.ceil(low / ULP) * ULP, np.floor(high / ULP) * ULP
    )


def on_grid(values):
    return np.round(np.asarray(values) / ULP) * ULP


def played(program, values, bounds):
    """Return the results in clear, those of three parties (the same at all), and the first's traffic."""

    def whole(engine):
        numbers = [
            fixed.deal(engine, value if engine.me == 0 else None, 0, value.shape, bound)
            for value, bound in zip(values, bounds, strict=True)
        ]
        wire = getattr(engine, "wire", None)
        before = wire and wire.total + type(wire.total)()
        results = program(*numbers)
        traffic = wire and wire.total - before
        results = results if isinstance(results, list | tuple) else [results]
        opened = []
        for result in results:
            assert isinstance(result, Fixed | Arith)
            if isinstance(result, Fixed):
                (numbers,) = fixed.reveal(result)
                assert numbers.shape == result.shape
                assert np.all(np.abs(numbers) <= result.bound + ULP)
            else:
                numbers = engine.open(result)[0].astype(np.int64)
            opened.append(numbers)
        engine.verify()
        return opened, traffic

    clear, _ = whole(Plain())
    (first, traffic), *others = together(whole, lambda wire: rss3(wire, 5, LINK))
    for other, _ in others:
        for mine, theirs in zip(first, other, strict=True):
            assert np.array_equal(mine, theirs)
    return clear, first, traffic


def both(program, *values, bounds):
    """Return the single result in clear and by three parties."""
    clear, shared, _ = played(program, values, bounds)
    return clear[0], shared[0]


def exactly(program, *values, bounds):
    """Return the results, which are the same in clear and by three parties."""
    clear, shared, _ = played(program, values, bounds)
    for mine, theirs in zip(clear, shared, strict=True):
        assert np.array_equal(mine, theirs)
    return clear

"""Which code paths this machine can run, and which one a family of kernels takes."""

from veilsum.arith import _native
from veilsum.errors import ConfigError


def paths() -> tuple[str, ...]:
    """Return the names of the paths this machine can run, best first; the last is ``portable``."""
    return tuple(_native.cpu_paths(here=True))


def families() -> dict[str, tuple[str, ...]]:
    """Return family → the paths that were built for it, best first."""
    return {family: tuple(built) for family, built in _native.families().items()}


def usable(family: str) -> tuple[str, ...]:
    """Return the paths of a family that this machine can run, best first.

    Raises:
        KeyError: there is no such family.
    """
    here = paths()
    return tuple(path for path in families()[family] if path in here)


def best(family: str, cap: str | None = None) -> str:
    """Return the best path of a family, none above ``cap`` (the value of VEILSUM_CPU; None: no cap).

    Raises:
        ConfigError: there is no path of the name ``cap``.
        KeyError: there is no such family.
    """
    if cap is None:
        return usable(family)[0]
    everywhere = _native.cpu_paths(here=False)
    if cap not in everywhere:
        raise ConfigError(
            f"there is no processor path {cap!r}", remedy=f"set VEILSUM_CPU to one of {', '.join(everywhere)}"
        )
    allowed = everywhere[everywhere.index(cap) :]
    return next(path for path in usable(family) if path in allowed)


def describe(cap: str | None = None) -> str:
    """Return one line: what the processor offers, and the path each family of kernels takes."""
    features = [name for name, present in _native.cpu_features().items() if present]
    chosen = [f"{family} by {best(family, cap)}" for family in families()]
    return f"{', '.join(features) or 'no wide instructions'}; kernels: {', '.join(chosen)}"

"""The kinds of jobs by name, and a job's parameters in its kind's type."""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from veilsum.errors import ConfigError
from veilsum.jobs import Job
from veilsum.node import alignments
from veilsum.node.kind import Kind


def kind_of(job: Job) -> Kind:
    """Return the kind of a job, in the construction that its mode and roles ask for.

    Raises:
        ConfigError: no such kind is built (names the nearest), or none of its constructions fits.
    """
    if job.kind in KINDS:
        return KINDS[job.kind](job)
    near = difflib.get_close_matches(job.kind, KINDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"built are: {', '.join(KINDS)}"
    raise ConfigError(f"there is no kind of job {job.kind!r}", remedy=hint)


def params_of(job: Job) -> Any:
    """Return the job's parameters in their kind's type.

    Raises:
        ConfigError: an unknown key (names the nearest), a wrong type or a value that is not offered.
    """
    kind = kind_of(job)
    known = kind.params.__struct_fields__
    for key in job.params:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"
            raise ConfigError(f"[params] of a {kind.name} job has no key {key!r}", remedy=hint)
    try:
        return msgspec.convert(job.params, kind.params)
    except msgspec.ValidationError as error:
        key = str(error).partition("`$.")[2].rstrip("`") or "params"
        raise ConfigError(
            f"[params] {key}: {error}", remedy=f"see `veilsum explain` or the page on {kind.name}"
        ) from None


def _learning(job: Job) -> Kind:
    from veilsum.node import learning  # only who learns waits for its engines

    return learning.construction(job)


KINDS: Mapping[str, Callable[[Job], Kind]] = MappingProxyType(
    {alignments.KIND: alignments.construction, "secure_learning": _learning}
)
"""Kind of job → what chooses its construction by the job's mode and roles."""

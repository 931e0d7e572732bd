"""What a kind of job is: what it asks for, says beforehand, plays, and leaves behind."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from veilsum.jobs import Job, Leak
from veilsum.net.messages import Message
from veilsum.net.session import Session
from veilsum.node.signing_keys import SigningKeys
from veilsum.node.summary import Fact
from veilsum.parties import PartyId, RunId
from veilsum.store.files import Scratch
from veilsum.store.sources import Source


class Inputs(NamedTuple):
    """What one party brings to a run, and where its results go.

    Attributes:
        source: its data, if its role brings any.
        scratch: room for tables.
        folder: where results go.
        signing: gives the keys with which it signs a peer's ids, where keys outlast a run.
        least: the fewest rows of a peer with which this party takes part.
    """

    source: Source | None
    scratch: Scratch
    folder: Path
    signing: Callable[[PartyId], SigningKeys] | None = None
    least: int = 1


class Finished(NamedTuple):
    """What one party has afterwards; ``files`` are names in its result folder."""

    facts: tuple[Fact, ...]
    leaks: tuple[Leak, ...]
    warnings: tuple[str, ...]
    files: dict[str, str]
    algorithms: dict[str, Any]


class Kind(NamedTuple):
    """One kind of job.

    Attributes:
        name: as ``kind`` in the job file.
        prefix: of its artefacts' ids.
        params: the type of ``[params]``.
        messages: the protocol's closed set of message types.
        adversary: whom it withstands, in a sentence.
        mode: says the choices that decide what leaks, in the user's words.
        bringers: the parties that bring data; raises ConfigError where the job does not fit the protocol.
        leaks: who will have learnt what.
        amounts: what a run costs in the exposure ledger, given the number of own rows.
        play: runs all of a party's roles and writes its results.
    """

    name: str
    prefix: str
    params: type[msgspec.Struct]
    messages: tuple[type[Message], ...]
    adversary: str
    mode: Callable[[Any], str]
    bringers: Callable[[Job, Any], tuple[PartyId, ...]]
    leaks: Callable[[Job, Any], tuple[Leak, ...]]
    amounts: Callable[[int], dict[str, float]]
    play: Callable[[Session, Any, Inputs], Awaitable[Finished]]


def artefact_id(prefix: str, run: RunId) -> str:
    """Return the id of a run's artefact, the same at every party."""
    return f"{prefix}-{run[:8]}"

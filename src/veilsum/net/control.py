"""The messages that sessions themselves exchange, below every protocol's own."""

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from veilsum.net.config import KIB, MIB
from veilsum.net.messages import Buffer, Message, message

WIRE = 1
"""The version of frames and control messages; parties with different ones refuse each other."""


@message(0, limit=KIB)
class Hello(Message, frozen=True):
    """The first frame of every connection, both ways; frames before ``seen`` have arrived."""

    wire_version: int
    party: str
    session: bytes
    schema: bytes
    version: str
    seen: int


@message(0, limit=256)
class Beat(Message, frozen=True):
    """A sign of life; frames before ``seen`` have arrived. Not sequenced."""

    seen: int


@message(0, limit=256)
class Credit(Message, frozen=True):
    """``size`` more bytes of message type ``kind`` may be sent; frames before ``seen`` have arrived."""

    kind: int
    size: int
    seen: int


@message(0, limit=4 * KIB)
class Abort(Message, frozen=True):
    """The sender stops the run, by the name of an error; nothing in it depends on anybody's data."""

    code: str


@message(0, limit=256)
class Bye(Message, frozen=True):
    """The sender has ended well and will send nothing more."""


@message(0, limit=256 * KIB)
class Opening(Message, frozen=True):
    """The job as the sender holds it, by digests; its input data, by a salted digest."""

    job_hash: bytes
    keys: dict[str, bytes]
    inputs: bytes
    generation: Annotated[int, msgspec.Meta(ge=0)]


@message(0, limit=256 * KIB)
class Resume(Message, frozen=True):
    """The run as the sender derived it, and how far its journal got in earlier attempts.

    ``memory`` is a commitment to the secret in that journal: who lost the journal comes with another one.
    """

    run: bytes
    memory: bytes
    attempt: int
    stages: dict[str, Annotated[int, msgspec.Meta(ge=0)]]


@message(0, limit=4 * KIB)
class Countersign(Message, frozen=True):
    """The sender's signature over its view of what the two parties said to each other."""

    sent: bytes
    received: bytes
    messages: int
    size: int
    signature: bytes


@message(0, limit=80 * MIB)
class Payload(Message, frozen=True):
    """Plain bytes, for benchmarks and conformance tests of the wire."""

    data: Annotated[NDArray[np.uint8], Buffer("u1", (None,))]


CONTROL: tuple[type[Message], ...] = (Hello, Beat, Credit, Abort, Bye, Opening, Resume, Countersign)
"""The types 0 to 7; a session's own messages are numbered from 16."""
FIRST_TYPE = 16
UNSEQUENCED = (Hello, Beat)


def number(types: tuple[type[Message], ...]) -> dict[type[Message], int]:
    """Return the wire numbers of the control messages and of a protocol's."""
    return {cls: i for i, cls in enumerate(CONTROL)} | {cls: FIRST_TYPE + i for i, cls in enumerate(types)}


class Traffic(msgspec.Struct):
    """Counts of one direction of one peer, for protocol messages only."""

    messages: int = 0
    size: int = 0

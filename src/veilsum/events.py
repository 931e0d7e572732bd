"""What a run tells its watchers: one closed set of events, on the terminal and as JSON lines.

Events hold party and run ids, step names, counts and seconds; never ids or values of anybody's rows.
"""

from collections.abc import Callable

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", forbid_unknown_fields=True):
    """Something happened at ``party`` (seconds since the epoch ``at``)."""

    party: str
    at: float
    run: str = ""


class Connected(Event, frozen=True, tag=True):
    """The link to ``peer`` stands (``again``: after it had broken)."""

    peer: str
    again: bool = False


class RunStarted(Event, frozen=True, tag=True):
    """All parties hold the same job; ``stages`` says how much an earlier attempt has already done."""

    kind: str
    attempt: int
    stages: dict[str, int] = {}


class StepStarted(Event, frozen=True, tag=True):
    """Step ``number`` of the protocol's table begins here."""

    number: int
    step: str


class Progress(Event, frozen=True, tag=True):
    """``done`` of ``total`` public units of a step."""

    step: str
    done: int
    total: int
    unit: str


class Waiting(Event, frozen=True, tag=True):
    """A live peer keeps this party waiting in ``step`` (or has not come yet: step ``connect``)."""

    peer: str
    step: str
    seconds: float


class StepDone(Event, frozen=True, tag=True):
    """Step ``number`` ended here; bytes are payload sent to and received from all peers meanwhile."""

    number: int
    step: str
    seconds: float
    sent: int
    received: int


class RunDone(Event, frozen=True, tag=True):
    """The run ended well (``earlier``: it had already, everywhere); its result lies in ``folder``."""

    artefact: str
    folder: str
    seconds: float
    earlier: bool = False


class RunFailed(Event, frozen=True, tag=True):
    """The run ended with the named error."""

    code: str
    message: str
    remedy: str


AnyEvent = Connected | RunStarted | StepStarted | Progress | Waiting | StepDone | RunDone | RunFailed
Sink = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Be a sink that listens to nothing."""
    del event


def encode(event: Event) -> bytes:
    """Return the event as one JSON line."""
    return msgspec.json.encode(event) + b"\n"


def decode(line: bytes) -> AnyEvent:
    """Read one JSON line back.

    Raises:
        msgspec.ValidationError: it is not an event of the closed set.
    """
    event: AnyEvent = msgspec.json.decode(line, type=AnyEvent)
    return event

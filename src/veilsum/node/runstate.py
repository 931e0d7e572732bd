"""Which runs a party has begun, and how each stands: one small file beside each run's journal."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from veilsum.errors import StoreError
from veilsum.node.config import PartyConfig
from veilsum.node.files import private_folder
from veilsum.parties import RunId
from veilsum.store.files import write_whole

State = Literal["running", "failed", "finished", "closed"]


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """One run as this party knows it.

    Attributes:
        job: the job's hash, 64 hex digits.
        inputs: the salted digest of the input data, hex.
        state: ``finished`` here, or ``closed``: finished everywhere.
        code: the error of the last attempt, if it failed.
        folder: the result folder, once finished.
    """

    run: RunId
    job: str
    kind: str
    purpose: str
    inputs: str
    generation: int
    attempt: int
    state: State
    began: float
    changed: float
    code: str = ""
    artefact: str = ""
    folder: str = ""


def begin(party: PartyConfig, state: RunState) -> RunState:
    """Enter a new attempt at a run, counted on from earlier ones."""
    private_folder(party.state)
    private_folder(party.runs)
    private_folder(party.runs / state.run)
    earlier = load(party.runs / state.run / "run.json")
    if earlier is not None:
        state = msgspec.structs.replace(state, attempt=earlier.attempt + 1, began=earlier.began)
        if earlier.state in {"finished", "closed"}:  # it only helps the others to get there too
            state = msgspec.structs.replace(
                state, state="finished", artefact=earlier.artefact, folder=earlier.folder
            )
    return change(party, state)


def change(party: PartyConfig, run: RunState, /, **fields: object) -> RunState:
    """Save a run's state with some fields changed."""
    new = msgspec.structs.replace(run, changed=time.time(), **fields)
    write_whole(party.runs / run.run / "run.json", msgspec.json.encode(new))
    return new


def load(path: Path) -> RunState | None:
    """Read one run's state; None where there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunState)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as error:
        raise StoreError(
            f"{path} cannot be read", remedy="restore it from a copy, or remove its folder"
        ) from error


def all_runs(party: PartyConfig) -> list[RunState]:
    """Return every run of this party, the latest first."""
    found: Iterator[RunState | None] = (load(path) for path in party.runs.glob("*/run.json"))
    return sorted((state for state in found if state), key=lambda state: -state.changed)


def latest(party: PartyConfig, job: str) -> RunState | None:
    """Return the run of a job with the highest generation, the latest of these."""
    runs = [state for state in all_runs(party) if state.job == job]
    return max(runs, key=lambda state: (state.generation, state.changed), default=None)

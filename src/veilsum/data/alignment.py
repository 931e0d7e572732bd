"""What an alignment is: which of one's own rows stand at which place of an order that the parties share.

The description is the same at all parties. The rows are each party's own secret, in ``alignment.parquet``:

| column | type | meaning |
|---|---|---|
| ``row`` | int64 | row number in one's own source, from 0; empty at a place where this party has no row |
| ``position`` | int64 | place in the common order, from 0 |
| ``id`` | text | the place's random id, 32 hexadecimal digits; only where the mode gives ids |
| ``weight`` | int64 | 1 or 0, only where the mode gives this party weights |
"""

from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from veilsum.errors import ConfigError
from veilsum.parties import PartyId

FILE: Final = "alignment.parquet"
ROW: Final = "row"
POSITION: Final = "position"
RANDOM_ID: Final = "id"
WEIGHT: Final = "weight"
ID_BYTES: Final = 16
NO_ROW: Final = -1


class Places(NamedTuple):
    """Some lines of an alignment at one party; all of a party's have the same columns.

    Attributes:
        rows: (n,) int64, `NO_ROW` where this party has none.
        positions: (n,) int64.
        ids: (n, 16) uint8, or None where the mode gives none.
        weights: (n,) int64, or None where this party is given none.
    """

    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
    ids: NDArray[np.uint8] | None = None
    weights: NDArray[np.int64] | None = None


class Alignment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The artefact of an alignment job, as later jobs name it among their inputs.

    Attributes:
        artefact: its id, as ``align-3f2a``.
        kind: the job kind that made it.
        mode: that kind's mode; it says who knows which rows match.
        parties: whose rows are aligned.
        ids: the ids' normal form, as all parties declared it.
        rows: number of places in the common order.
        weighted: whether rows carry weights, so that places without a match count 0.
    """

    artefact: str
    kind: str
    mode: str
    parties: tuple[PartyId, ...]
    ids: str
    rows: int
    weighted: bool = False

    def __post_init__(self) -> None:
        if self.rows < 0 or len(set(self.parties)) != len(self.parties):
            raise ConfigError(
                f"{self.artefact} does not describe an alignment", remedy="run the alignment job again"
            )

"""What an alignment is: which of one's own rows stand at which place of an order that the parties share.

The description is the same at all parties. The rows are each party's own secret, in ``alignment.parquet``:

| column | type | meaning |
|---|---|---|
| ``row`` | int64 | row number in one's own source, from 0 |
| ``position`` | int64 | place in the common order, from 0 |
| ``weight`` | int64 | 1 or 0, only where the mode gives this party weights |
"""

from typing import Final

import msgspec

from veilsum.errors import ConfigError
from veilsum.parties import PartyId

FILE: Final = "alignment.parquet"
ROW: Final = "row"
POSITION: Final = "position"
WEIGHT: Final = "weight"


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

import msgspec
import pytest

from veilsum.data.alignment import Alignment
from veilsum.errors import ConfigError
from veilsum.parties import PartyId

MADE = Alignment(
    artefact="align-3f2a",
    kind="hidden_psi",
    mode="hidden_one",
    parties=(PartyId("insurer-a"), PartyId("insurer-b")),
    ids="phone (E.164)",
    rows=12,
    weighted=True,
)


def test_survives_json():
    assert msgspec.json.decode(msgspec.json.encode(MADE), type=Alignment) == MADE
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(msgspec.to_builtins(MADE) | {"more": 1}, Alignment)


def test_nonsense_is_refused():
    with pytest.raises(ConfigError):
        msgspec.structs.replace(MADE, rows=-1)
    with pytest.raises(ConfigError):
        msgspec.structs.replace(MADE, parties=(PartyId("a"), PartyId("a")))

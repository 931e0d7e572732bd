"""Cards: how a party introduces itself to others, moves to another address and replaces its key.

A card (``NAME.card``, TOML, public) is signed by the key of its certificate. After a rotation it also
carries, for every certificate the party had before, the signature of that certificate's key over its
successor. A member of a federation is thus replaced only by somebody who holds the member's key.
"""

import datetime as dt
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature

from veilsum import jobs
from veilsum.errors import ConfigError
from veilsum.node import certificates, config, toml
from veilsum.node.config import PartyConfig
from veilsum.node.identity import Ask, Identity, generate, open_identity, save_identity
from veilsum.node.toml import Place
from veilsum.parties import NAME, Federation, Member, PartyId
from veilsum.store.files import write_whole

FORMAT = "veilsum-card/1"


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A former certificate (base64 DER) and its key's signature (base64) over the successor."""

    certificate: str
    signature: str


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a party tells the others; certificate and signatures in base64, rotations oldest first."""

    format: str
    name: str
    address: str = ""
    certificate: str
    signature: str
    rotation: list[Rotation] = []

    @property
    def member(self) -> Member:
        """The entry this card makes in a federation."""
        return Member(
            certificate=certificates.from_base64(self.certificate, "the card"), address=self.address
        )

    @property
    def former(self) -> tuple[bytes, ...]:
        """The certificates (DER) that the party had before, oldest first."""
        return tuple(certificates.from_base64(step.certificate, "the card") for step in self.rotation)


def make_card(identity: Identity, address: str = "", rotation: tuple[Rotation, ...] = ()) -> Card:
    """Make the card of an identity.

    Raises:
        ConfigError: the address is not ``host:port``.
    """
    if address:
        config.split_address(address)
    certificate = certificates.to_base64(identity.certificate)
    unsigned = Card(
        format=FORMAT,
        name=identity.name,
        address=address,
        certificate=certificate,
        signature="",
        rotation=list(rotation),
    )
    signature = certificates.to_base64(identity.sign(_card_digest(unsigned)))
    return msgspec.structs.replace(unsigned, signature=signature)


def write_card(path: Path, card: Card) -> None:
    """Write a card, readable by all."""
    text = f"# public; send it to the other parties, who run: veilsum federation add {path.name}\n"
    write_whole(path, (text + toml.dump(msgspec.to_builtins(card))).encode(), mode=0o644)


def read_card(path: Path) -> Card:
    """Read a card and verify every signature on it.

    Raises:
        ConfigError: it is malformed, or a signature does not verify.
    """
    card = toml.read_table(toml.read(path), Card, Place(path))
    if card.format != FORMAT:
        raise ConfigError(f"{path} is not a {FORMAT}", remedy="ask its owner for a card of this version")
    if not NAME.fullmatch(card.name):
        raise ConfigError(
            f"{path}: {card.name!r} is not a party's name", remedy="ask its owner for the card again"
        )
    if card.address:
        config.split_address(card.address)
    chain = [*(step.certificate for step in card.rotation), card.certificate]
    for number, text in enumerate(chain):
        certificate = certificates.from_base64(text, f"{path}: certificate {number + 1}")
        certificates.check_owner(certificate, card.name, f"{path}: certificate {number + 1}")
    _verify(card.certificate, card.signature, _card_digest(card), path)
    for step, successor in zip(card.rotation, chain[1:], strict=True):
        _verify(
            step.certificate, step.signature, _rotation_digest(card.name, step.certificate, successor), path
        )
    return card


def admit(
    federation: Federation, card: Card, *, replace: str = "", now: dt.datetime | None = None
) -> tuple[Federation, str]:
    """Return the federation with the (verified) card's party in it, and what changed in a word.

    Args:
        federation: what is known so far.
        card: as `read_card` returns it.
        replace: the fingerprint (64 hex digits) that the user typed, to replace a member without its proof.
        now: the time at which the certificate must be valid.

    Raises:
        ConfigError: the certificate is not valid now, the address is taken, or the card would replace a
            member without that member's signature.
    """
    name, member = PartyId(card.name), card.member
    certificates.check_dates(member.certificate, now or dt.datetime.now(dt.UTC), f"the certificate of {name}")
    for other, known in federation.members.items():
        if other != name and member.address and known.address == member.address:
            raise ConfigError(
                f"the address {member.address} is already that of {other}",
                remedy=f"ask {name} and {other} which of them is wrong",
            )
    known_as = federation.members.get(name)
    if known_as is None:
        change = "added"
    elif known_as == member:
        change = "unchanged"
    elif known_as.certificate == member.certificate:
        change = "moved"
    elif known_as.certificate in card.former:
        change = "rotated"
    elif replace.replace(":", "").lower() == member.fingerprint:
        change = "replaced"
    else:
        raise ConfigError(
            f"the card would replace {name}'s certificate, and {name}'s known key has not signed that",
            remedy=f"call {name}; if the person there reads out the fingerprint {member.fingerprint}, "
            "type it after --replace",
        )
    members = {**federation.members, name: member}
    return Federation(name=federation.name, members=dict(sorted(members.items()))), change


def rotate(party: PartyConfig, ask: Ask, *, now: dt.datetime | None = None) -> tuple[Identity, Card]:
    """Replace a party's key and certificate, destroy the old key and write the new card.

    The card comes first: if the machine stops in between, the old key is still there to rotate again.

    Raises:
        ConfigError: the present key or card cannot be read.
    """
    old, passphrase = open_identity(party, ask)
    present = read_card(party.card) if party.card.exists() else make_card(old)
    new = generate(party.name, now=now)
    before, after = certificates.to_base64(old.certificate), certificates.to_base64(new.certificate)
    former = [*(step.certificate for step in present.rotation), present.certificate]
    steps = present.rotation[: former.index(before)] if before in former else []
    signature = certificates.to_base64(old.sign(_rotation_digest(party.name, before, after)))
    card = make_card(new, present.address, (*steps, Rotation(before, signature)))
    write_card(party.card, card)
    save_identity(party.key, new, passphrase=passphrase, replace=True)
    return new, card


def trusted_certificates(party: PartyConfig, federation: Federation) -> dict[PartyId, tuple[bytes, ...]]:
    """Return every member's certificates (DER), the present one and those it proved to have had before.

    Raises:
        ConfigError: a stored card does not verify.
    """
    trusted: dict[PartyId, tuple[bytes, ...]] = {}
    for name, member in federation.members.items():
        paths = [
            path for path in (party.home / f"{name}.card", party.cards / f"{name}.card") if path.exists()
        ]
        cards = [read_card(path) for path in paths]
        former = [card.former for card in cards if card.member.certificate == member.certificate]
        trusted[name] = tuple(
            dict.fromkeys([member.certificate, *(der for group in former for der in group)])
        )
    return trusted


def _verify(certificate: str, signature: str, message: bytes, path: Path) -> None:
    key = certificates.public_key(certificates.from_base64(certificate, str(path)))
    try:
        key.verify(certificates.from_base64(signature, f"{path}: a signature"), message)
    except InvalidSignature as error:
        raise ConfigError(
            f"{path}: a signature on the card does not verify", remedy="ask its owner to send the card again"
        ) from error


def _card_digest(card: Card) -> bytes:
    content: dict[str, Any] = msgspec.to_builtins(card)
    del content["signature"]
    return jobs.digest("card", content)


def _rotation_digest(name: str, old: str, new: str) -> bytes:
    return jobs.digest("rotation", {"name": name, "old": old, "new": new})

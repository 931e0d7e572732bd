"""A party's own key and certificate, and the keys with which persons approve jobs.

``NAME.key`` (0600) is one PEM file with the Ed25519 private key (PKCS #8, encrypted if a passphrase was
given) and its certificate, so that the two are always replaced together. Rotation destroys the old key:
what it has signed stays verifiable through the certificate, and no copy is left to be stolen.
"""

import datetime as dt
import os
import secrets
import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from veilsum.errors import ConfigError, StoreError
from veilsum.node import certificates, config, toml
from veilsum.node.config import PartyConfig
from veilsum.node.files import create_whole
from veilsum.parties import NAME, Federation, Member, PartyId
from veilsum.store.files import write_whole

_STRETCHED = b"veilsum-passphrase: scrypt n=65536 r=8 p=1 salt="

Ask = Callable[[str], str]
"""Ask the user a question on the terminal without echo, and return the answer."""


class Identity:
    """A party that can sign and speak TLS; its representation shows no secret."""

    def __init__(self, name: PartyId, key: Ed25519PrivateKey, certificate: bytes) -> None:
        self.name = name
        self.certificate = certificate
        self._key = key

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate as 64 hex digits."""
        return Member(self.certificate).fingerprint

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature (64 bytes) of a message, which starts with its own domain."""
        return self._key.sign(message)

    def load_into(self, context: ssl.SSLContext) -> None:
        """Give a TLS context this key and certificate.

        The standard library reads them from files only: this one exists in memory alone and is gone
        when the call returns, so that what is loaded is what this object holds and no file is left.

        Raises:
            StoreError: the machine has no memory files.
        """
        try:
            handle = os.memfd_create("identity", os.MFD_CLOEXEC)
        except OSError as error:
            raise StoreError(
                f"no file in memory can be made: {error.strerror}",
                remedy="raise the limit of open files (ulimit -n)",
            ) from error
        with os.fdopen(handle, "wb") as file:
            file.write(_pem(self._key, self.certificate, NoEncryption()))
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{handle}")

    def __repr__(self) -> str:
        return f"Identity({self.name}, Ed25519 key, certificate sha256:{self.fingerprint[:16]}…)"

    def __reduce__(self) -> str:
        raise TypeError("an identity is never copied out of its process")


def generate(name: PartyId, *, now: dt.datetime | None = None) -> Identity:
    """Make a fresh identity in memory."""
    key = Ed25519PrivateKey.generate()
    return Identity(name, key, certificates.make_certificate(key, name, now or dt.datetime.now(dt.UTC)))


def new_identity(home: Path, name: str, *, passphrase: str = "", now: dt.datetime | None = None) -> Identity:
    """Make ``NAME.key`` in ``home``; an existing one is never overwritten.

    Raises:
        ConfigError: the name is not a party's name, or the file is there already.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is not a party's name", remedy="use a-z, 0-9 and -, at most 63 characters"
        )
    identity = generate(PartyId(name), now=now)
    save_identity(home / f"{name}.key", identity, passphrase=passphrase, replace=False)
    return identity


def save_identity(path: Path, identity: Identity, *, passphrase: str, replace: bool) -> None:
    """Write a key file (0600) in one atomic step, encrypted if there is a passphrase.

    Raises:
        ConfigError: the file is there already and ``replace`` is false.
    """
    pem = _protected(identity._key, identity.certificate, passphrase)  # noqa: SLF001 -- same module
    (write_whole if replace else create_whole)(path, pem)


def load_identity(party: PartyConfig, ask: Ask) -> Identity:
    """Read the key of a party; an encrypted one takes its passphrase from the environment or from ``ask``.

    Raises:
        ConfigError: the file is missing, readable by others, malformed or somebody else's, or the
            passphrase is wrong.
    """
    return open_identity(party, ask)[0]


def open_identity(party: PartyConfig, ask: Ask) -> tuple[Identity, str]:
    """Do what `load_identity` does, and also return the passphrase, for writing a successor."""
    certificate = own_certificate(party)
    key, passphrase = _private_key(_read_key(party.key), party.key, ask)
    if _raw(certificates.public_key(certificate)) != _raw(key.public_key()):
        raise ConfigError(
            f"{party.key}: the certificate belongs to another key", remedy="restore the file from its backup"
        )
    return Identity(party.name, key, certificate), passphrase


def own_certificate(party: PartyConfig) -> bytes:
    """Return the certificate (DER) in a party's key file, which takes no passphrase.

    Raises:
        ConfigError: the file is missing, readable by others or somebody else's, or holds none.
    """
    try:
        parsed = x509.load_pem_x509_certificate(_read_key(party.key))
    except ValueError as error:
        raise ConfigError(
            f"{party.key} holds no certificate",
            remedy="it was not written by `veilsum identity new`, or is a person's key",
        ) from error
    certificate = parsed.public_bytes(Encoding.DER)
    certificates.check_owner(certificate, party.name, f"{party.key}: its certificate")
    return certificate


def check_membership(party: PartyId, certificate: bytes, federation: Federation) -> None:
    """Check that the federation knows a party under the certificate that it really has.

    Raises:
        ConfigError: the federation does not know it, or knows another certificate.
    """
    member = federation.members.get(party)
    if member is None:
        raise ConfigError(
            f"{party!r} is not in the federation {federation.name!r}",
            remedy=f"veilsum federation add {party}.card",
        )
    if member.certificate != certificate:
        own = Member(certificate).fingerprint
        raise ConfigError(
            f"the federation knows {party} by another certificate ({member.fingerprint[:16]}…) "
            f"than its key file holds ({own[:16]}…)",
            remedy=f"veilsum federation add {party}.card, and send the card to the other parties",
        )


def new_person(home: Path, person: str, *, passphrase: str = "") -> bytes:
    """Make the approval key ``PERSON.key`` and return its public key (32 bytes).

    Raises:
        ConfigError: the name cannot be used, or the file is there already.
    """
    if not NAME.fullmatch(person):
        raise ConfigError(
            f"{person!r} is not a person's name here", remedy="use a-z, 0-9 and -, at most 63 characters"
        )
    key = Ed25519PrivateKey.generate()
    create_whole(home / f"{person}.key", _protected(key, None, passphrase))
    return _raw(key.public_key())


def load_person(path: Path, ask: Ask) -> Ed25519PrivateKey:
    """Read a person's approval key.

    Raises:
        ConfigError: the file is missing, readable by others or malformed, or the passphrase is wrong.
    """
    text = _read_key(path)
    if b"BEGIN CERTIFICATE" in text:  # a node that held an approver's key could approve for that person
        raise ConfigError(
            f"{path} is a party's key, not a person's",
            remedy="make one with `veilsum identity new --person NAME` and name it with --key",
        )
    return _private_key(text, path, ask)[0]


def _read_key(path: Path) -> bytes:
    text = toml.read_text(path).encode()
    toml.check_private(path)
    return text


def _private_key(text: bytes, path: Path, ask: Ask) -> tuple[Ed25519PrivateKey, str]:
    passphrase = ""
    if b"ENCRYPTED PRIVATE KEY" in text:
        known = config.passphrase_from_environment()
        passphrase = ask(f"passphrase of {path.name}") if known is None else known
    try:
        key = load_pem_private_key(text, _unlock(text, passphrase))
    except TypeError as error:
        raise ConfigError(
            f"{path} is encrypted and no passphrase was given",
            remedy=f"type it on the terminal, or set {config.PASSPHRASE}",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if passphrase:
            raise ConfigError(
                f"the passphrase does not open {path}", remedy=f"type it again; is {config.PASSPHRASE} set?"
            ) from error
        raise ConfigError(
            f"{path} holds no private key", remedy="restore the file from its backup"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is not an Ed25519 key", remedy="make one with `veilsum identity new`")
    return key, passphrase


def _protected(key: Ed25519PrivateKey, certificate: bytes | None, passphrase: str) -> bytes:
    """Return the PEM text of a key, encrypted under a passphrase if there is one.

    PKCS #8 as the library writes it stretches a passphrase by no more than 2048 rounds of PBKDF2; scrypt
    does that here, and its salt stands in the line before the PEM block.
    """
    if not passphrase:
        return _pem(key, certificate, NoEncryption())
    salt = secrets.token_bytes(16)
    header = _STRETCHED + salt.hex().encode() + b"\n"
    return header + _pem(key, certificate, BestAvailableEncryption(_stretch(passphrase, salt)))


def _stretch(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=2**16, r=8, p=1).derive(passphrase.encode()).hex().encode()


def _unlock(text: bytes, passphrase: str) -> bytes | None:
    """Return what opens the PEM block of a key file."""
    line = text.partition(b"\n")[0]
    if not passphrase or not line.startswith(_STRETCHED):
        return passphrase.encode() or None
    return _stretch(passphrase, bytes.fromhex(line.removeprefix(_STRETCHED).decode()))


def _pem(key: Ed25519PrivateKey, certificate: bytes | None, encryption: KeySerializationEncryption) -> bytes:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    if certificate is None:
        return private
    return private + x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)

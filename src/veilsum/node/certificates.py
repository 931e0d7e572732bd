"""Self-signed Ed25519 certificates: how a party's key becomes what TLS and the federation file know."""

import base64
import binascii
import datetime as dt

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from veilsum.errors import ConfigError

VALID = dt.timedelta(days=1826)  # five years
BACKDATED = dt.timedelta(hours=1)  # a peer's clock may be a little slow


def make_certificate(key: Ed25519PrivateKey, name: str, now: dt.datetime) -> bytes:
    """Make the certificate of party ``name`` (DER), good for both ends of mutual TLS 1.3.

    It is no certificate authority: whoever trusts it trusts this one key and nothing that the key signs.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    public = key.public_key()
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    signing_only = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(signing_only, critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    )
    return builder.sign(key, None).public_bytes(Encoding.DER)


def from_base64(text: str, what: str) -> bytes:
    """Decode standard base64 strictly.

    Raises:
        ConfigError: it is not base64; ``what`` names it.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(
            f"{what} is not base64", remedy="copy it again, whole and on one line, from the sender's card"
        ) from error


def to_base64(content: bytes) -> str:
    """Encode as standard base64."""
    return base64.b64encode(content).decode()


def public_key(certificate: bytes, what: str = "the certificate") -> Ed25519PublicKey:
    """Return the key of a certificate (DER) that this key itself has signed.

    Raises:
        ConfigError: it is no certificate, no Ed25519 one or not self-signed.
    """
    remedy = "ask its owner for the card again (`veilsum identity card` there)"
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        key = parsed.public_key()
        parsed.verify_directly_issued_by(parsed)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise ConfigError(f"{what} is not a valid self-signed certificate", remedy=remedy) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{what} does not hold an Ed25519 key", remedy=remedy)
    return key


def subject(certificate: bytes) -> str:
    """Return the one common name of a certificate (DER), or an empty text if it has none."""
    names = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def validity(certificate: bytes) -> tuple[dt.datetime, dt.datetime]:
    """Return from when to when a certificate (DER) is valid, UTC."""
    parsed = x509.load_der_x509_certificate(certificate)
    return parsed.not_valid_before_utc, parsed.not_valid_after_utc


def check_owner(certificate: bytes, name: str, what: str = "the certificate") -> None:
    """Check that a certificate (DER) is a self-signed one of party ``name``.

    Raises:
        ConfigError: it is malformed or belongs to somebody else.
    """
    public_key(certificate, what)
    owner = subject(certificate)
    if owner != name:
        raise ConfigError(
            f"{what} belongs to {owner!r}, not to {name!r}",
            remedy=f"ask {name} for its own card and add that with `veilsum federation add`",
        )


def check_dates(certificate: bytes, now: dt.datetime, what: str = "the certificate") -> None:
    """Check that a certificate (DER) is valid at ``now``.

    Raises:
        ConfigError: it is not valid yet or has expired.
    """
    first, last = validity(certificate)
    if now < first:
        raise ConfigError(
            f"{what} is not valid before {first:%Y-%m-%d %H:%M} UTC, and this machine's clock says "
            f"{now:%Y-%m-%d %H:%M} UTC",
            remedy="set the clock of this machine (or of the machine that made the certificate)",
        )
    if now > last:
        raise ConfigError(
            f"{what} expired on {last:%Y-%m-%d}",
            remedy="its owner makes a new one with `veilsum identity rotate` and sends the new card",
        )

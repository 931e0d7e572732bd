import datetime as dt
import pickle
import socket
import ssl
import threading

import msgspec
import pytest

from veilsum.errors import ConfigError
from veilsum.node import cards, certificates, config, identity
from veilsum.node.config import PartyConfig
from veilsum.parties import Federation, Member, PartyId

NOW = dt.datetime.now(dt.UTC)


def never(question):
    raise AssertionError(question)


def party_at(home, name="alice"):
    return PartyConfig(
        home=home, name=PartyId(name), key=home / f"{name}.key", federation=home / "federation.toml"
    )


def refused(call, *words, remedy=""):
    with pytest.raises(ConfigError) as caught:
        call()
    for word in words:
        assert word in caught.value.message
    assert remedy in caught.value.remedy
    assert caught.value.remedy


# -- keys


def test_a_new_identity_is_private_and_never_overwritten(tmp_path):
    made = identity.new_identity(tmp_path, "alice")
    path = tmp_path / "alice.key"
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    refused(lambda: identity.new_identity(tmp_path, "alice"), "exists already")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["alice.key"]
    loaded = identity.load_identity(party_at(tmp_path), never)
    assert (loaded.name, loaded.certificate) == ("alice", made.certificate)
    certificates.public_key(loaded.certificate).verify(made.sign(b"hello"), b"hello")


def test_a_passphrase_protects_the_key(tmp_path, monkeypatch):
    monkeypatch.delenv(config.PASSPHRASE, raising=False)
    made = identity.new_identity(tmp_path, "alice", passphrase="correct horse")
    party = party_at(tmp_path)
    assert b"ENCRYPTED" in party.key.read_bytes()
    assert identity.load_identity(party, lambda _: "correct horse").certificate == made.certificate
    refused(lambda: identity.load_identity(party, lambda _: "wrong"), "passphrase does not open")
    refused(lambda: identity.load_identity(party, lambda _: ""), "no passphrase", remedy=config.PASSPHRASE)
    assert identity.own_certificate(party) == made.certificate
    monkeypatch.setenv(config.PASSPHRASE, "correct horse")
    assert identity.load_identity(party, never).certificate == made.certificate


def test_representations_show_no_key(tmp_path):
    made = identity.generate(PartyId("alice"))
    private = made._key.private_bytes_raw()
    for text in (repr(made), str(made), f"{made}"):
        assert private.hex() not in text
        assert text.startswith("Identity(alice, Ed25519 key, certificate sha256:")
    with pytest.raises(TypeError):
        pickle.dumps(made)


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    identity.new_identity(tmp_path, "alice")
    (tmp_path / "alice.key").chmod(mode)
    refused(lambda: identity.load_identity(party_at(tmp_path), never), "others", remedy="chmod 600")


def test_a_foreign_damaged_or_missing_key_is_refused(tmp_path):
    refused(
        lambda: identity.load_identity(party_at(tmp_path), never), "does not exist", remedy="identity new"
    )
    identity.new_identity(tmp_path, "bob")
    (tmp_path / "bob.key").rename(tmp_path / "alice.key")
    refused(lambda: identity.load_identity(party_at(tmp_path), never), "belongs to 'bob', not to 'alice'")
    other = identity.generate(PartyId("alice"))
    text = (tmp_path / "alice.key").read_text()
    crossed = (
        text[: text.index("-----BEGIN CERT")].encode()
        + identity._protected(other._key, other.certificate, "").split(b"-----END PRIVATE KEY-----\n")[1]
    )
    (tmp_path / "alice.key").write_bytes(crossed)
    refused(lambda: identity.load_identity(party_at(tmp_path), never), "another key")
    (tmp_path / "alice.key").write_text("not a key")
    refused(lambda: identity.load_identity(party_at(tmp_path), never), "no certificate")


def test_names_are_checked(tmp_path):
    for name in ("", "Alice", "../alice", "a" * 64):
        refused(lambda name=name: identity.new_identity(tmp_path, name), "not a party's name")
        refused(lambda name=name: identity.new_person(tmp_path, name), "not a person's name")
    assert not list(tmp_path.iterdir())


def test_a_person_has_a_key_without_certificate(tmp_path):
    public = identity.new_person(tmp_path, "carol", passphrase="x")
    key = identity.load_person(tmp_path / "carol.key", lambda _: "x")
    assert key.public_key().public_bytes_raw() == public
    identity.new_identity(tmp_path, "alice")
    refused(lambda: identity.load_person(tmp_path / "alice.key", never), "a party's key", remedy="--person")
    refused(lambda: identity.own_certificate(party_at(tmp_path, "carol")), "no certificate")


def test_membership_means_the_same_certificate():
    alice = identity.generate(PartyId("alice"))
    known = Federation(name="f", members={alice.name: Member(alice.certificate)})
    identity.check_membership(alice.name, alice.certificate, known)
    other = identity.generate(PartyId("alice"))
    refused(lambda: identity.check_membership(alice.name, other.certificate, known), "another certificate")
    refused(lambda: identity.check_membership(PartyId("bob"), b"", known), "not in the federation")


# -- TLS


def context(side, mine, trusted, *, strict):
    made = ssl.SSLContext(side)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = side == ssl.PROTOCOL_TLS_CLIENT
    made.verify_mode = ssl.CERT_REQUIRED
    if strict:
        made.verify_flags |= ssl.VERIFY_X509_STRICT
    for certificate in trusted:
        made.load_verify_locations(cadata=certificate)
    mine.load_into(made)
    return made


def handshake(client, server, client_trusts, server_trusts, *, strict=True):
    """Return what each end saw of the other, or the error it got."""
    ends = socket.socketpair()
    seen = {}

    def serve():
        with ends[0] as raw:
            try:
                made = context(ssl.PROTOCOL_TLS_SERVER, server, server_trusts, strict=strict)
                with made.wrap_socket(raw, server_side=True) as tls:
                    seen["server"] = tls.getpeercert(binary_form=True)
                    tls.sendall(tls.recv(1))
            except OSError as error:
                seen["server"] = error

    thread = threading.Thread(target=serve)
    thread.start()
    with ends[1] as raw:
        try:
            made = context(ssl.PROTOCOL_TLS_CLIENT, client, client_trusts, strict=strict)
            with made.wrap_socket(raw, server_hostname=server.name) as tls:
                tls.sendall(b"x")
                assert tls.recv(1) == b"x"
                assert tls.version() == "TLSv1.3"
                seen["client"] = tls.getpeercert(binary_form=True)
        except OSError as error:
            seen["client"] = error
    thread.join()
    return seen["client"], seen["server"]


@pytest.mark.parametrize("strict", [False, True])
def test_two_identities_speak_tls_trusting_exactly_each_other(strict):
    alice, bob = (identity.generate(PartyId(name)) for name in ("alice", "bob"))
    got = handshake(alice, bob, [bob.certificate], [alice.certificate], strict=strict)
    assert got == (bob.certificate, alice.certificate)


def test_a_stranger_with_the_same_name_is_turned_away():
    alice, bob, stranger = (identity.generate(PartyId(name)) for name in ("alice", "bob", "alice"))
    _, server = handshake(stranger, bob, [bob.certificate], [alice.certificate])
    assert isinstance(server, ssl.SSLError)
    client, _ = handshake(alice, stranger, [bob.certificate], [alice.certificate])
    assert isinstance(client, ssl.SSLError)


def test_a_trusted_party_cannot_vouch_for_others():
    """What bob's key signs is not trusted because bob is: his certificate is no authority."""
    parsed = certificates.x509.load_der_x509_certificate(identity.generate(PartyId("bob")).certificate)
    assert not parsed.extensions.get_extension_for_class(certificates.x509.BasicConstraints).value.ca
    usage = parsed.extensions.get_extension_for_class(certificates.x509.KeyUsage).value
    assert not usage.key_cert_sign


def test_loading_a_key_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    identity.generate(PartyId("alice")).load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert not list(tmp_path.iterdir())


# -- cards


def with_card(home, name, address=""):
    made = identity.new_identity(home, name)
    card = cards.make_card(made, address)
    cards.write_card(home / f"{name}.card", card)
    return made, card


def test_a_card_introduces_a_party(tmp_path):
    made, card = with_card(tmp_path, "bob", "192.0.2.7:7101")
    read = cards.read_card(tmp_path / "bob.card")
    assert read == card
    known, change = cards.admit(Federation(name="f", members={}), read)
    assert (change, known.members) == ("added", {"bob": Member(made.certificate, "192.0.2.7:7101")})
    assert cards.admit(known, read) == (known, "unchanged")
    moved, change = cards.admit(known, cards.make_card(made, "192.0.2.8:1"))
    assert (change, moved.members[made.name].address) == ("moved", "192.0.2.8:1")


def test_nothing_on_a_card_can_be_changed(tmp_path):
    with_card(tmp_path, "bob", "192.0.2.7:7101")
    party = party_at(tmp_path, "bob")
    cards.rotate(party, never)
    card = msgspec.to_builtins(cards.read_card(party.card))
    other = identity.generate(PartyId("bob"))
    foreign = certificates.to_base64(other.certificate)
    changes = [
        {"address": "192.0.2.9:7101"},
        {"name": "eve"},
        {"certificate": foreign},
        {"rotation": []},
        {"rotation": [{**card["rotation"][0], "certificate": foreign}]},
        {"rotation": card["rotation"] * 2},
        {"format": "veilsum-card/2"},
        {"signature": certificates.to_base64(other.sign(b""))},
        {"signature": "?"},
        {"more": "x"},
    ]
    for change in changes:
        (tmp_path / "x.card").write_text(cards.toml.dump({**card, **change}))
        refused(lambda: cards.read_card(tmp_path / "x.card"))


def test_a_member_is_replaced_only_with_its_own_proof(tmp_path):
    old, _ = with_card(tmp_path, "bob")
    party = party_at(tmp_path, "bob")
    known = Federation(name="f", members={old.name: Member(old.certificate)})
    thief = identity.generate(PartyId("bob"))
    refused(lambda: cards.admit(known, cards.make_card(thief)), "has not signed", remedy="--replace")

    forged = cards.Rotation(certificates.to_base64(old.certificate), certificates.to_base64(thief.sign(b"x")))
    cards.write_card(tmp_path / "forged.card", cards.make_card(thief, "", (forged,)))
    refused(lambda: cards.read_card(tmp_path / "forged.card"), "signature")

    new, _ = cards.rotate(party, never)
    assert identity.load_identity(party, never).certificate == new.certificate != old.certificate
    after, change = cards.admit(known, cards.read_card(party.card))
    assert (change, after.members[old.name].certificate) == ("rotated", new.certificate)
    newest, _ = cards.rotate(party, never)  # who missed one rotation still accepts the next
    after, change = cards.admit(known, cards.read_card(party.card))
    assert (change, after.members[old.name].certificate) == ("rotated", newest.certificate)
    refused(lambda: cards.admit(after, cards.make_card(new)), "has not signed")  # and not back again

    typed = cards.make_card(thief).member.fingerprint
    assert cards.admit(known, cards.make_card(thief), replace=typed.upper())[1] == "replaced"
    refused(lambda: cards.admit(known, cards.make_card(thief), replace=typed[:-1]), "has not signed")


def test_rotation_keeps_the_passphrase_and_destroys_the_old_key(tmp_path):
    identity.new_identity(tmp_path, "bob", passphrase="pw")
    party = party_at(tmp_path, "bob")
    old = party.key.read_bytes()
    new, card = cards.rotate(party, lambda _: "pw")
    assert identity.load_identity(party, lambda _: "pw").certificate == new.certificate
    assert len(card.rotation) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bob.card", "bob.key"]
    assert old not in party.key.read_bytes()
    assert party.key.stat().st_mode & 0o777 == 0o600


def test_a_rotation_that_was_cut_short_is_done_again(tmp_path, monkeypatch):
    old, _ = with_card(tmp_path, "bob")
    party = party_at(tmp_path, "bob")
    with monkeypatch.context() as patch:
        patch.setattr(cards, "save_identity", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            cards.rotate(party, never)
    assert identity.load_identity(party, never).certificate == old.certificate
    new, _ = cards.rotate(party, never)
    card = cards.read_card(party.card)
    assert (card.former, card.member.certificate) == ((old.certificate,), new.certificate)


def test_a_card_of_an_expired_certificate_or_taken_address_is_refused():
    past = identity.generate(PartyId("bob"), now=NOW - dt.timedelta(days=2000))
    refused(lambda: cards.admit(Federation(name="f", members={}), cards.make_card(past)), "expired")
    alice, bob = (identity.generate(PartyId(name)) for name in ("alice", "bob"))
    known, _ = cards.admit(Federation(name="f", members={}), cards.make_card(alice, "h:1"))
    refused(lambda: cards.admit(known, cards.make_card(bob, "h:1")), "already that of alice")
    refused(lambda: cards.make_card(bob, "nowhere"), "host:port")


def test_former_certificates_are_trusted_only_with_their_proof(tmp_path):
    old, _ = with_card(tmp_path, "bob")
    party = party_at(tmp_path, "bob")
    new, _ = cards.rotate(party, never)
    known = Federation(name="f", members={new.name: Member(new.certificate)})
    assert cards.trusted_certificates(party, known) == {"bob": (new.certificate, old.certificate)}
    party.card.unlink()
    assert cards.trusted_certificates(party, known) == {"bob": (new.certificate,)}

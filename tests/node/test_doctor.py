import datetime as dt
import os
import shutil
import socket
import ssl
import sys
import threading
from contextlib import contextmanager

import pytest

from veilsum.jobs import Floor
from veilsum.learn.layers import initialise, mlp
from veilsum.node import cards, config, doctor, identity
from veilsum.node.exposure import Exposure
from veilsum.node.signing_keys import SigningKeys
from veilsum.parties import Federation, Member, PartyId, RunId

NOW = dt.datetime.now(dt.UTC)
PARTY = """
name = "alice"
key = "alice.key"
[data.customers]
source = "customers.csv"
ids = { columns = ["phone"], kind = "phone", region = "US" }
"""


@pytest.fixture
def home(tmp_path):
    """A party with everything in order, and a peer that only dials."""
    (tmp_path / "party.toml").write_text(PARTY)
    (tmp_path / "party.toml").chmod(0o600)
    (tmp_path / "customers.csv").write_text("phone\n+12025550123\n+12025550124\n")
    alice = identity.new_identity(tmp_path, "alice")
    cards.write_card(tmp_path / "alice.card", cards.make_card(alice))
    bob = identity.generate(PartyId("bob"))
    know(tmp_path, alice=Member(alice.certificate), bob=Member(bob.certificate))
    return tmp_path


def know(home, **members):
    path = home / "federation.toml"
    known = config.load_federation(path, dates=False).members if path.exists() else {}
    config.save_federation(path, Federation(name="f", members={**known, **members}))


def look(home, name, *, now=None):
    return [found for found in doctor.diagnose(home, now=now) if found.name == name]


def the(home, name, *, now=None):
    (found,) = look(home, name, now=now)
    assert (found.state == "ok") == (not found.remedy)
    return found


def states(home):
    return {found.name: found.state for found in doctor.diagnose(home)}


def test_a_healthy_party(home):
    assert set(states(home).values()) == {"ok"}
    assert {
        "software",
        "disk",
        "clock",
        "party.toml",
        "federation",
        "key",
        "ledger",
        "records",
        "port",
    } <= set(states(home))
    assert "2 rows, 2 different ids" in the(home, "data customers").message
    assert "dials" in the(home, "peer bob").message


def test_a_machine_without_a_party():
    names = [found.name for found in doctor.diagnose(None)]
    assert names[0] == "software"
    assert "party.toml" not in names


def test_kernels_that_are_not_there(home, monkeypatch):
    assert "kernels" in the(home, "processor").message
    monkeypatch.setitem(sys.modules, "veilsum.arith.cpu", None)
    assert (the(home, "processor").state, "wheel" in the(home, "processor").remedy) == ("fail", True)


def test_an_empty_folder(tmp_path):
    found = the(tmp_path, "party.toml")
    assert found.state == "fail"
    assert "identity new" in found.remedy


def test_files_that_others_can_read(home):
    (home / "alice.key").chmod(0o644)
    assert (the(home, "key").state, the(home, "key").remedy) == ("fail", f"chmod 600 {home / 'alice.key'}")
    (home / "party.toml").chmod(0o644)
    assert the(home, "party.toml").remedy == f"chmod 600 {home / 'party.toml'}"


def test_certificates_that_expire_or_are_foreign(home):
    assert the(home, "key", now=NOW + dt.timedelta(days=1810)).state == "warn"
    assert "rotate" in the(home, "key", now=NOW + dt.timedelta(days=1810)).remedy
    assert the(home, "key", now=NOW + dt.timedelta(days=2000)).state == "fail"
    assert the(home, "peer bob", now=NOW + dt.timedelta(days=2000)).state == "fail"
    early = the(home, "key", now=NOW - dt.timedelta(days=1))
    assert (early.state, "clock" in early.remedy) == ("fail", True)
    know(home, alice=Member(identity.generate(PartyId("alice")).certificate))
    assert "another certificate" in the(home, "key").message


def test_a_clock_that_is_behind(home):
    os.utime(home / "customers.csv", (NOW.timestamp() + 9999,) * 2)
    found = the(home, "clock")
    assert (found.state, "customers.csv" in found.message) == ("warn", True)


def test_a_disk_that_is_nearly_full(home, monkeypatch):
    for free, state in ((10 << 30, "ok"), (500 << 20, "warn"), (50 << 20, "fail")):
        usage = shutil._ntuple_diskusage(100 << 30, 0, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        assert the(home, "disk").state == state


def test_state_that_is_open_to_others(home):
    (home / "state").mkdir(mode=0o755, exist_ok=True)
    (home / "state").chmod(0o755)
    assert look(home, "key")[1].remedy == f"chmod 700 {home / 'state'}"


def test_data_that_cannot_be_read(home):
    (home / "customers.csv").unlink()
    assert the(home, "data customers").state == "fail"
    (home / "customers.csv").write_text("phone\n12\n+12025550124\n")
    assert [found.state for found in look(home, "data customers")] == ["ok", "warn"]


def test_models_and_sets_without_ids(home):
    path = home / "party.toml"
    path.write_text(path.read_text() + '[data.scans]\nsource = "scans.csv"\n[models.m]\nfile = "m.vsm"\n')
    (home / "scans.csv").write_text("x,y\n1,2\n,3\n")
    assert the(home, "model m").state == "fail"
    initialise(mlp([2, 1]), 0).save(home / "m.vsm")
    assert "3 numbers" in the(home, "model m").message
    ok, warned = look(home, "data scans")
    assert "2 rows, no ids declared; 2 columns of numbers" in ok.message
    assert (warned.state, "'x'" in warned.message) == ("warn", True)


def test_a_damaged_ledger_and_chain(home):
    ledger = Exposure(home / "state" / "exposure.db")
    ledger.reserve("customers", "k", (), "p", RunId("r"), {"runs": 1}, Floor())
    assert the(home, "ledger").message == "1 entries"
    ledger.path.write_bytes(b"x" * 5000)
    assert the(home, "ledger").state == "fail"
    (home / "state" / "records").mkdir()
    (home / "state" / "records" / "000001-00000000.vsr").write_text("x")
    assert the(home, "records").state == "fail"


def test_signing_keys(home):
    assert look(home, "signing keys") == []
    path = config.load_party(home).signing_keys
    make = {"limit": 1, "make": lambda bits, primes: b"key"}
    SigningKeys(path, data_set="customers", peer=PartyId("bob"), run=RunId("r"), **make).reusable(2048, 2)
    assert the(home, "signing keys").message == "1 that serve several runs"
    path.write_bytes(b"x" * 5000)
    assert (the(home, "signing keys").state, "backup" in the(home, "signing keys").remedy) == ("fail", True)


@contextmanager
def listener(answer=None):
    """Listen at a free port; ``answer`` gets every connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        ended = threading.Event()

        def serve():
            while not ended.is_set():
                try:
                    raw, _ = server.accept()
                except OSError:
                    continue
                with raw:
                    try:
                        answer(raw)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        if answer is not None:
            thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        if answer is not None:
            thread.join()


def speaks_tls(who):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    who.load_into(context)

    def answer(raw):
        raw.settimeout(5)
        with context.wrap_socket(raw, server_side=True) as tls:
            tls.recv(1)

    return answer


def test_a_port_that_is_taken(home):
    known = config.load_federation(home / "federation.toml").members[PartyId("alice")]
    with listener() as address:
        know(home, alice=Member(known.certificate, address))
        found = the(home, "port")
        assert (found.state, address in found.message) == ("warn", True)
        assert address.rpartition(":")[2] in found.remedy
    assert the(home, "port").state == "ok"
    know(home, alice=Member(known.certificate, "192.0.2.1:7101"))  # no machine has this address
    assert (the(home, "port").state, "0.0.0.0:7101" in the(home, "port").remedy) == ("fail", True)


def test_a_peer_that_answers(home):
    bob = identity.generate(PartyId("bob"))
    with listener(speaks_tls(bob)) as address:
        know(home, bob=Member(bob.certificate, address))
        assert "its certificate" in the(home, "peer bob").message
        know(home, bob=Member(identity.generate(PartyId("bob")).certificate, address))
        found = the(home, "peer bob")
        assert (found.state, "a stranger" in found.message) == ("fail", True)
    referee = identity.generate(PartyId("referee"))
    with listener(speaks_tls(referee)) as address:
        know(home, bob=Member(bob.certificate, address), referee=Member(referee.certificate))
        assert "answers referee" in the(home, "peer bob").message


def test_a_peer_that_does_not_answer(home, monkeypatch):
    monkeypatch.setattr(doctor, "_PATIENCE", 0.2)
    bob = identity.generate(PartyId("bob")).certificate
    with listener() as address:  # accepts nothing
        know(home, bob=Member(bob, address))
        silent = the(home, "peer bob")
    gone = the(home, "peer bob")
    know(home, bob=Member(bob, "no-such-host.invalid:1"))
    unknown = the(home, "peer bob")
    assert [found.state for found in (silent, gone, unknown)] == ["warn"] * 3
    assert "not running now" in gone.message
    assert "cannot be reached" in silent.message
    assert "cannot be reached" in unknown.message
    with listener(lambda raw: raw.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9)) as address:
        know(home, bob=Member(bob, address))
        assert (the(home, "peer bob").state, "TLS 1.3" in the(home, "peer bob").message) == ("fail", True)

import base64
import datetime as dt
import hashlib
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum import jobs
from veilsum.errors import ConfigError, RecordInvalid, StoreError
from veilsum.jobs import Job, Leak
from veilsum.net.session import Session
from veilsum.net.transcript import statement as signed_statement
from veilsum.node import approvals, identity, record, verification
from veilsum.node.record import Outcome, Transcript
from veilsum.parties import Federation, Member, PartyId, Role, RunId

ALICE, BOB = (identity.generate(PartyId(name)) for name in ("alice", "bob"))
FEDERATION = Federation(
    name="f", members={one.name: Member(one.certificate, f"{one.name}:1") for one in (ALICE, BOB)}
)
JOB = Job(
    kind="hidden_psi",
    purpose='a "study"\n of é and 😀',
    expires=dt.date(2030, 1, 1),
    parties={Role("client"): (ALICE.name,), Role("signer"): (BOB.name,)},
    data={ALICE.name: "customers"},
    params={"threshold": 0.25, "key_bits": 2048},
)
HASH = jobs.job_hash(JOB, FEDERATION)
LEAKS = [Leak(part="alignment", who="signer", what="how many ids the client has")]
TRUSTED = {one.name: [one.certificate] for one in (ALICE, BOB)}


# -- a verifier that knows docs/record-format.md and nothing else


def independent_verify(path):  # noqa: C901 -- one page that reads like the document
    """Return the body, or raise; written from the document alone."""

    def canonical(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def digest(label, text):
        return hashlib.sha256(bytes([len(label)]) + label.encode() + text).digest()

    def key_of(name):
        certificate = x509.load_der_x509_certificate(
            base64.b64decode(statement["federation"][name]["certificate"], validate=True)
        )
        certificate.verify_directly_issued_by(certificate)
        (common,) = certificate.subject.get_attributes_for_oid(x509.oid.NameOID.COMMON_NAME)
        assert common.value == name
        return certificate.public_key()

    def no_fraction(text):
        raise ValueError(text)

    line, last, rest = path.read_bytes().split(b"\n")
    signature = json.loads(last)["signature"]
    assert (rest, last) == (b"", canonical({"signature": signature}))
    body = json.loads(line, parse_float=no_fraction, parse_constant=no_fraction)
    assert canonical(body) == line
    assert body["format"] == "veilsum-record/1"
    statement = json.loads(body["statement"])
    assert digest("veilsum/job/1", body["statement"].encode()).hex() == body["job_hash"]
    assert (body["purpose"], body["expires"]) == (statement["job"]["purpose"], statement["job"]["expires"])
    assert body["started"] <= body["ended"]
    assert (body["outcome"]["status"] == "completed") == (body["outcome"]["code"] == "")
    key_of(body["party"]).verify(bytes.fromhex(signature), digest("veilsum/record/1", line))
    for said in body["transcripts"]:
        sides = sorted([(body["party"], said["sent_hash"]), (said["peer"], said["received_hash"])])
        text = b"veilsum/transcript-statement/1" + bytes.fromhex(body["run"])
        for name, hashed in sides:
            text += hashlib.sha256(name.encode()).digest() + bytes.fromhex(hashed)
        if said["signature"] or body["outcome"]["status"] == "completed":
            key_of(said["peer"]).verify(bytes.fromhex(said["signature"]), text)
    for approval in body["approvals"]:
        assert approval["job"] == body["job_hash"]
        text = digest("veilsum/approval/1", canonical({**approval, "signature": ""}))
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(approval["public_key"]))
        key.verify(bytes.fromhex(approval["signature"]), text)
    for files in body["artefacts"].values() if path.name == "record.vsr" else ():
        for name, expected in files.items():
            assert hashlib.sha256((path.parent / name).read_bytes()).hexdigest() == expected
    return body, digest("veilsum/record/1", line).hex()


# -- making records


def transcript(run, *, mine=ALICE, peer=BOB):
    sent, received = hashlib.sha256(b"sent").digest(), hashlib.sha256(b"received").digest()
    statement = signed_statement(RunId(run), mine.name, sent, peer.name, received)
    return Transcript(peer.name, sent.hex(), received.hex(), 12, 3456, peer.sign(statement).hex())


def write(home: Path, number=1, **changes):
    run = RunId(f"{number:032x}")
    result = home / f"align-{number:04x}"
    result.mkdir(parents=True)
    (result / "result.json").write_text(f"result {number}")
    given = {
        "identity": ALICE,
        "job": JOB,
        "federation": FEDERATION,
        "run": run,
        "attempts": 1,
        "outcome": Outcome("completed"),
        "started": 1_900_000_000.25,
        "ended": 1_900_000_001.75,
        "leaks_before": LEAKS,
        "leaks_after": LEAKS,
        "algorithms": {"key_bits": 2048, "rate": 0.5, "paths": ("avx2", b"\x01"), "on": True},
        "data": {"customers": "ab" * 32},
        "transcripts": [transcript(run)],
        "approvals": [approvals.approve(HASH, "carol", Ed25519PrivateKey.generate(), "go")],
        "artefacts": {result.name: record.hash_files(result, ["result.json"])},
    }
    path = record.write_record(result, home / "records", **{**given, **changes})
    return path, result / record.NAME


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    home = tmp_path_factory.mktemp("written")
    return write(home)


def tampered(written, folder, line=None, signature=None):
    lines = written[1].read_bytes().split(b"\n")
    path = folder / "x.vsr"
    path.write_bytes(b"\n".join([line or lines[0], signature or lines[1], b""]))
    return path


# -- one record


def test_a_record_verifies_here_and_elsewhere(written):
    for path in written:
        found = verification.verify_record(path, trusted=TRUSTED)
        body, digest = independent_verify(path)
        assert (found.digest, found.record.party, body["party"]) == (digest, "alice", "alice")
        assert found.signers == {one.name: Member(one.certificate).fingerprint for one in (ALICE, BOB)}
    assert found.files == 1
    assert written[0].read_bytes() == written[1].read_bytes()
    assert body["algorithms"] == {"key_bits": 2048, "rate": "0.5", "paths": ["avx2", "01"], "on": True}
    assert (body["started"], body["ended"]) == ("2030-03-17T17:46:40Z", "2030-03-17T17:46:41Z")
    assert json.loads(body["statement"])["job"]["params"]["threshold"] == 0.25
    assert body["veilsum"]["build"] == record.build_hash()


def leaves(value, path=()):
    if isinstance(value, dict):
        return [leaf for key in value for leaf in leaves(value[key], (*path, key))]
    if isinstance(value, list):
        return [leaf for number, inner in enumerate(value) for leaf in leaves(inner, (*path, number))]
    return [path]


def changed(value):
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            swapped = "b" if value[-1:] == "a" else "a"
            return value[:-1] + swapped


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_field_can_be_changed(written, tmp_path_factory, data):
    body = json.loads(written[1].read_bytes().split(b"\n")[0])
    path = data.draw(st.sampled_from(leaves(body)))
    place = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = changed(place[path[-1]])
    file = tampered(written, tmp_path_factory.mktemp("t"), jobs.canonical(body))
    with pytest.raises(RecordInvalid, match="1\\. "):
        verification.verify_record(file)
    with pytest.raises((InvalidSignature, ValueError, AssertionError, KeyError)):
        independent_verify(file)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_byte_can_be_changed(written, tmp_path_factory, data):
    content = bytearray(written[1].read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file = tmp_path_factory.mktemp("b") / "x.vsr"
    file.write_bytes(content)
    with pytest.raises(RecordInvalid):
        verification.verify_record(file)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=100))
def test_no_garbage_is_more_than_invalid(tmp_path_factory, first, second):
    file = tmp_path_factory.mktemp("g") / "x.vsr"
    for content in (first, first + b"\n" + second + b"\n"):
        file.write_bytes(content)
        with pytest.raises(RecordInvalid):
            verification.verify_record(file)


def resigned(written, folder, change):
    """Let the party itself sign a body that breaks a rule."""
    body = json.loads(written[1].read_bytes().split(b"\n")[0])
    change(body)
    line = body if isinstance(body, bytes) else jobs.canonical(body)
    signature = jobs.canonical({"signature": ALICE.sign(record.record_digest(line)).hex()})
    return tampered(written, folder, line, signature)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: b.update(purpose="another"), "purpose"),
        (lambda b: b.update(expires="2031-01-01"), "expiry"),
        (lambda b: b.update(job_hash="00" * 32), "job hash"),
        (lambda b: b.update(job_hash="zz"), "job hash"),
        (lambda b: b.update(format="veilsum-record/2"), "format"),
        (lambda b: b.update(more=1), "form of a record"),
        (lambda b: b.pop("leaks"), "form of a record"),
        (lambda b: b.update(statement="{}"), "form of a record"),
        (lambda b: b.update(statement="[" * 5000), "form of a record"),
        (lambda b: b.update(statement=b["statement"] + " "), "statement is not in canonical form"),
        (lambda b: b.update(run="x"), "run id"),
        (lambda b: b.update(party="bob"), "signature of bob"),
        (lambda b: b.update(started="2031-01-01T00:00:00Z"), "ended before"),
        (lambda b: b.update(started="yesterday"), "is not a time"),
        (lambda b: b["outcome"].update(code="PeerLost"), "outcome contradicts"),
        (lambda b: b["outcome"].update(status="aborted"), "outcome contradicts"),
        (lambda b: b["algorithms"].update(rate=0.5), "canonical"),
        (lambda b: b["transcripts"][0].update(sent_hash="00" * 32), "countersignature of bob"),
        (lambda b: b["transcripts"][0].update(peer="eve"), "countersignature of eve"),
        (lambda b: b["transcripts"][0].update(signature=""), "did not countersign"),
        (lambda b: b["transcripts"][0].update(signature="x"), "countersignature of bob"),
        (lambda b: b["approvals"][0].update(note="stop"), "approval of carol does not verify"),
        (lambda b: b["approvals"][0].update(public_key="x"), "approval of carol does not verify"),
    ],
)
def test_even_its_own_party_cannot_break_the_rules(written, tmp_path, change, reason):
    file = resigned(written, tmp_path, change)
    with pytest.raises(RecordInvalid, match=reason):
        verification.verify_record(file)


def test_every_reason_is_numbered(written, tmp_path):
    def change(body):
        body.update(purpose="another", started="2031-01-01T00:00:00Z")
        body["transcripts"][0]["signature"] = ""

    with pytest.raises(RecordInvalid) as caught:
        verification.verify_record(resigned(written, tmp_path, change))
    for number in ("1. ", "2. ", "3. "):
        assert number in caught.value.message
    assert "4. " not in caught.value.message
    assert caught.value.remedy


def test_keys_in_another_order_or_twice_are_refused(written, tmp_path):
    line = written[1].read_bytes().split(b"\n")[0]
    body = json.loads(line)
    spaced = json.dumps(body, sort_keys=True, ensure_ascii=False).encode()
    twice = line[:-1] + b',"sequence":1}'
    for text in (spaced, twice):
        signature = jobs.canonical({"signature": ALICE.sign(record.record_digest(text)).hex()})
        with pytest.raises(RecordInvalid, match="canonical"):
            verification.verify_record(tampered(written, tmp_path, text, signature))


def test_a_certificate_that_is_not_trusted_is_refused(written):
    other = identity.generate(PartyId("bob"))
    for trusted in ({**TRUSTED, "bob": [other.certificate]}, {"alice": [ALICE.certificate]}):
        with pytest.raises(RecordInvalid, match=r"certificate of bob .* is not trusted"):
            verification.verify_record(written[0], trusted=trusted)
    verification.verify_record(written[0], trusted={**TRUSTED, "bob": [other.certificate, BOB.certificate]})


def test_result_files_are_compared(tmp_path):
    _, copy = write(tmp_path)
    verification.verify_record(copy.parent)
    (copy.parent / "result.json").write_text("better")
    with pytest.raises(RecordInvalid, match=r"result\.json has been changed"):
        verification.verify_record(copy.parent)
    (copy.parent / "result.json").unlink()
    with pytest.raises(RecordInvalid, match=r"result\.json is missing"):
        verification.verify_record(copy.parent)
    with pytest.raises(RecordInvalid, match="cannot be read"):
        verification.verify_record(tmp_path / "nothing.vsr")
    with pytest.raises(StoreError):
        record.hash_files(tmp_path, ["nothing"])


def test_a_file_name_cannot_lead_out_of_the_folder(tmp_path):
    (tmp_path / "secret").write_text("x")
    _, copy = write(tmp_path, artefacts={"a": {"../secret": hashlib.sha256(b"x").hexdigest()}})
    with pytest.raises(RecordInvalid, match="not a file of the folder"):
        verification.verify_record(copy)


@pytest.mark.parametrize("status", ["aborted", "refused"])
def test_jobs_that_did_not_complete_leave_a_record_too(tmp_path, status):
    run = f"{1:032x}"
    lost = transcript(run)
    path, _ = write(
        tmp_path,
        outcome=Outcome(status, "PeerLost", "a peer was lost"),
        transcripts=[record.msgspec.structs.replace(lost, signature="")],
        artefacts={},
        ended=1.0,  # the clock was set back meanwhile
    )
    found = verification.verify_record(path)
    assert independent_verify(path)[1] == found.digest
    assert found.record.outcome.status == status
    assert "bob" not in found.signers


def test_only_a_member_under_its_own_certificate_writes(tmp_path):
    with pytest.raises(ConfigError, match="certificate of alice"):
        write(tmp_path, identity=identity.generate(PartyId("alice")))
    with pytest.raises(ConfigError, match="certificate of eve"):
        write(tmp_path, number=2, identity=identity.generate(PartyId("eve")))


# -- the statement both sides sign


def test_both_sides_sign_the_same_statement():
    sent, received, run = bytes(32), bytes([1]) * 32, RunId("0f" * 16)
    mine = signed_statement(run, ALICE.name, sent, BOB.name, received)
    assert mine == signed_statement(run, BOB.name, received, ALICE.name, sent)
    assert mine != signed_statement(run, ALICE.name, received, BOB.name, sent)
    peer = SimpleNamespace(
        sent=SimpleNamespace(digest=lambda: sent), received=SimpleNamespace(digest=lambda: received)
    )
    session = SimpleNamespace(peers={"bob": peer}, me="alice", run=run)
    assert Session.spoken(session, "bob") == mine  # what the wire signs is what the record verifies


# -- the chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    home = tmp_path_factory.mktemp("chain")
    for number in (3, 1, 2):
        write(home, number)
    return home / "records"


def test_a_chain_verifies(chain):
    found = verification.verify_chain(chain, trusted=TRUSTED)
    assert [one.record.sequence for one in found] == [1, 2, 3]
    assert [one.path.name[:6] for one in found] == ["000001", "000002", "000003"]
    assert found[0].record.previous == record.FIRST
    assert [one.record.previous for one in found[1:]] == [one.digest for one in found[:-1]]
    assert chain.stat().st_mode & 0o777 == 0o700
    assert verification.verify_chain(chain.parent / "none") == []


@pytest.mark.parametrize("missing", [0, 1])
def test_a_removed_record_is_noticed(chain, tmp_path, missing):
    copy = shutil.copytree(chain, tmp_path / "c")
    record.chain_files(copy)[missing].unlink()
    with pytest.raises(RecordInvalid, match="place"):
        verification.verify_chain(copy)


def test_reordered_renamed_or_foreign_records_are_noticed(chain, tmp_path):
    copy = shutil.copytree(chain, tmp_path / "c")
    files = record.chain_files(copy)
    one, two = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(two)
    files[1].write_bytes(one)
    with pytest.raises(RecordInvalid, match="does not follow"):
        verification.verify_chain(copy)
    files[0].write_bytes(one)
    files[1].write_bytes(two)
    files[2].rename(copy / "000003-ffffffff.vsr")
    with pytest.raises(RecordInvalid, match="holds record 3"):
        verification.verify_chain(copy)
    (copy / "000003-ffffffff.vsr").unlink()
    verification.verify_chain(copy)
    third = transcript(f"{9:032x}", mine=BOB, peer=ALICE)
    write(tmp_path / "b", 9, identity=BOB, transcripts=[third])
    foreign = record.chain_files(tmp_path / "b" / "records")[0]
    shutil.copy(foreign, copy / "000003-00000000.vsr")
    with pytest.raises(RecordInvalid, match="belongs to bob"):
        verification.verify_chain(copy)


def test_two_runs_that_end_together_make_one_chain(tmp_path):
    threads = [threading.Thread(target=write, args=(tmp_path, number)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(verification.verify_chain(tmp_path / "records")) == 6


def test_a_chain_with_a_broken_head_is_not_continued(tmp_path):
    write(tmp_path)
    head = record.chain_files(tmp_path / "records")[0]
    head.write_bytes(head.read_bytes()[:100])
    with pytest.raises(RecordInvalid):
        write(tmp_path, 2)
    assert len(record.chain_files(tmp_path / "records")) == 1


# -- fingerprints and builds


def test_salts_are_stable_within_a_run_and_differ_between_runs(tmp_path):
    one, two = RunId("0" * 32), RunId("1" * 32)
    salt = record.fingerprint_salt(tmp_path, one)
    assert salt == record.fingerprint_salt(tmp_path, one)
    assert len({salt, record.fingerprint_salt(tmp_path, two), (tmp_path / "salt").read_bytes()}) == 3
    assert (tmp_path / "salt").stat().st_mode & 0o777 == 0o600
    (tmp_path / "salt").write_bytes(b"short")
    with pytest.raises(StoreError):
        record.fingerprint_salt(tmp_path, one)


def test_the_build_hash_follows_the_document(tmp_path):
    files = {"a.py": b"1", "b/c.so": b"2", "b.py": b"3", "data.txt": b"4"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    total = b"".join(
        name.encode() + b"\0" + hashlib.sha256(files[name]).digest() for name in ("a.py", "b.py", "b/c.so")
    )
    assert record.build_hash(tmp_path) == hashlib.sha256(total).hexdigest()


def test_the_document_names_every_key():
    text = (Path(__file__).parents[2] / "docs" / "record-format.md").read_text()
    for kind in (record.Record, Transcript, Outcome, approvals.Approval, record.Software, record.Leaks, Leak):
        for field in kind.__struct_fields__:
            assert f"`{field}`" in text or f'"{field}"' in text, field

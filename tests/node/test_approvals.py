import datetime as dt
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from veilsum.errors import ApprovalMissing, ConfigError
from veilsum.jobs import Floor, canonical
from veilsum.node import approvals
from veilsum.node.config import PartyConfig
from veilsum.parties import PartyId

JOB = bytes(range(32))
KEYS = {person: Ed25519PrivateKey.generate() for person in ("carol", "dave", "erin")}


@pytest.fixture
def party(tmp_path):
    return PartyConfig(
        home=tmp_path,
        name=PartyId("alice"),
        key=tmp_path / "alice.key",
        federation=tmp_path / "federation.toml",
        floor=Floor(approvals=2),
        approvers={person: KEYS[person].public_key().public_bytes_raw() for person in ("carol", "dave")},
    )


def give(party, person, *, key=None, job=JOB, note="go"):
    return approvals.save_approval(party.approvals, approvals.approve(job, person, key or KEYS[person], note))


def test_a_job_needs_as_many_persons_as_the_floor_says(party):
    with pytest.raises(ApprovalMissing) as caught:
        approvals.check(JOB, party)
    assert "carol, dave" in caught.value.message
    assert caught.value.remedy == "veilsum approve JOB --person carol"
    give(party, "carol")
    give(party, "carol", note="once more")  # the same person twice is one person
    with pytest.raises(ApprovalMissing) as caught:
        approvals.check(JOB, party)
    assert caught.value.remedy == "veilsum approve JOB --person dave"
    give(party, "dave")
    assert [found.person for found in approvals.check(JOB, party)] == ["carol", "dave"]
    assert [found.note for found in approvals.check(JOB, party)] == ["once more", "go"]


def test_an_approval_is_for_one_job(party):
    other = bytes([*JOB[:31], 0])  # even where the file names would be the same
    give(party, "carol", job=other)
    give(party, "dave", job=other)
    with pytest.raises(ApprovalMissing):
        approvals.check(JOB, party)


def test_a_stranger_or_another_key_is_refused(party):
    path = give(party, "erin")
    with pytest.raises(ConfigError, match="'erin'"):
        approvals.check(JOB, party)
    path.unlink()
    give(party, "carol", key=KEYS["erin"])
    with pytest.raises(ConfigError, match="'carol' with this key"):
        approvals.check(JOB, party)


@pytest.mark.parametrize("key", ["job", "person", "time", "note", "public_key", "signature", "more"])
def test_no_field_of_an_approval_can_be_changed(party, key):
    path = give(party, "carol")
    content = json.loads(path.read_bytes())
    old = content.get(key, "")
    content[key] = ("0" if old[:1] != "0" else "1") + old[1:]
    path.write_bytes(canonical(content))
    with pytest.raises(ConfigError) as caught:
        approvals.check(JOB, party)
    assert "not a valid approval" in caught.value.message
    assert "approve the job again" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 70000])
def test_a_file_that_is_no_approval_is_refused(party, content):
    path = give(party, "carol")
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        approvals.check(JOB, party)


def test_time_is_utc_and_names_stay_in_the_folder():
    zone = dt.timezone(dt.timedelta(hours=2))
    signed = approvals.approve(JOB, "carol", KEYS["carol"], "", now=dt.datetime(2030, 1, 1, 1, tzinfo=zone))
    assert signed.time == "2029-12-31T23:00:00Z"
    with pytest.raises(ConfigError):
        approvals.approve(JOB, "../carol", KEYS["carol"], "")


def test_without_a_rule_nobody_needs_to_approve(tmp_path, party):
    free = PartyConfig(home=tmp_path, name=party.name, key=party.key, federation=party.federation)
    assert approvals.check(JOB, free) == []

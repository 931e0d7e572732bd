import base64
import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.errors import ConfigError
from veilsum.node import config, identity, toml
from veilsum.parties import NAME, Federation, Member, PartyId

NOW = dt.datetime(2030, 6, 1, tzinfo=dt.UTC)
JOB = """
kind = "hidden_psi"
purpose = "joint pricing"
expires = 2030-12-31
[parties]
signer = "bob"
client = ["alice"]
[data]
alice = "customers"
[params]
key_bits = 2048
"""
PARTY = """
name = "alice"
key = "alice.key"
[data.customers]
source = "customers.csv"
ids = { columns = ["phone"], kind = "phone", region = "US" }
[floor]
min_group = 10
max_epsilon = 4
"""


def member(name, address="", now=NOW):
    return Member(certificate=identity.generate(PartyId(name), now=now).certificate, address=address)


MEMBERS = {name: member(name) for name in ("alice", "bob", "referee")}


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def refused(call, *words, remedy=""):
    with pytest.raises(ConfigError) as caught:
        call()
    for word in words:
        assert word in caught.value.message
    assert caught.value.remedy
    assert remedy in caught.value.remedy


def federation_file(tmp_path, **changes):
    entries = {name: {"certificate": base64.b64encode(m.certificate).decode()} for name, m in MEMBERS.items()}
    for name, change in changes.items():
        entries[name] = {**entries.get(name, {}), **change}
    return write(tmp_path / "federation.toml", toml.dump({"name": "insurers", "party": entries}))


def load_federation(path):
    return config.load_federation(path, now=NOW)


# -- federation.toml


@settings(max_examples=40, deadline=None)
@given(
    name=st.text(min_size=1).filter(str.strip),
    members=st.dictionaries(st.sampled_from(sorted(MEMBERS)), st.booleans()),
)
def test_a_federation_survives_its_file(tmp_path_factory, name, members):
    path = tmp_path_factory.mktemp("f") / "federation.toml"
    entries = {
        PartyId(party): Member(MEMBERS[party].certificate, f"[::1]:{7000 + number}" if with_address else "")
        for number, (party, with_address) in enumerate(members.items())
    }
    config.save_federation(path, Federation(name=name, members=entries))
    loaded = config.load_federation(path, now=NOW)
    assert (loaded.name, loaded.members) == (name, entries)
    assert list(loaded.members) == sorted(entries)


def test_copies_in_another_order_choose_the_same_dialler(tmp_path):
    entries = {n: Member(m.certificate, f"h:{700 + i}") for i, (n, m) in enumerate(MEMBERS.items())}
    text = {
        order: toml.dump(
            {
                "name": "f",
                "party": {
                    n: {
                        "certificate": base64.b64encode(entries[n].certificate).decode(),
                        "address": entries[n].address,
                    }
                    for n in order
                },
            }
        )
        for order in [("alice", "bob"), ("bob", "alice")]
    }
    diallers = {
        load_federation(write(tmp_path / "f.toml", t)).dialler(PartyId("alice"), PartyId("bob"))
        for t in text.values()
    }
    assert diallers == {"bob"}


def test_certificates_in_a_federation_are_checked(tmp_path):
    old = identity.generate(PartyId("bob"), now=NOW - dt.timedelta(days=3000)).certificate
    early = identity.generate(PartyId("bob"), now=NOW + dt.timedelta(days=2)).certificate
    broken = bytearray(MEMBERS["bob"].certificate)
    broken[-1] ^= 1  # its own signature
    cases = [
        ("%%%", "not base64", "copy it again"),
        (base64.b64encode(b"hello").decode(), "not a valid self-signed certificate", "card"),
        (base64.b64encode(bytes(broken)).decode(), "not a valid self-signed certificate", "card"),
        (base64.b64encode(MEMBERS["alice"].certificate).decode(), "belongs to 'alice', not to 'bob'", "card"),
        (base64.b64encode(old).decode(), "expired on", "rotate"),
        (base64.b64encode(early).decode(), "not valid before", "clock"),
    ]
    for certificate, word, remedy in cases:
        path = federation_file(tmp_path, bob={"certificate": certificate})
        refused(lambda path=path: load_federation(path), "bob", word, remedy=remedy)
    path = federation_file(tmp_path, bob={"certificate": base64.b64encode(old).decode()})
    assert config.load_federation(path, now=NOW, dates=False).members[PartyId("bob")].certificate == old


@pytest.mark.parametrize(
    "address",
    [
        "7101",
        "host",
        "host:",
        ":7101",
        "host:0",
        "host:65536",
        "::1:7101",
        "a b:1",
        "[::1:1",
        "\x1b[0m:1",
        "[h]:1",
    ],
)
def test_an_address_without_host_or_port_is_refused(tmp_path, address):
    path = federation_file(tmp_path, bob={"address": address})
    refused(lambda: load_federation(path), "party.bob.address", "host:port", remedy="for example")


def test_addresses_split():
    assert config.split_address("[2001:db8::7]:7101") == ("2001:db8::7", 7101)
    assert config.split_address("node.example:1") == ("node.example", 1)


def test_an_address_belongs_to_one_party(tmp_path):
    path = federation_file(tmp_path, alice={"address": "h:1"}, bob={"address": "h:1"})
    refused(lambda: load_federation(path), "party.bob.address", "alice", remedy="port")


def test_a_party_has_a_proper_name(tmp_path):
    path = federation_file(tmp_path, **{"Bob!": {"certificate": ""}})
    refused(lambda: load_federation(path), "Bob!", remedy="a-z")


# -- party.toml


def test_a_party_is_read_with_paths_from_its_own_folder(tmp_path):
    write(tmp_path / "party.toml", PARTY)
    party = config.load_party(tmp_path)
    assert party == config.load_party(tmp_path / "party.toml")
    assert (party.name, party.key, party.federation) == (
        "alice",
        tmp_path / "alice.key",
        tmp_path / "federation.toml",
    )
    assert (party.floor.min_group, party.floor.max_epsilon, party.floor.approvals) == (10, 4.0, 0)
    assert party.data["customers"].source == "customers.csv"
    assert config.id_schema(party, "customers").columns == ("phone",)
    refused(lambda: config.id_schema(party, "customer"), "'customer'", remedy="customers")


@pytest.mark.parametrize(
    ("old", "new", "words", "remedy"),
    [
        ('key = "', 'keys = "', ["party.toml: keys", "not a known key"], "'key'"),
        ("min_group", "min_grup", ["floor.min_grup"], "'min_group'"),
        ("ids =", "id =", ["data.customers.id"], "'ids'"),
        ("= 10", '= "10"', ["floor.min_group", "a whole number", "a text in quotes"], "whole number"),
        ("= 10", "= true", ["floor.min_group", "a whole number", "true or false"], "whole number"),
        ("= 10", "= -1", ["floor.min_group", "negative"], "0 or more"),
        ("[floor]", "[floor]\nmax_signatures = -1", ["floor.max_signatures", "negative"], "0 or more"),
        ("= 4", "= nan", ["floor.max_epsilon", "finite"], "8.0"),
        ("= 4", "= inf", ["floor.max_epsilon", "finite"], "8.0"),
        ('"customers.csv"', "7", ["data.customers.source", "found a whole number"], "text"),
        ('"customers.csv"', "{ duckdb = 3 }", ["data.customers.source", "found a whole number"], "text"),
        ('source = "customers.csv"\n', "", ["data.customers.source", "missing"], "source = "),
        ('"alice"', '"Alice"', ["party.toml: name", "'Alice'"], "a-z"),
        ('key = "alice.key"', 'key = "alice.key', ["line 3"], "quotes"),
        ("[floor]", 'listen = "x"\n[floor]', ["data.customers.listen"], "known here"),
        ("\nname", '\nlisten = "x"\nname', ["party.toml: listen", "host:port"], "host:port"),
        ("[floor]", "[floor]\napprovals = 1", ["floor.approvals", "only 0"], "--person"),
        ("[floor]", '[approvers]\ncarol = "AAAA"\n[floor]', ["approvers.carol", "Ed25519"], "--person"),
        ("[data.customers]", "[data]\ncustomers = 1\n[x]", ["x", "not a known key"], "known here"),
    ],
)
def test_what_is_wrong_in_a_party_file_is_named(tmp_path, old, new, words, remedy):
    assert old in PARTY
    write(tmp_path / "party.toml", PARTY.replace(old, new, 1))
    refused(lambda: config.load_party(tmp_path), *words, remedy=remedy)


def test_wrong_ids_are_named_when_the_schema_is_made(tmp_path):
    write(tmp_path / "party.toml", PARTY.replace("kind = ", "knd = "))
    party = config.load_party(tmp_path)
    refused(lambda: config.id_schema(party, "customers"), "data.customers.ids.knd", remedy="kind")


def test_two_persons_need_two_keys(tmp_path):
    key = base64.b64encode(bytes(32)).decode()
    write(tmp_path / "party.toml", PARTY + f'[approvers]\ncarol = "{key}"\ndave = "{key}"\n')
    refused(lambda: config.load_party(tmp_path), "approvers.dave", "another person's key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622])
def test_a_party_file_that_others_can_read_is_refused(tmp_path, mode):
    path = write(tmp_path / "party.toml", PARTY, mode)
    refused(lambda: config.load_party(tmp_path), "others", remedy=f"chmod 600 {path}")


def test_files_that_are_not_there_or_not_text(tmp_path):
    refused(lambda: config.load_party(tmp_path), "does not exist", remedy="identity new")
    refused(lambda: load_federation(tmp_path / "federation.toml"), "does not exist", remedy="federation add")
    refused(lambda: config.load_job(tmp_path / "job.toml"), "does not exist", remedy="init")
    (tmp_path / "job.toml").write_bytes(b"\xff\xfe")
    refused(lambda: config.load_job(tmp_path / "job.toml"), "not UTF-8")
    (tmp_path / "folder.toml").mkdir()
    refused(lambda: config.load_job(tmp_path / "folder.toml"), "cannot be read")
    write(tmp_path / "job.toml", "a = " + "[" * 5000)
    refused(lambda: config.load_job(tmp_path / "job.toml"), "nested")


# -- job.toml


def load_job(path, federation=None):
    return config.load_job(path, federation=federation, today=NOW.date())


def test_a_job_is_read(tmp_path):
    job = load_job(write(tmp_path / "job.toml", JOB))
    assert job.parties == {"signer": ("bob",), "client": ("alice",)}
    assert (job.expires, job.params, job.members) == (
        dt.date(2030, 12, 31),
        {"key_bits": 2048},
        ("bob", "alice"),
    )
    assert load_job(tmp_path / "job.toml", Federation(name="f", members=MEMBERS)) == job


@pytest.mark.parametrize(
    ("old", "new", "words", "remedy"),
    [
        ("expires = 2030-12-31", "expires = 2030-05-31", ["expires", "expired on 2030-05-31"], "new date"),
        ("expires = 2030-12-31", 'expires = "2030-12-31"', ["expires", "must be a date"], "without quotes"),
        ("expires = 2030-12-31", "expires = 2030-12-31T00:00:00", ["expires", "date with a time"], "quotes"),
        ("expires = 2030-12-31", "", ["expires", "missing"], "expires"),
        ("purpose", "purpsoe", ["purpsoe"], "'purpose'"),
        ('"joint pricing"', '" "', ["purpose", "empty"], "recorded"),
        ("alice = ", "alcie = ", ["data.alcie", "not in the job"], "'alice'"),
        ('["alice"]', '["alice", "alice"]', ["parties.client", "twice"], "once"),
        ('["alice"]', "[1]", ["parties.client", "a whole number"], "text"),
        ("= 2048", "= inf", ["params.key_bits", "finite"], "number"),
        ("= 2048", "= 2030-01-01", ["params.key_bits", "a date"], "quotes"),
        ("= 2048", "= 99999999999999999999", ["params.key_bits", "too large"], "63"),
        ("= 2048", "= " + "[" * 40 + "]" * 40, ["params.key_bits", "nested"], "levels"),
        ("[parties]", "step_timeout = -1\n[parties]", ["step_timeout"], "3600"),
        (
            'signer = "bob"\nclient = ["alice"]\n[data]\nalice = "customers"',
            "",
            ["parties", "no party"],
            "client",
        ),
    ],
)
def test_what_is_wrong_in_a_job_file_is_named(tmp_path, old, new, words, remedy):
    assert old in JOB
    path = write(tmp_path / "job.toml", JOB.replace(old, new, 1))
    refused(lambda: load_job(path), *words, remedy=remedy)


def test_a_job_names_members_of_the_federation(tmp_path):
    path = write(tmp_path / "job.toml", JOB.replace("bob", "bobb"))
    refused(lambda: load_job(path, Federation(name="f", members=MEMBERS)), "'bobb'", remedy="'bob'")


# -- TOML of our own

KEYS = st.text(max_size=5)
LEAVES = st.text() | st.integers(-(2**63), 2**63 - 1) | st.booleans()
FLAT = st.dictionaries(KEYS, LEAVES, max_size=4)
NESTED = st.dictionaries(KEYS, LEAVES | FLAT | st.lists(FLAT, max_size=3), max_size=3)
TABLES = st.dictionaries(KEYS, LEAVES | NESTED | st.lists(NESTED, max_size=3), max_size=3)


def without_empty_lists(table):
    if isinstance(table, dict):
        return {k: without_empty_lists(v) for k, v in table.items() if v != []}
    return [without_empty_lists(entry) for entry in table] if isinstance(table, list) else table


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_written_toml_reads_back(table):
    assert toml.parse(toml.dump(table), Path("x")) == without_empty_lists(table)


@settings(max_examples=40, deadline=None)
@given(st.from_regex(NAME, fullmatch=True), st.text())
def test_no_name_or_address_breaks_out_of_its_quotes(name, address):
    content = {"party": {name: {"address": address, "certificate": "x"}}}
    assert toml.parse(toml.dump(content), Path("x")) == content


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_in_a_file_are_a_config_error_at_worst(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("c") / "job.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        config.load_job(path)

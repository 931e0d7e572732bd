import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from veilsum import errors
from veilsum.cli import main as entry
from veilsum.cli import output, setup
from veilsum.node import config, identity, kinds, record
from veilsum.node.record import Outcome
from veilsum.parties import RunId

ROOT = Path(__file__).parents[2]


@pytest.fixture
def veilsum(tmp_path, monkeypatch, capsys):
    """Run a command in a fresh folder; return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(config.PASSPHRASE, raising=False)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115, PTH123 -- no terminal; closed with the test

    def run(*words):
        code = entry.main([str(word) for word in words])
        told = capsys.readouterr()
        return code, told.out, told.err

    yield run
    sys.stdin.close()


@pytest.fixture
def pair(veilsum):
    """Two parties that have exchanged cards, in folders a and b."""
    for home, port in (("a", 7101), ("b", 7102)):
        assert (
            veilsum("identity", "new", f"insurer-{home}", "--address", f"127.0.0.1:{port}", "--home", home)[0]
            == 0
        )
    for home, other in (("a", "b"), ("b", "a")):
        assert veilsum("federation", "add", f"{other}/insurer-{other}.card", "--home", home)[0] == 0
    return veilsum


def as_json(outcome, code=0):
    assert (outcome[0], outcome[2]) == (code, "")
    return json.loads(outcome[1])


def fails(outcome, code, *words):
    assert outcome[0] == code
    assert outcome[1] == ""
    for word in ("error: ", "remedy: ", *words):
        assert word in outcome[2]
    assert "Traceback" not in outcome[2]


# -- the way in


def test_two_parties_get_to_the_same_federation_file(pair):
    assert Path("a/federation.toml").read_bytes() == Path("b/federation.toml").read_bytes()
    shown = as_json(pair("federation", "show", "--home", "a", "--json"))
    assert [m["party"] for m in shown["members"]] == ["insurer-a", "insurer-b"]
    code, text, _ = pair("federation", "show", "--home", "b")
    assert code == 0
    for member in shown["members"]:
        assert member["fingerprint"] in text
    assert (Path("a/party.toml").stat().st_mode & 0o777, Path("a/insurer-a.key").stat().st_mode & 0o777) == (
        0o600,
        0o600,
    )
    assert pair("federation", "add", "b/insurer-b.card", "--home", "a")[1].startswith("insurer-b: unchanged")


def test_init_writes_files_that_load(pair):
    wrote = as_json(pair("init", "hidden_psi", "--home", "a", "--json"))
    assert wrote["written"] == ["a/party.toml", "a/job.toml"]
    party = config.load_party(Path("a"))
    job = config.load_job(Path("a/job.toml"), federation=config.load_federation(party.federation))
    assert job.members == ("insurer-a", "insurer-b")
    assert party.data["customers"].source == "customers.parquet"
    fails(pair("init", "--home", "a"), 3, "job.toml exists already")
    fails(pair("init", "hidden_spi", "--home", "a"), 3, "'hidden_spi'", "'hidden_psi'")


@pytest.mark.parametrize("kind", sorted(kinds.KINDS))
def test_every_skeleton_is_a_job(veilsum, kind):
    code, text, _ = veilsum("init", kind, "--name", "insurer-b", "--home", "new")
    assert (code, "data check" in text) == (0, True)
    job = config.load_job(Path("new/job.toml"))
    assert job.kind == kind
    assert set(job.members) - {"referee"} == {"insurer-a", "insurer-b"}
    assert kinds.kind_of(job).leaks(job, kinds.params_of(job))
    made = veilsum("identity", "new", "--home", "new")  # the name stands in party.toml now
    assert "insurer-b" in made[1]
    fails(veilsum("identity", "new", "other", "--home", "new"), 3, "belongs to 'insurer-b'")


def test_data_check_counts_and_warns(pair):
    pair("init", "--home", "a")
    fails(pair("data", "check", "--home", "a"), 3, "customers.parquet")
    Path("a/customers.csv").write_text("phone,visits\n(202) 555-0123,1\n+1 202 555 0124,2\nnone,3\n")
    text = Path("a/party.toml").read_text()
    config.write_whole(Path("a/party.toml"), text.replace("customers.parquet", "customers.csv").encode())
    code, text, _ = pair("data", "check", "--home", "a")
    assert (code, "3 rows, 2 different ids, 1 malformed" in text) == (0, True)
    assert "555" not in text
    found = as_json(pair("--json", "data", "check", "customers", "--home", "a"))["data"]["customers"]
    assert (found["rows"], found["ids"], found["malformed_rows"]) == (3, 2, [2])
    fails(pair("data", "check", "custmers", "--home", "a"), 3, "'customers'")
    fails(pair("data", "check", "--home", "b"), 3, "no data set")


# -- identities


def test_an_identity_is_made_once(pair):
    before = Path("a/insurer-a.key").read_bytes()
    fails(pair("identity", "new", "insurer-a", "--home", "a"), 3, "exists already")
    assert Path("a/insurer-a.key").read_bytes() == before
    fails(pair("identity", "new", "Bad", "--home", "c"), 3, "'Bad'")
    fails(pair("identity", "new", "--home", "c"), 3, "needs a name")
    fails(pair("identity", "new", "x", "--address", "here", "--home", "c"), 3, "host:port")
    assert not list(Path("c").iterdir())


def test_a_card_is_shown_moved_and_made_again(pair):
    first = as_json(pair("identity", "card", "--home", "a", "--json"))
    assert first["address"] == "127.0.0.1:7101"
    moved = as_json(pair("identity", "card", "--address", "192.0.2.1:7101", "--home", "a", "--json"))
    assert (moved["address"], moved["fingerprint"]) == ("192.0.2.1:7101", first["fingerprint"])
    assert pair("federation", "add", "a/insurer-a.card", "--home", "b")[1].startswith("insurer-a: moved")
    assert Path("a/federation.toml").read_bytes() == Path("b/federation.toml").read_bytes()
    Path("b/insurer-b.card").unlink()
    assert as_json(pair("identity", "card", "--home", "b", "--json"))["party"] == "insurer-b"
    assert Path("b/insurer-b.card").exists()


def test_rotation_is_accepted_with_its_proof_only(pair):
    old = as_json(pair("identity", "card", "--home", "a", "--json"))["fingerprint"]
    new = pair("identity", "rotate", "--home", "a")
    assert (new[0], old in new[1]) == (0, False)
    assert pair("federation", "add", "a/insurer-a.card", "--home", "b")[1].startswith("insurer-a: rotated")
    assert Path("a/federation.toml").read_bytes() == Path("b/federation.toml").read_bytes()
    assert pair("identity", "new", "insurer-a", "--home", "thief")[0] == 0
    stolen = as_json(pair("identity", "card", "--home", "thief", "--json"))["fingerprint"]
    refused = pair("federation", "add", "thief/insurer-a.card", "--home", "b")
    fails(refused, 3, "has not signed", stolen, "--replace")
    replaced = pair("federation", "add", "thief/insurer-a.card", "--replace", stolen, "--home", "b")
    assert replaced[1].startswith("insurer-a: replaced")


def test_a_passphrase_comes_from_the_environment_or_the_terminal(veilsum, monkeypatch):
    monkeypatch.setenv(config.PASSPHRASE, "correct horse")
    code, _, told = veilsum("identity", "new", "alice", "--home", "a")
    assert (code, told) == (0, "")
    assert b"ENCRYPTED" in Path("a/alice.key").read_bytes()
    monkeypatch.delenv(config.PASSPHRASE)
    fails(veilsum("identity", "rotate", "--home", "a"), 3, "no terminal", config.PASSPHRASE)
    assert "not encrypted" in veilsum("identity", "new", "bob", "--home", "b")[2]


def test_the_terminal_is_asked_without_echo(tmp_path):
    """A real terminal: two questions, and the passphrase appears nowhere on it."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "veilsum.cli.main", "identity", "new", "alice", "--home", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop(config.PASSPHRASE, None)
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True
    ) as process:
        os.close(follower)
        seen = b""
        for _ in range(2):
            while not seen.rstrip(b" ").endswith(b":"):
                seen += os.read(leader, 1000)
            time.sleep(0.1)
            os.write(leader, b"swordfish\n")
            seen += b"|"
        while chunk := _read(leader):
            seen += chunk
    os.close(leader)
    assert process.returncode == 0, seen
    assert b"swordfish" not in seen
    assert b"ENCRYPTED" in (tmp_path / "alice.key").read_bytes()


def _read(leader):
    try:
        return os.read(leader, 1000)
    except OSError:  # Linux: the other end is closed
        return b""


# -- approvals, exposure, doctor, records


def test_a_person_approves_a_job(pair):
    pair("init", "--home", "a")
    made = as_json(pair("identity", "new", "--person", "carol", "--home", "a", "--json"))
    fails(
        pair("approve", "a/job.toml", "--person", "carol", "--home", "a"), 3, "may not approve", "approvers"
    )
    add = f'[approvers]\ncarol = "{made["public_key"]}"\n'
    config.write_whole(Path("a/party.toml"), (Path("a/party.toml").read_text() + add).encode())
    code, text, _ = pair("approve", "a/job.toml", "--person", "carol", "--note", "go", "--home", "a")
    assert (code, "insurer-a, insurer-b" in text) == (0, True)
    assert len(list(Path("a/approvals").glob("*-carol.approval"))) == 1
    fails(pair("approve", "a/job.toml", "--person", "caro", "--home", "a"), 3, "'carol'")
    identity.new_person(Path("a"), "dave")
    fails(
        pair("approve", "a/job.toml", "--person", "carol", "--key", "a/dave.key", "--home", "a"),
        3,
        "not the one of carol",
    )


def test_exposure_shows_the_account(pair):
    pair("init", "--home", "a")
    party = config.load_party(Path("a"))
    shown = as_json(pair("exposure", "--home", "a", "--json"))
    assert (shown["entries"], shown["balance"]) == ([], {"customers": {}})
    from veilsum.node.exposure import Exposure

    amounts = {"runs": 1, "rows": 20, "epsilon": 0.5}
    Exposure(party.exposure).reserve(
        "customers", "stats", ("insurer-b",), "why", RunId("r"), amounts, party.floor
    )
    code, text, _ = pair("exposure", "--home", "a")
    assert (code, "insurer-b" in text, "epsilon 0.5 of 8" in text) == (0, True, True)
    assert as_json(pair("exposure", "customers", "--home", "a", "--json"))["balance"]["customers"] == amounts


def test_the_doctor_ends_with_one_when_something_is_wrong(pair):
    code, text, _ = pair("doctor", "--home", "a")
    assert (code, "nothing stops a run" in text) == (0, True)
    Path("a/party.toml").chmod(0o644)
    code, text, _ = pair("doctor", "--home", "a")
    assert (code, "chmod 600" in text, "FAIL" in text) == (1, True, True)
    assert as_json(pair("doctor", "--home", "a", "--json"), code=1)["failed"] == 1


@pytest.fixture
def recorded(pair):
    pair("init", "--home", "a")
    party = config.load_party(Path("a"))
    mine = identity.load_identity(party, setup.ask)
    federation = config.load_federation(party.federation)
    job = config.load_job(Path("a/job.toml"), federation=federation)
    result = party.results / "align-0001"
    result.mkdir(parents=True)
    (result / "result.json").write_text("{}")
    record.write_record(
        result,
        party.records,
        identity=mine,
        job=job,
        federation=federation,
        run=RunId("0" * 32),
        attempts=1,
        outcome=Outcome("completed"),
        started=0,
        ended=1,
        artefacts={"align-0001": record.hash_files(result, ["result.json"])},
    )
    return pair


def test_records_verify_one_by_one_and_as_a_chain(recorded):
    code, text, _ = recorded("record", "verify", "a/results/align-0001", "--home", "a")
    assert (code, "1 files compared" in text) == (0, True)
    code, text, _ = recorded("record", "verify", "a/state/records", "--home", "a")
    assert (code, "1 records, chain OK" in text) == (0, True)
    code, text, _ = recorded("record", "verify", "a/results/align-0001/record.vsr")  # a third person
    assert (code, "compare the fingerprints" in text) == (0, True)
    assert recorded("identity", "rotate", "--home", "a")[0] == 0
    shown = as_json(recorded("record", "verify", "a/state/records", "--home", "a", "--json"))
    assert (shown["chain"], shown["trusted"]) == (True, True)  # the old certificate is proved by the card
    assert "ok    records: 1 records, chain OK" in recorded("doctor", "--home", "a")[1]
    Path("a/insurer-a.card").unlink()
    fails(recorded("record", "verify", "a/state/records", "--home", "a"), 13, "not trusted")
    Path("a/results/align-0001/result.json").write_text("[]")
    fails(recorded("record", "verify", "a/results/align-0001"), 13, "1. result.json has been changed")
    fails(recorded("record", "verify", "nowhere"), 3, "does not exist")
    fails(recorded("record", "verify", "b"), 3, "no record")


# -- the entry


def test_the_exit_codes_are_documented():
    text = (ROOT / "docs" / "exit-codes.md").read_text()
    rows = [
        f"| {code} | {f'`{name}`' if name else ''} | {meaning} |"
        for code, name, meaning in output.exit_codes()
    ]
    assert [line for line in text.splitlines() if line.startswith("| ")][1:] == rows
    assert {kind.exit_code for kind in errors.KINDS.values()} <= {code for code, _, _ in output.exit_codes()}
    assert all(kind.__doc__ for kind in errors.KINDS.values())


def raising(monkeypatch, error):
    def register(app):
        @app.command()
        def go():
            raise error

        @app.command()
        def other():
            pass

    module = type(sys)("raising_verbs")
    module.register = register
    monkeypatch.setitem(sys.modules, "raising_verbs", module)
    monkeypatch.setattr(entry, "MODULES", ("raising_verbs",))


@pytest.mark.parametrize("kind", list(errors.KINDS.values()))
def test_every_error_has_its_code_and_its_remedy(veilsum, monkeypatch, kind):
    raising(monkeypatch, kind("it broke\x1b[2J", remedy="mend it", party="alice", run="r1"))
    fails(veilsum("go"), kind.exit_code, "it broke\\x1b[2J [party alice, run r1]", "mend it")
    told = as_json(veilsum("go", "--json"), code=kind.exit_code)
    where = {"party": "alice", "run": "r1", "step": None}
    assert told == {"error": kind.__name__, "message": "it broke\x1b[2J", "remedy": "mend it", **where}


def test_ctrl_c_is_a_clean_end(veilsum, monkeypatch):
    for error in (KeyboardInterrupt(), typer.Abort()):
        raising(monkeypatch, error)
        assert veilsum("go")[0] == 130
        assert as_json(veilsum("go", "--json"), code=130)["error"] == "Interrupted"


def test_a_bug_is_one_sentence_and_quotes_nothing(veilsum, monkeypatch):
    raising(monkeypatch, ValueError("+12025550123"))
    fails(veilsum("go"), 70, "ValueError", "bug", "--debug")
    assert "+12025550123" not in "".join(map(str, veilsum("go")))
    assert as_json(veilsum("go", "--json"), code=70)["error"] == "Bug"
    assert "Traceback" in veilsum("go", "--debug")[2]


@pytest.mark.parametrize("words", [("nonsense",), ("doctor", "--hoem", "x"), ("approve",), ("identity",)])
def test_a_wrong_command_line_ends_with_two(veilsum, words):
    code, text, told = veilsum(*words)
    assert code == 2
    assert text or "remedy: veilsum" in told
    assert "Traceback" not in told


def test_a_usage_error_is_json_too(veilsum):
    told = as_json(veilsum("federation", "add", "--json"), code=2)
    assert (told["error"], told["remedy"]) == ("Usage", "veilsum federation add --help")


def test_flags_after_a_double_dash_are_words(pair):
    fails(pair("data", "check", "--home", "a", "--", "--json"), 3, "'--json'")


def test_the_version(veilsum):
    assert veilsum("--version")[:2] == (0, f"veilsum {entry.veilsum.__version__}\n")


def test_help_comes_quickly_and_imports_nothing_heavy():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = (
        "import sys; from veilsum.cli.main import main; main(['--help']); "
        "print(sorted({'numpy', 'duckdb', 'cryptography', 'rich'} & set(sys.modules)))"
    )
    times = []
    for _ in range(3):
        start = sum(os.times()[2:4])  # processor time of children: other load does not count
        ran = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        times.append(sum(os.times()[2:4]) - start)
    assert ran.stdout.splitlines()[-1] == "[]"
    assert "Exit codes: 0 worked" in ran.stdout
    assert 0 < min(times) < 0.4


def test_nobody_reads_on():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    read, written = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "veilsum.cli.main", "--version"]
    ran = subprocess.run(command, stdout=written, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(written)
    assert b"Traceback" not in ran.stderr

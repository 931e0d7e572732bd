"""The documentation tells the truth: its Python runs, its commands run, its tables are the code's."""

import contextlib
import functools
import importlib.util
import inspect
import io
import operator
import os
import pkgutil
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import duckdb
import msgspec
import pytest

from veilsum import jobs
from veilsum.cli import main
from veilsum.crypto import blind_rsa, dh, private_id, rsa_proof
from veilsum.data.ids import IdSchema
from veilsum.exchanges import id_lists
from veilsum.net.config import NetConfig
from veilsum.node import alignments, config
from veilsum.node.demo_data import write_demo
from veilsum.node.kinds import KINDS, kind_of, params_of
from veilsum.node.toml import read
from veilsum.protocols import dh_ring, hidden_psi, hidden_union
from veilsum.store.sources import Source

ROOT = Path(__file__).parents[2]
ABOUT = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = [ROOT / name for name in ABOUT] + sorted((ROOT / "docs").rglob("*.md"))
PAGES = [page for page in PAGES if "_build" not in page.parts]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^([a-z][a-z0-9-]*)?\$ (.*)$")


class Block(NamedTuple):
    page: Path
    kind: str
    text: str

    @property
    def commands(self):
        """Who types what, in order."""
        return [found.groups() for line in self.text.splitlines() if (found := PROMPT.match(line))]

    @property
    def shown(self):
        """The lines of output."""
        return [line for line in self.text.splitlines() if line.strip() and not PROMPT.match(line)]


def blocks(kind, pages=PAGES):
    return [Block(p, k, text) for p in pages for k, text in FENCE.findall(p.read_text()) if k == kind]


def load(path):
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def insertions():
    return load(ROOT / "docs" / "insertions.py")


# -- Python


@pytest.mark.parametrize("page", [p for p in PAGES if blocks("python", [p])], ids=lambda p: p.name)
def test_python_on_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for block in blocks("python", [page]):
            exec(compile(block.text, page.name, "exec"), namespace)


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_an_example_runs(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script)])
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out


# -- commands


def disarmed(app):
    """Let every verb parse its arguments and do nothing."""
    for command in app.registered_commands:

        @functools.wraps(command.callback)
        def nothing(*args, **kwargs):
            del args, kwargs

        command.callback = nothing
    for group in app.registered_groups:
        disarmed(group.typer_instance)
    return app


def words_of(line):
    """Split a command as a shell does for the simple ones that pages show."""
    import shlex

    return shlex.split(line, comments=True)


COMMANDS = [(block.page, line) for block in blocks("console") for _, line in block.commands]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{p.name}-{line}" for p, line in COMMANDS])
def test_a_command_on_a_page_is_one(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program, *words = words_of(line)
    if program == "veilsum":
        disarmed(main.build())(words, standalone_mode=False, obj=None, prog_name="veilsum")
    elif program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program.endswith("pip"):
        assert words[0] in {"install", "freeze"}
    else:
        assert program in {"python3", ".venv/bin/python"}, f"{page.name}: {line}"
        files = [word for word in words if word.endswith(".py")]
        assert all((ROOT / file).exists() for file in files)


def test_a_wrong_option_would_be_noticed():
    with pytest.raises(Exception, match="--wiat"):
        disarmed(main.build())(["run", "job.toml", "--wiat", "3"], standalone_mode=False)


INLINE = re.compile(r"`veilsum ((?:[a-z]+ )?[a-z][a-z-]*)[^`]*`")


def test_verbs_named_in_sentences_exist(insertions):
    verbs = set(insertions.verbs(main.build()))
    for page in PAGES:
        for words in INLINE.findall(FENCE.sub("", page.read_text())):
            first, *rest = words.split()
            known = {verb[:1] for verb in verbs} | {verb[:2] for verb in verbs}
            assert (first,) in known, (page.name, words)
            if rest and any(len(verb) == 2 and verb[0] == first for verb in verbs):
                assert (first, rest[0]) in known, (page.name, words)


# -- the story of the README, typed as it stands there


def pattern(line):
    """Return what an output line must look like: … stands for anything, and spaces count as one."""
    return re.compile(r"\s+".join(re.escape(word).replace("…", ".*") for word in line.split()) + r"\s*")


def check_shown(block, told):
    lines = [" ".join(line.split()) for line in told.splitlines()]
    for line in block.shown:
        assert any(pattern(line).fullmatch(one) for one in lines), (
            f"{block.page.name}: {line!r} not in\n{told}"
        )


def between(text, begin, end):
    return text.partition(begin)[2].partition(end)[0]


def start(words, folder):
    full = [sys.executable, "-W", "error", "-m", "veilsum.cli.main", *words]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(full, cwd=folder, text=True, **pipes)


def here(words, folder):
    """Run a command in this process, which is quicker; return what it said."""
    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        main.main(words)
    return said.getvalue()


@pytest.fixture
def nobody_there(monkeypatch):
    """Nobody sits at the terminal."""
    monkeypatch.delenv(config.PASSPHRASE, raising=False)
    with open(os.devnull) as nothing:  # noqa: PTH123 -- a device
        monkeypatch.setattr(sys, "stdin", nothing)
        yield


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [
        ("<!-- run: demo -->", "\n### ", ["demo"]),
        ("<!-- run: demo learn -->", "<!-- end: demo learn -->", ["demo", "learn"]),
    ],
    ids=["align", "learn"],
)
def test_the_demo_prints_what_the_readme_shows(tmp_path, begin, end, words):
    text = between((ROOT / "README.md").read_text(), begin, end)
    (found,) = [Block(ROOT / "README.md", *m) for m in FENCE.findall(text)]
    assert found.commands == [(None, " ".join(["veilsum", *words]))]
    child = start([*words, "--folder", "demo"], tmp_path)
    told, _ = child.communicate(timeout=60)
    assert child.returncode == 0, told
    check_shown(found, told)


class Machines:
    """Two folders for two machines, and the post between them."""

    def __init__(self, folder):
        data = write_demo(folder / "data", rows=6000)
        self.homes = {name: folder / name for name in ("insurer-a", "insurer-b")}
        for home, file in zip(self.homes.values(), (data.insurer_a, data.insurer_b), strict=True):
            home.mkdir()
            (home / file.path.name).write_bytes(file.path.read_bytes())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def write(self, text):
        """Do with a file on the page what the page says."""
        head = text.partition("\n")[0]
        if head == "# job.toml":
            for home in self.homes.values():
                (home / "job.toml").write_text(text)
        else:
            assert head == "# party.toml of insurer-b, at its end"
            path = self.homes["insurer-b"] / "party.toml"
            path.write_text(path.read_text() + "\n" + text)

    def type(self, block):
        """Type a block's commands; runs go on together. Return what all of them said."""
        told, running = "", []
        for party, line in block.commands:
            program, *words = words_of(line.replace("a.example.com:7101", self.address))
            assert program == "veilsum"
            if {line.split()[1] for _, line in block.commands} == {"run"}:
                running.append(start(words, self.homes[party]))
            else:
                told += here(words, self.homes[party])
            if words[:3] == ["identity", "new", "--person"]:
                self.enter_approver(told)
        told += "".join(child.communicate(timeout=100)[0] for child in running)
        assert all(child.returncode == 0 for child in running), told
        self.post()
        return told.replace(self.address, "a.example.com:7101")

    def post(self):
        """Send cards to the others."""
        for name, home in self.homes.items():
            for other in self.homes.values():
                if other != home and (card := home / f"{name}.card").exists():
                    (other / card.name).write_bytes(card.read_bytes())

    def enter_approver(self, told):
        """Enter the printed lines in party.toml, and ask for one approval."""
        path = self.homes["insurer-b"] / "party.toml"
        lines = re.search(r'^\[approvers\]\nalice = ".*"$', told, re.MULTILINE)[0]
        before = path.read_text()
        assert "# approvals = 1" in before
        path.write_text(before.replace("# approvals = 1", "approvals = 1") + f"\n{lines}\n")


@pytest.mark.usefixtures("nobody_there")
def test_two_machines_as_in_the_readme(tmp_path):
    text = between(
        (ROOT / "README.md").read_text(), "<!-- run: two machines -->", "<!-- end: two machines -->"
    )
    machines = Machines(tmp_path)
    verbs = set()
    for kind, content in FENCE.findall(text):
        block = Block(ROOT / "README.md", kind, content)
        if kind == "toml":
            machines.write(content)
        else:
            check_shown(block, machines.type(block))
            verbs |= {line.split()[1] for _, line in block.commands}
    assert (machines.homes["insurer-a"] / "federation.toml").read_text() == (
        machines.homes["insurer-b"] / "federation.toml"
    ).read_text()
    assert {"identity", "federation", "init", "data", "explain", "approve", "run", "report"} <= verbs
    check_results(*machines.homes.values())


def check_results(client, signer):
    """The files hold what the README's table says of them; the same customers stand at the same places."""
    client, signer = (next((home / "results").glob("align-*")) for home in (client, signer))
    names = {"alignment.json", "alignment.parquet", "record.vsr", "report.html", "result.json"}
    assert {f.name for f in client.iterdir()} == names | {"matched.csv", "matched.parquet"}
    assert {f.name for f in signer.iterdir()} == names | {"aligned.csv", "aligned.parquet"}
    columns, knows = lines_of(client / "alignment.parquet")
    assert set(columns) == {"position", "id", "row", "weight"}
    own_columns, own = lines_of(signer / "alignment.parquet")
    assert set(own_columns) == {"position", "id", "row"}
    assert [(line["position"], line["id"]) for line in knows] == [(o["position"], o["id"]) for o in own]
    assert [line["position"] for line in own] == list(range(6000))
    assert all((line["row"] is None) == (line["weight"] == 0) for line in knows)
    matching = [line["position"] for line in knows if line["weight"] == 1]
    of_client, of_signer = numbers(client / "matched.csv"), numbers(signer / "aligned.csv")
    assert len(of_client) == len(set(of_client)) == 3600
    assert len(of_signer) == len(set(of_signer)) == 6000
    assert of_client == [of_signer[position] for position in matching]


def lines_of(file):
    """Return the columns of a Parquet file, and its lines as it stands."""
    with duckdb.connect() as database:
        found = database.execute("SELECT * FROM read_parquet(?)", [str(file)])
        columns = [about[0] for about in found.description]
        return columns, [dict(zip(columns, line, strict=True)) for line in found.fetchall()]


def numbers(file):
    """Return the telephone numbers in the first column of a CSV file."""
    return [re.sub(r"\D", "", line.split(",")[0])[-10:] for line in file.read_text().splitlines()[1:]]


# -- tables


def test_the_readme_says_of_leaks_what_the_protocol_says(insertions):
    rows = [row for row in (ROOT / "README.md").read_text().splitlines() if row.startswith("| ")]
    cells = [[cell.strip() for cell in row.split("|")] for row in rows if row.count("|") == 5]
    assert [(cell[1], cell[3]) for cell in cells[1:]] == [
        (question, insertions.in_one_cell(insertions.leaks_of(job)))
        for question, job in insertions.QUESTIONS.items()
    ]
    for cell, job in zip(cells[1:], insertions.QUESTIONS.values(), strict=True):
        said = job.params["mode"] if job.kind == "hidden_psi" else job.kind
        assert f"`{said}`" in cell[2], cell[1]


def test_pages_show_every_construction(insertions):
    shown = {kind_of(job) for made in insertions.CONSTRUCTIONS.values() for job in made.examples.values()}
    assert shown == {alignments.BLIND_RSA, alignments.RING, alignments.UNION}
    modes = {
        job.params["mode"] for made in insertions.CONSTRUCTIONS.values() for job in made.examples.values()
    }
    assert modes == set(alignments.MODES)
    asked = insertions.QUESTIONS.values()
    assert {kind_of(job) for job in asked if job.kind == "hidden_psi"} == shown
    assert {job.kind for job in asked} == set(KINDS)


def keys_in(page, name):
    """Return key → default from the table below a mark."""
    text = page.read_text().partition(f"<!-- keys: {name} -->\n")[2]
    rows = [line.split("|") for line in text.partition("\n\n")[0].splitlines()[2:]]
    return {row[1].strip(" `"): row[2].strip(" `") for row in rows}


STRUCTS = {
    "job": config._JobFile,
    "party": config._PartyFile,
    "data": config.DataConfig,
    "models": config.ModelConfig,
    "ids": IdSchema,
    "floor": jobs.Floor,
    "federation": config._FederationFile,
}


@pytest.mark.parametrize("name", STRUCTS)
def test_the_page_on_files_has_every_key(name):
    fields = msgspec.structs.fields(STRUCTS[name])
    found = keys_in(ROOT / "docs" / "files.md", name)
    assert list(found) == [field.name for field in fields]
    if name in {"ids", "floor"}:
        given = {f.name: f.default for f in fields}
        for key, default in found.items():
            plain = "" if given[key] in {msgspec.NODEFAULT, "", ()} else str(given[key])
            assert default == plain, key


@pytest.mark.parametrize("block", blocks("toml"), ids=lambda b: f"{b.page.name}-{b.text.splitlines()[0]}")
def test_a_file_on_a_page_can_be_read(block, tmp_path):
    head = block.text.partition("\n")[0]
    path = tmp_path / head.removeprefix("# ").split()[0]
    path.touch(mode=0o600)
    path.write_text(block.text)
    if path.name == "job.toml":
        job = config.load_job(path)
        assert job.kind in KINDS
        kind, params = kind_of(job), params_of(job)
        assert set(kind.bringers(job, params)) == set(job.data)
        assert kind.leaks(job, params)
    elif "at its end" in head:
        party = {"name": "insurer-b", "key": "k"} | read(path)
        (tmp_path / "whole.toml").touch(mode=0o600)
        (tmp_path / "whole.toml").write_text('name = "insurer-b"\nkey = "k"\n' + block.text)
        assert config.id_schema(config.load_party(tmp_path / "whole.toml"), next(iter(party["data"])))
    else:
        party = config.load_party(path)
        assert [config.id_schema(party, name) for name, one in party.data.items() if one.ids]


def test_every_insertion_has_a_page_and_every_mark_a_text(insertions):
    marks = [mark for page in PAGES for mark in insertions.MARK.findall(page.read_text())]
    assert sorted(marks) == sorted(insertions.INSERTIONS)
    for name, make in insertions.INSERTIONS.items():
        assert len(make()) > 100, name


SHORT = {
    module.__name__.rpartition(".")[2]: module
    for module in (blind_rsa, dh, dh_ring, hidden_psi, hidden_union, id_lists, private_id, rsa_proof)
} | {"Source": Source}
NAMED = re.compile(rf"`((?:veilsum|{'|'.join(SHORT)})\.(?!py`)[\w.]+)`")


def test_names_of_code_on_pages_exist():
    seen = set()
    for page in PAGES:
        for name in NAMED.findall(page.read_text()):
            root, _, rest = name.partition(".")
            if name == "veilsum.build":  # a key of records
                continue
            if root in SHORT:
                operator.attrgetter(rest)(SHORT[root])
            else:
                pkgutil.resolve_name(name)
            seen.add(name)
    assert len(seen) > 40
    assert {name.partition(".")[0] for name in seen} == {"veilsum", *SHORT}


def test_files_named_on_pages_exist():
    linked = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
    named = re.compile(r"`((?:src|tests|docs|bench|examples)/[\w./-]*\w)`")
    for page in PAGES:
        for target in linked.findall(page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)
        for target in named.findall(page.read_text()):
            assert (ROOT / target).exists(), (page.name, target)


def test_every_member_of_the_struct_is_documented(insertions):
    scripts = [made.script.Params for made in insertions.CONSTRUCTIONS.values()]
    for struct in (NetConfig, *scripts, jobs.Floor, IdSchema):
        assert set(insertions.attributes(struct)) == set(struct.__struct_fields__)
    assert insertions.attributes(NetConfig)["heartbeat"] == "seconds between signs of life."


# -- measured numbers


def test_measured_tables_are_filled_from_a_benchmark():
    fill_measured = load(ROOT / "docs" / "fill_measured.py")
    row = {"name": "x", "unit": "s", "ours": 2.0, "peer": 4.0, "peer_name": "them", "ratio": 2.0}
    row |= {"goal": 1.5, "met": True, "note": "a|b"}
    alone = row | {
        "name": "y",
        "ours": 123456.7,
        "peer": None,
        "peer_name": None,
        "ratio": None,
        "goal": None,
    }
    about = {"cpu": "c", "cores": 2, "system": "s", "python": "3", "openssl": "3", "versions": {"numpy": "2"}}
    page = (ROOT / "docs" / "measured.md").read_text()
    for name in ("transport", "psi", "kernels"):
        filled = fill_measured.fill(
            page, {"bench": name, "machine": about, "rows": [row, alone | {"met": None}]}
        )
        assert "| x | s | 2 | 4 (them) | 2.00 | 1.5 times | yes | a\\|b |" in filled
        assert "| y | s | 123,457 | - |  |  |  | a\\|b |" in filled
        assert (
            fill_measured.fill(filled, {"bench": name, "machine": about, "rows": [row]}).count("| x |") == 1
        )
    with pytest.raises(ValueError, match="places"):
        fill_measured.fill(page, {"bench": "other", "machine": about, "rows": []})


# -- the project's own files


def test_constraints_pin_every_dependency():
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", pin) for pin in pins)
    versions = {canonicalize_name(pin.split("==")[0]): pin.split("==")[1] for pin in pins}
    assert len(versions) == len(pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["build-system"]["requires"], "cmake", "ninja"]
    for extra in ("test", "docs"):
        asked += project["project"]["optional-dependencies"][extra]
    for text in asked:
        requirement = Requirement(text)
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_decision_records_are_numbered_and_short():
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    for number, page in enumerate(pages, start=1):
        text = page.read_text()
        assert page.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number}. ")
        assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Consequences")), page.name
        assert len(text.split()) < 450, page.name


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text[:100]
    assert "END OF TERMS AND CONDITIONS" in text
    assert "APPENDIX" in text


def test_public_names_are_on_the_page_about_python():
    import veilsum

    text = (ROOT / "docs" / "python.md").read_text()
    for name in veilsum.__all__:
        assert f"veilsum.{name}" in text
        assert inspect.getdoc(getattr(veilsum, name))

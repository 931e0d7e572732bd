"""What users may rely on: the names that the package exports, and the command line's verbs and options."""

import subprocess
import sys

import veilsum
from veilsum import errors
from veilsum.cli import main

NAMES = ["Aligned", "Trained", "__version__", "align", "from_onnx", "from_torch", "train"]

VERBS = {
    "approve": {"--person", "--key", "--note", "--home"},
    "data check": {"--home"},
    "demo": {"--folder", "--rows"},
    "doctor": {"--home"},
    "explain": {"--home", "--rows"},
    "exposure": {"--home"},
    "federation add": {"--replace", "--federation", "--home"},
    "federation show": {"--home"},
    "identity card": {"--address", "--home"},
    "identity new": {"--address", "--person", "--federation", "--home"},
    "identity rotate": {"--home"},
    "init": {"--name", "--job", "--home"},
    "model import-onnx": {"--output"},
    "model show": set(),
    "record verify": {"--home"},
    "report": {"--home", "--open"},
    "run": {"--as", "--home", "--fresh", "--memory", "--wait"},
    "simulate": {"--home"},
    "status": {"--home"},
}

CODES = {
    "VeilsumError": 1,
    "ConfigError": 3,
    "JobMismatch": 3,
    "DataError": 4,
    "ApprovalMissing": 5,
    "BudgetExceeded": 6,
    "PeerLost": 7,
    "PeerAborted": 8,
    "ProtocolError": 9,
    "CheatingDetected": 10,
    "StepTimeout": 11,
    "StoreError": 12,
    "RecordInvalid": 13,
    "Interrupted": 130,
}


def verbs(app, before=()):
    for command in app.registered_commands:
        yield " ".join((*before, command.name or command.callback.__name__)), command.callback
    for group in app.registered_groups:
        yield from verbs(group.typer_instance, (*before, group.name))


def options(capsys, verb):
    capsys.readouterr()
    assert main.main([*verb.split(), "--help"]) == 0
    words = capsys.readouterr().out.replace(",", " ").split()
    return {word for word in words if word.startswith("--")} - {"--help"}


def test_the_package_exports_these_names():
    assert sorted(veilsum.__all__) == NAMES
    assert all(hasattr(veilsum, name) for name in NAMES)


def test_importing_the_package_stays_cheap():
    heavy = ["numpy", "duckdb", "cryptography", "asyncio"]
    code = f"import sys, veilsum; print([m for m in {heavy} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_the_command_line_has_these_verbs():
    assert sorted(name for name, _ in verbs(main.build())) == sorted(VERBS)


def test_the_verbs_have_these_options(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for verb, expected in VERBS.items():
        assert options(capsys, verb) == expected, verb


def test_errors_keep_their_exit_codes():
    assert {name: kind.exit_code for name, kind in errors.KINDS.items()} == CODES

"""Environments of the peers: ``bench/peers/NAME.txt`` becomes ``.bench/NAME``, made when first needed.

A peer never enters veilsum's own environment. One that cannot be installed is reported, not fatal.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from rows import say

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "bench" / "peers"
_OTHER_PYTHONS = ("python3.11",)  # what the peers' wheels are made for, where this interpreter is too new


class Environment(NamedTuple):
    """Where a peer is installed; ``problem`` says why it is not."""

    python: Path | None
    versions: dict[str, str]
    problem: str = ""

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of the peer's programs, which share the benchmarks' modules."""
        return os.environ | {"PYTHONPATH": str(ROOT / "bench")}


def prepare(name: str) -> Environment:
    """Return a peer's environment, made now unless it stands already."""
    requirements = PROGRAMS / f"{name}.txt"
    pins = [line for line in requirements.read_text().splitlines() if line and not line.startswith("#")]
    versions = dict(line.split("==") for line in pins)
    home = ROOT / ".bench" / name
    stamp = home / "stamp"
    wanted = hashlib.sha256("\n".join(pins).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return Environment(home / "bin" / "python", versions)
    problem = ""
    for python in _pythons():
        say(f"installing {', '.join(pins)} into {home.relative_to(ROOT)} …")
        problem = _install(python, home, requirements)
        if not problem:
            stamp.write_text(wanted)
            return Environment(home / "bin" / "python", versions)
    say(problem)
    return Environment(None, {}, problem)


def _pythons() -> list[str]:
    others = [found for name in _OTHER_PYTHONS if (found := shutil.which(name))]
    return [sys.executable, *(other for other in others if not sys.executable.startswith(other))]


def _install(python: str, home: Path, requirements: Path) -> str:
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
    steps = (
        [python, "-m", "venv", "--clear", str(home)],
        [str(home / "bin" / "python"), *pip, "-r", str(requirements)],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [""]
            return f"{requirements.stem} could not be installed: {lines[-1]}"
    return ""

"""One intersection of two files in real processes, and what it cost; by a peer (ours: `alignments`)."""

import json
import resource
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from environments import PROGRAMS, Environment
from processes import free_port
from relay import Relay

_MIX = 0x9E3779B97F4A7C15  # odd, so that multiplying by it modulo 2**64 repeats no id
_LIMIT = 3600.0  # seconds for one intersection


class IntersectionFailed(Exception):
    """A process failed, or found a wrong number of matches."""


class Cost(NamedTuple):
    """What one intersection took.

    Attributes:
        seconds: from beginning to end.
        core_seconds: user and system time of all processes together.
        peak: MiB of the larger process at its highest (0: not measured).
    """

    seconds: float
    core_seconds: float
    peak: float = 0.0


def write_ids(folder: Path, count: int) -> tuple[Path, Path]:
    """Write two files of ``count`` ids each of which every second one is common; return them."""
    paths = folder / "first.csv", folder / "second.csv"
    for path, start in zip(paths, (0, count - common(count)), strict=True):
        with path.open("w", encoding="utf-8") as out:
            out.write("id\n")
            for at in range(start, start + count, 100_000):
                numbers = range(at, min(at + 100_000, start + count))
                out.write("".join(f"{i * _MIX % 2**64:016x}\n" for i in numbers))
    return paths


def common(count: int) -> int:
    """Return how many ids the two files share."""
    return count // 2


def spu(
    environment: Environment, folder: Path, ids: tuple[Path, Path], count: int, *, relayed: bool = False
) -> tuple[Cost, int]:
    """Run SPU's ECDH at two parties; return the cost of the call, and the relayed bytes."""
    real = [free_port(), free_port()]
    relays = [Relay(port) for port in real] if relayed else []
    seen = [relay.port for relay in relays] or real
    commands = []
    for rank, path in enumerate(ids):
        ports = [real[i] if i == rank else seen[i] for i in range(2)]
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        program = [str(environment.python), str(PROGRAMS / "spu_psi.py")]
        commands.append([*program, str(rank), addresses, str(path), str(folder / f"spu{rank}.csv")])
    try:
        for relay in relays:
            relay.__enter__()
        cost, answers = together(commands)
    finally:
        for relay in relays:
            relay.__exit__(None, None, None)
    check("SPU", [answers[0]["matches"]], count)
    seconds = max(answer["seconds"] for answer in answers)
    cores = sum(answer["core_seconds"] for answer in answers)
    return Cost(seconds, cores, cost.peak), sum(relay.size for relay in relays)


def openmined(environment: Environment, ids: tuple[Path, Path], count: int) -> tuple[Cost, int]:
    """Run OpenMined's PSI, both roles in one process; return its cost and the bytes of its messages."""
    program = [str(environment.python), str(PROGRAMS / "openmined_psi.py")]
    _, (answer,) = together([[*program, *map(str, ids)]])
    check("openmined.psi", [answer["matches"]], count)
    return Cost(answer["seconds"], answer["core_seconds"]), answer["bytes"]


def check(name: str, matches: Sequence[int], count: int) -> None:
    """Compare the number of matches that was found, once or by each of several, with the right one.

    Raises:
        IntersectionFailed: it is another, or nobody has told one.
    """
    if set(matches) != {common(count)}:
        raise IntersectionFailed(f"{name} found {list(matches)} matches of {common(count)}")


def together(commands: Sequence[Sequence[str]]) -> tuple[Cost, list[dict[str, Any]]]:
    """Run commands side by side; return what they cost and each one's last JSON line."""
    before, began = _children(), time.perf_counter()
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    peaks = [_Peak(process.pid) for process in processes]
    watchdogs = [threading.Timer(_LIMIT, process.kill) for process in processes]
    for thread in (*peaks, *watchdogs):
        thread.start()
    outputs = _outputs(processes)
    seconds = time.perf_counter() - began
    for watchdog in watchdogs:
        watchdog.cancel()
    answers = []
    for process, command, (out, err) in zip(processes, commands, outputs, strict=True):
        if process.returncode:
            last = (err or out).strip().splitlines()[-1:]
            raise IntersectionFailed(f"{Path(command[1]).name} ended with {process.returncode}: {last}")
        answers.append(json.loads([line for line in out.splitlines() if line.startswith("{")][-1]))
    return Cost(seconds, _children() - before, max(peak.finish() for peak in peaks)), answers


def _outputs(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[str, str]]:
    outputs: dict[int, tuple[str, str]] = {}

    def read(process: subprocess.Popen[str]) -> None:
        outputs[process.pid] = process.communicate()

    readers = [threading.Thread(target=read, args=(process,)) for process in processes]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return [outputs[process.pid] for process in processes]


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Peak(threading.Thread):
    """Follows a process's high-water mark until it ends (what wait reports would include this process's)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self._peak = 0.0

    def run(self) -> None:
        """Look twenty times a second."""
        while True:
            try:
                lines = self._status.read_text().splitlines()
            except OSError:
                return
            marks = [line.split()[1] for line in lines if line.startswith("VmHWM")]
            if not marks:  # it has ended and waits to be reaped
                return
            self._peak = int(marks[0]) / 1024
            time.sleep(0.05)

    def finish(self) -> float:
        """Return the peak in MiB."""
        self.join()
        return self._peak

"""Two processes that a benchmark starts, orders about by JSON lines and ends."""

import json
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_PATIENCE = 120.0  # seconds for one answer


class ProcessFailed(Exception):
    """A process ended or fell silent where an answer was due."""


class Talker:
    """One process that answers in JSON lines."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._name = " ".join(Path(word).name for word in command[1:3])
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, **command: Any) -> None:
        """Give an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            ProcessFailed: it ended or said nothing for a long time.
        """
        assert self._process.stdout is not None
        watchdog = threading.Timer(_PATIENCE, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise ProcessFailed(f"{self._name} ended with {self._process.wait()}")
        body: dict[str, Any] = json.loads(line)
        return body

    def close(self, *, kill: bool) -> None:
        """End its input and wait; a server that never ends by itself is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        if kill:
            self._process.kill()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Pair:
    """A server process and a driver process; the driver measures."""

    def __init__(
        self, program: Sequence[str], environment: Mapping[str, str], extra: Sequence[str] = ()
    ) -> None:
        port = str(free_port())
        head, folder = list(program[:2]), list(program[2:])
        self._server = Talker([*head, "serve", *folder, port, *extra], environment)
        self._driver: Talker | None = None
        try:
            self._server.answer()
            self._driver = Talker([*head, "drive", *folder, port, *extra], environment)
            self._driver.answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def seconds(self, way: str, size: int, rounds: int) -> float:
        """Return the median seconds of one round of ``size`` bytes."""
        assert self._driver is not None
        self._driver.ask(way=way, size=size, rounds=rounds)
        return float(self._driver.answer()["seconds"])

    def close(self) -> None:
        """End both."""
        if self._driver is not None:
            self._driver.close(kill=False)
        self._server.close(kill=True)


def free_port() -> int:
    """Return a port of the loopback interface that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])

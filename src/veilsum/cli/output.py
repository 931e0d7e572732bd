"""One way to say things: text for people, or one JSON object for programs (``--json``)."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from veilsum.errors import KINDS, VeilsumError

USAGE, BUG = 2, 70
"""Exit codes of the command line itself: wrong options, and a mistake in veilsum."""

_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


class Printer:
    """Writes a verb's result: text lines as they come, or the JSON object at the end.

    Args:
        as_json: write one JSON object (on ``out``) and no text.
        out: where results go; standard output by default.
        err: where errors and notes go; standard error by default.
    """

    def __init__(
        self, *, as_json: bool = False, out: TextIO | None = None, err: TextIO | None = None
    ) -> None:
        self.as_json = as_json
        self._out = out or sys.stdout
        self._err = err or sys.stderr

    def say(self, text: str = "") -> None:
        """Write a line for people."""
        if not self.as_json:
            print(printable(text), file=self._out)

    def note(self, text: str) -> None:
        """Write a line for people that is no part of the result."""
        if not self.as_json:
            print(printable(text), file=self._err)

    def finding(self, state: str, name: str, message: str, remedy: str = "") -> None:
        """Write one line of a check list, and its remedy below."""
        self.say(f"{_MARKS.get(state, state)}  {name}: {message}")
        if remedy:
            self.say(f"        {remedy}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Write a table for people; numbers stand to the right."""
        if self.as_json:
            return
        texts = [[printable(str(cell)) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
        right = [
            bool(rows) and all(isinstance(row[number], (int, float)) for row in rows)
            for number in range(len(columns))
        ]
        for line in (list(columns), *texts):
            cells = zip(line, widths, right, strict=True)
            print("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in cells).rstrip(), file=self._out)

    def result(self, content: Mapping[str, Any]) -> None:
        """Write the verb's result for programs."""
        if self.as_json:
            print(json.dumps(content, ensure_ascii=False), file=self._out)

    def error(self, error: VeilsumError) -> int:
        """Write an error and return the exit code it asks for."""
        if self.as_json:
            where = {"party": error.party, "run": error.run, "step": error.step}
            content = {"error": error.code, "message": error.message, "remedy": error.remedy, **where}
            self.result(content)
        else:
            self.note(f"error: {error}")
            if error.remedy:
                self.note(f"remedy: {error.remedy}")
        return error.exit_code


def printable(text: str) -> str:
    """Show control characters as escapes: no file or peer may steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def exit_codes() -> list[tuple[int, str, str]]:
    """Return every exit code, the error's name under ``--json``, and what it means."""
    own = [
        (0, "", "It worked."),
        (USAGE, "Usage", "The command line is wrong."),
        (BUG, "Bug", "A mistake in veilsum itself; `--debug` shows where."),
    ]
    tree = [(kind.exit_code, name, (kind.__doc__ or "").partition("\n")[0]) for name, kind in KINDS.items()]
    return sorted([*own, *tree], key=lambda row: row[0])

"""How a run looks while it goes on: bars on a terminal, plain lines elsewhere, JSON lines for programs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TextIO

from veilsum import events
from veilsum.cli.output import Printer, printable

if TYPE_CHECKING:
    from rich.progress import TaskID


@contextmanager
def watching(printer: Printer, *, err: TextIO | None = None) -> Iterator[events.Sink]:
    """Yield a sink that shows events in the way that suits whoever looks."""
    stream = err or sys.stderr
    if printer.as_json:
        yield lambda event: as_json(event)  # noqa: PLW0108  looked up at each call: a hook may stand there
    elif stream.isatty():
        with Bars() as bars:
            yield bars
    else:
        yield lambda event: _as_line(event, stream)


def as_json(event: events.Event) -> None:
    """Write one event as a line on standard output, at once."""
    sys.stdout.buffer.write(events.encode(event))
    sys.stdout.buffer.flush()


def _as_line(event: events.Event, stream: TextIO) -> None:
    text = describe(event)
    if text:
        print(printable(f"{event.party}: {text}"), file=stream, flush=True)


def describe(event: events.Event) -> str:  # noqa: PLR0911  one for each event that has words
    """Return one line for people; empty for what only a bar can show well."""
    match event:
        case events.Connected():
            return f"connected to {event.peer}" + (" again" if event.again else "")
        case events.RunStarted():
            again = f", attempt {event.attempt}: goes on" if event.attempt > 1 else ""
            return f"run {event.run[:8]} of kind {event.kind} begins{again}"
        case events.Waiting():
            return f"waiting for {event.peer} in step {event.step}, {event.seconds:.0f} s so far"
        case events.StepDone():
            return f"step {event.number} {event.step}: {event.seconds:.2f} s"
        case events.RunDone() if event.earlier:
            return f"{event.artefact} was finished by all before; --fresh, at every party, begins anew"
        case events.RunDone():
            return f"done in {event.seconds:.1f} s: {event.artefact}"
        case _:
            return ""


class Bars:
    """A bar per party and step on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def __call__(self, event: events.Event) -> None:
        """Show one event."""
        if isinstance(event, events.Progress):
            self._advance(event)
        else:
            text = describe(event)
            if text:
                self._progress.console.print(
                    printable(f"{event.party}: {text}"), markup=False, highlight=False
                )

    def _advance(self, event: events.Progress) -> None:
        key = (event.party, event.step)
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(
                printable(f"{event.party} {event.step}"), total=event.total
            )
        self._progress.update(self._tasks[key], completed=event.done, total=event.total)

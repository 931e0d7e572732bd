"""The entry of the command line: flags that hold for every verb, errors in words, exit codes."""

import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

import veilsum
from veilsum.cli.output import BUG, USAGE, Printer, exit_codes
from veilsum.errors import Interrupted, VeilsumError

MODULES = (
    "veilsum.cli.setup",
    "veilsum.cli.trust",
    "veilsum.cli.runs",
    "veilsum.cli.models",
    "veilsum.cli.demo",
)
"""Every module here has a ``register(app)`` that adds its verbs."""

_ANYWHERE = ("--json", "--debug")
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""The root of typer's own complaints about arguments."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing that goes wrong shows a traceback uninvited."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    flags = [flag for flag in _ANYWHERE if flag in given[:end]]
    rest = [word for word in given[:end] if word not in _ANYWHERE] + given[end:]
    printer = Printer(as_json="--json" in flags)
    try:
        code = build()([*flags, *rest], standalone_mode=False, obj=printer, prog_name="veilsum")
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads on; say nothing, not even at exit
        return 0
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 -- the last line: a sentence, no traceback
        return _told(printer, error, debug="--debug" in flags)
    if code == Interrupted.exit_code:  # typer has caught the signal and said nothing
        return _told(printer, KeyboardInterrupt(), debug=False)
    return code if isinstance(code, int) else 0


def _told(printer: Printer, error: BaseException, *, debug: bool) -> int:
    """Say what went wrong and return the exit code."""
    if isinstance(error, VeilsumError):
        return printer.error(error)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return printer.error(Interrupted("stopped by its user"))
    if isinstance(error, _UsageError):
        return _usage(printer, error)
    return _bug(printer, error, debug=debug)


def build() -> typer.Typer:
    """Return the application with all verbs."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=f"Exit codes: {_codes()}.",
    )
    app.callback()(_root)
    for name in MODULES:
        importlib.import_module(name).register(app)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        print(f"veilsum {veilsum.__version__}")  # noqa: T201 -- the answer
        raise typer.Exit


def _root(
    as_json: Annotated[
        bool, typer.Option("--json", help="Answer with one JSON object; may stand anywhere.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show a traceback where veilsum itself is wrong; may stand anywhere."),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Organisations compute together on data that none of them shows."""
    del as_json, debug, version  # `main` has looked at them already


def _codes() -> str:
    names: dict[int, str] = {}
    for code, name, _ in exit_codes():
        names.setdefault(code, name or "worked")  # the first of a code is the general one
    return ", ".join(f"{code} {name}" for code, name in names.items())


def _usage(printer: Printer, error: Exception) -> int:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "veilsum"
    if not message:  # no arguments at all: the help has been shown
        return USAGE
    remedy = f"{command} --help"
    if printer.as_json:
        printer.result(
            {"error": "Usage", "message": message, "remedy": remedy, "party": None, "run": None, "step": None}
        )
    else:
        printer.note(f"error: {message}")
        printer.note(f"remedy: {remedy}")
    return USAGE


def _bug(printer: Printer, error: BaseException, *, debug: bool) -> int:
    # the error's own text stays out: it may quote what no log should hold
    message = f"{type(error).__name__} where none was expected: this is a bug in veilsum"
    remedy = "give the same command with --debug, and report what it shows after removing anything private"
    if printer.as_json:
        printer.result(
            {"error": "Bug", "message": message, "remedy": remedy, "party": None, "run": None, "step": None}
        )
    else:
        printer.note(f"error: {message}")
        printer.note(f"remedy: {remedy}")
    if debug:
        traceback.print_exception(error)
    return BUG


if __name__ == "__main__":
    sys.exit(main())

"""The one tree of errors: what went wrong, where, and what to do next.

Every error carries a message for its own user (it may name files and keys), the party, run and step
it belongs to, a remedy, and a ``public`` text that is safe to show a peer because it does not depend on
anybody's data. The class name is the error's code on the wire; ``exit_code`` is the command line's.
"""

from typing import ClassVar, Self


class VeilsumError(Exception):
    """The root of everything veilsum raises on purpose."""

    exit_code: ClassVar[int] = 1
    public: ClassVar[str] = "stopped with an error"

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        party: str | None = None,
        run: str | None = None,
        step: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.party = party
        self.run = run
        self.step = step

    @property
    def code(self) -> str:
        """The name under which peers, records and ``--json`` know this error."""
        return type(self).__name__

    def at(self, *, party: str | None = None, run: str | None = None, step: str | None = None) -> Self:
        """Fill in where it happened, keeping what is already known."""
        self.party = self.party or party
        self.run = self.run or run
        self.step = self.step or step
        return self

    def __str__(self) -> str:
        where = ", ".join(
            f"{word} {value}"
            for word, value in (("party", self.party), ("step", self.step), ("run", self.run))
            if value
        )
        return self.message + (f" [{where}]" if where else "")


class ConfigError(VeilsumError):
    """A file, key, option or identity is missing, unreadable or contradicts another."""

    exit_code = 3
    public = "the configuration was refused"


class JobMismatch(ConfigError):
    """Two parties hold different job or federation files; the message names the keys that differ."""

    public = "the job files differ"


class DataError(VeilsumError):
    """The user's own data cannot enter the job as it is."""

    exit_code = 4
    public = "the data was refused by its own owner"


class ApprovalMissing(VeilsumError):
    """A party's own policy asks for an approval that is not there."""

    exit_code = 5
    public = "an approval is missing"


class BudgetExceeded(VeilsumError):
    """The exposure ledger or a floor of the data's owner forbids this job."""

    exit_code = 6
    public = "a limit of the data's owner was reached"


class PeerLost(VeilsumError):
    """A peer could not be reached, fell silent or came back without its memory."""

    exit_code = 7
    public = "a peer was lost"


class PeerAborted(VeilsumError):
    """A peer stopped the run and said so; ``cause`` is the peer's own error code."""

    exit_code = 8
    public = "another party stopped the run"

    def __init__(self, message: str, *, cause: str = "", **where: str | None) -> None:
        remedy = where.pop("remedy", None) or "ask that party; its own log and report say more"
        super().__init__(message, remedy=remedy, **where)
        self.cause = cause


class ProtocolError(VeilsumError):
    """A peer's message breaks the rules of the wire or of the protocol."""

    exit_code = 9
    public = "a message broke the protocol"


class CheatingDetected(VeilsumError):
    """A check that an honest peer always passes has failed."""

    exit_code = 10
    public = "a check against cheating failed"


class StepTimeout(VeilsumError):
    """A peer is alive but did not finish a step within the job's ``step_timeout``."""

    exit_code = 11
    public = "a step took longer than the job allows"


class StoreError(VeilsumError):
    """A disk is full, or a journal, artefact or ledger on it cannot be used."""

    exit_code = 12
    public = "the local storage failed"


class RecordInvalid(VeilsumError):
    """A record, its chain or one of its signatures does not verify."""

    exit_code = 13
    public = "a record does not verify"


class Interrupted(VeilsumError):
    """The user stopped the run (Ctrl-C or a terminate signal)."""

    exit_code = 130
    public = "stopped by its user"


def _kinds(root: type[VeilsumError]) -> dict[str, type[VeilsumError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _kinds(child)
    return found


KINDS: dict[str, type[VeilsumError]] = _kinds(VeilsumError)
"""Every error of the tree by its code."""

"""One family of errors: what happened, where, and what to change. Nothing else in the project invents its own."""

from __future__ import annotations

from enum import StrEnum


class CascadeError(Exception):
    """An error a user can act on.

    `what` says in one sentence what happened, `fix` in one sentence what to do about it.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what} {fix}")
        self.what = what
        self.fix = fix

    def __reduce__(self) -> tuple[type[CascadeError], tuple[str, str]]:
        return type(self), (self.what, self.fix)  # so that it survives the way to other processes


class ConfigError(CascadeError):
    """The recipe cannot mean anything: unknown key, wrong type, missing parent, cycle, batch that does not divide."""


class DataError(CascadeError):
    """Rows that cannot be read, rendered or split as asked."""


class EngineError(CascadeError):
    """An engine (policy, rollout, teacher) is not what it was asked to be, or does something else than asked."""


class SandboxError(CascadeError):
    """The sandbox, and not the program in it, has failed, or cannot hold what it was asked to hold."""


class RegistryError(CascadeError):
    """A checkpoint that is unknown, damaged, or not what its record says."""


class GateStop(CascadeError):
    """A gate with `action: stop` did not hold; the run ends here and keeps everything it has."""


class FailureKind(StrEnum):
    """Why a rollout has no reward. A failure is never a reward of 0."""

    INFRASTRUCTURE = "infrastructure"  # a worker, a judge or the network: try again elsewhere
    DATA = "data"  # the row is malformed: drop and count it
    TASK = "task"  # the model's own doing, for which the environment defines a reward


class VerifierFailure(Exception):
    """Raised by an environment that cannot score an answer; says whose fault it is."""

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail

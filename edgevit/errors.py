"""Every error a user can meet.

    EdgevitError
    ├── UserError            exit 2: the input or the request is wrong
    │   ├── ModelError       an ONNX file that cannot be used
    │   ├── TargetError      a target that does not exist or does not parse
    │   └── ArtifactError    an artifact that is damaged, foreign or of another version
    ├── CheckFailed          exit 1: everything worked and the answer is no
    └── EnvironmentFailure   exit 3: the device or the toolchain failed
        ├── ToolchainError   a compiler or linker is missing or refused its input
        └── DeviceError      a device could not do what was asked
            ├── DeviceUnreachable   nobody answers at that address
            ├── DeviceBusy          it answers, and serves someone else
            ├── DeviceTimeout       it stopped answering
            ├── DeviceLost          the connection ended in the middle of a call
            └── DeviceMismatch      wrong architecture, operating system or version

Each says what happened (``message``), where (``where``: a file, node, key or address) and what to do
next (``advice``). The command line prints the three and nothing else; ``--debug`` adds the traceback.
"""

from __future__ import annotations


class EdgevitError(Exception):
    """Base of all errors meant for a user.

    Args:
        message: what happened, one sentence.
        where: the file, node, key or address concerned.
        advice: what to do next, one sentence.
    """

    exit_code = 2

    def __init__(self, message: str, *, where: str | None = None, advice: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.advice = advice

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} {self.advice}" if self.advice else text

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries (workers, test runners); keyword-only fields need help.
        return _rebuild, (type(self), self.message, self.where, self.advice)


def _rebuild(kind: type[EdgevitError], message: str, where: str | None, advice: str | None) -> EdgevitError:
    return kind(message, where=where, advice=advice)


class UserError(EdgevitError):
    """The request or its input is wrong."""


class ModelError(UserError):
    """An ONNX model that cannot be used."""


class TargetError(UserError):
    """A target that does not exist or does not parse."""


class ArtifactError(UserError):
    """An artifact that is damaged, foreign or of another version."""


class CheckFailed(EdgevitError):
    """Everything worked and the answer is no."""

    exit_code = 1


class EnvironmentFailure(EdgevitError):
    """The device or the toolchain failed."""

    exit_code = 3


class ToolchainError(EnvironmentFailure):
    """A compiler, linker or emulator is missing or refused its input."""


class DeviceError(EnvironmentFailure):
    """A device could not do what was asked."""


class DeviceUnreachable(DeviceError):
    """Nobody answers at the address."""


class DeviceBusy(DeviceError):
    """The device answers, and serves someone else."""


class DeviceTimeout(DeviceError):
    """The device stopped answering within the stated time."""


class DeviceLost(DeviceError):
    """The connection ended in the middle of a call."""


class DeviceMismatch(DeviceError):
    """The device has another architecture, operating system or version than the artifact needs."""

"""A child process that answers JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from queue import Empty, Queue
from typing import Any

from edgevit.errors import DeviceTimeout, EnvironmentFailure

_END_SECONDS = 5.0


class Channel:
    """A process, one JSON object a line each way. It ends when its standard input does.

    Attributes:
        process: for those who must know its id or end.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        who: str,
        environment: Mapping[str, str] | None = None,
        advice: str | None = None,
    ) -> None:
        """Start it; its first line is read with :meth:`reply`.

        Args:
            command: program and arguments.
            who: what to call it in messages, with its article.
            environment: all of its variables; None for this process's.
            advice: what a user can do if it fails.

        Raises:
            EnvironmentFailure: there is no such program.
        """
        self._who = who
        self._advice = advice
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=None if environment is None else dict(environment),
                text=True,
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise EnvironmentFailure(
                f"{who} could not be started: {error.strerror or error}.", advice=advice
            ) from error
        self._replies: Queue[str] = Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, message: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Send a request and wait for its answer; as :meth:`reply`."""
        stdin = self.process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError, ValueError):  # a dead process says so through its closed stdout
            stdin.write(json.dumps(message) + "\n")
            stdin.flush()
        return self.reply(timeout)

    def reply(self, timeout: float) -> dict[str, Any]:
        """The next line.

        Args:
            timeout: seconds to wait for it.

        Raises:
            EnvironmentFailure: the process ended, or said something that is not a JSON object.
            DeviceTimeout: it did not answer in time.
        """
        try:
            line = self._replies.get(timeout=timeout)
        except Empty:
            raise DeviceTimeout(f"{self._who} did not answer within {timeout:g} s.", advice=self._advice) from None
        if not line:
            raise EnvironmentFailure(f"{self._who} ended: {self._last_words()}", advice=self._advice)
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise EnvironmentFailure(f"{self._who} answered something that is not a JSON object.", advice=self._advice)
        return reply

    def close(self) -> None:
        """End the process and what it started; safe to call twice."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
        except BaseException:
            self._kill()  # a second Ctrl-C does not wait
            raise
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()
            self._errors.close()

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _listen(self) -> None:
        stdout = self.process.stdout
        assert stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed under our feet at the end
            for line in stdout:
                self._replies.put(line)
        self._replies.put("")

    def _last_words(self) -> str:
        # How it ended is known only once it has.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=_END_SECONDS)
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        code = self.process.returncode
        if words:
            return words[-1].strip()
        return f"killed by signal {-code}" if code is not None and code < 0 else "no reason given"

"""A whole session with a device, for a probe."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from edgevit.device.doctor.command import run
from edgevit.device.doctor.finding import Finding, error, ok

_TIMEOUT = 20.0

# In a process of its own: a broken TVM must not take the doctor along.
_DESCRIBE = """
import json, sys
from edgevit.device.connect import connect
from edgevit.errors import EdgevitError
try:
    with connect(**json.loads(sys.argv[1]), timeout=float(sys.argv[2])) as session:
        print(json.dumps({"info": session.describe().model_dump()}))
except EdgevitError as error:
    print(json.dumps({"message": error.message, "advice": error.advice}))
"""


def try_session(name: str, way: Mapping[str, str], *, more_seconds: float = 30.0) -> Finding:
    """Open a session, ask the device what it is, close it.

    Args:
        name: of the finding.
        way: to the device: arguments of ``edgevit.connect``.
        more_seconds: to allow besides those for reaching the device.
    """
    command = [sys.executable, "-c", _DESCRIBE, json.dumps(dict(way)), str(_TIMEOUT)]
    done = run(command, timeout=_TIMEOUT + more_seconds)
    try:
        said: dict[str, Any] = json.loads(done.output.splitlines()[-1])
    except (ValueError, IndexError):
        return error(name, f"a session with it failed: {done.trouble or 'no answer'}", "Look at its output.")
    if "info" not in said:
        return error(name, str(said["message"]), said["advice"])
    info = said["info"]
    facts = [info["runtime"], info["architecture"], info["system"], info["cpu"]]
    facts += [f"{info['cores']} cores"] if info["cores"] else []
    return ok(name, "free; " + ", ".join(fact for fact in facts if fact))

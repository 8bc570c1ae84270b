"""A virtual environment for each peer, kept in the cache folder and made only when asked for."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edgevit.bench.contenders.catalogue import Peer
from edgevit.errors import EnvironmentFailure
from edgevit.files import make_folder, write_atomic
from edgevit.sources import cache_folder

_MARK = "edgevit-peer.json"
_TIMEOUT_SECONDS = 900.0

Say = Callable[[str], None]
"""Told, in a sentence, what is being done."""


def environment_folder(peer: Peer) -> Path:
    """Where a peer's environment lies, or would."""
    return cache_folder() / "peers" / f"{peer.name}-{peer.version}"


def environment_python(peer: Peer, *, install: bool, say: Say = lambda _: None) -> Path:
    """The interpreter of a peer's environment, which is made if it does not exist.

    Args:
        peer: which.
        install: whether it may be made; packages come from where pip is configured to find them.
        say: told what is installed, and where.

    Raises:
        EnvironmentFailure: it does not exist and may not be made, or an installation failed.
        UserError: the cache folder is not writable.
    """
    folder = environment_folder(peer)
    python = folder / "bin" / "python"
    if _is_complete(folder, peer):
        return python
    if not install:
        raise EnvironmentFailure(f"{peer.title} {peer.version} is not installed.", advice="Leave --no-install out.")
    say(f"installing {', '.join(peer.packages)} into {folder}")
    # Not made aside and renamed: environments hold their own path. The mark, written last, says it is whole.
    if folder.exists():
        shutil.rmtree(folder)
    make_folder(folder.parent)
    try:
        _run([sys.executable, "-m", "venv", str(folder)], peer)
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
        # Wheels only, and only those listed: no package's own code runs, none brings another along.
        _run([str(python), "-m", "pip", "install", *quiet, "--no-deps", "--only-binary=:all:", *peer.packages], peer)
        write_atomic(folder / _MARK, json.dumps(_content(peer), indent=1, sort_keys=True) + "\n")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return python


def quiet_environment(threads: int) -> dict[str, str]:
    """Environment variables of a contender's process: no installing, no telemetry, no network, ``threads`` threads.

    Proxies lead nowhere, so that what ignores every other wish still reaches nobody over HTTP.
    """
    kept = {key: value for key, value in os.environ.items() if key in _KEPT}
    nowhere = "http://127.0.0.1:9"
    return {
        **kept,
        "PATH": os.defpath,
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_INPUT": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "ORT_DISABLE_TELEMETRY": "1",
        "OPENVINO_TELEMETRY": "0",
        "DO_NOT_TRACK": "1",
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), nowhere),
        "TVM_NUM_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        # numpy's own pool is of no use here, and its threads would be counted as the contender's.
        "OPENBLAS_NUM_THREADS": "1",
    }


_KEPT = ("HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH", "EDGEVIT_CACHE_DIR")


def _content(peer: Peer) -> dict[str, object]:
    return {"packages": list(peer.packages), "python": platform.python_version()}


def _is_complete(folder: Path, peer: Peer) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return bool(json.loads((folder / _MARK).read_text(encoding="utf-8")) == _content(peer))
    return False


def _run(command: Sequence[str], peer: Peer) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentFailure(f"installing {peer.title} took more than {_TIMEOUT_SECONDS:.0f} s.") from error
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        wrong = [line for line in lines if line.startswith("ERROR")] or lines or ["no reason given"]
        raise EnvironmentFailure(
            f"installing {peer.title} failed: {wrong[-1].removeprefix('ERROR: ')}",
            advice="Check the network and pip's settings, or leave this peer out with --peers.",
        )

"""Prepare everyone who takes part: environments, conversion, compilation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.bench.contenders.catalogue import EDGEVIT, FMA, WORKERS, Peer
from edgevit.bench.contenders.environments import Say, environment_python
from edgevit.bench.contenders.judge import OWN_TOLERANCE, PEER_TOLERANCE
from edgevit.bench.contenders.worker import Entrant, answer_of, convert
from edgevit.errors import EdgevitError, EnvironmentFailure
from edgevit.files import make_folder

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.model import Model

_BUILD = "edgevit.bench.contenders.build"
_BUILD_SECONDS = 1800.0


@dataclass
class Field:
    """Who takes part, and who could not and why.

    Attributes:
        entrants: ready to start.
        absent: name, title, version and reason of the others.
    """

    entrants: list[Entrant] = field(default_factory=list)
    absent: list[tuple[str, str, str | None, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Yardstick:
    """The FMA kernel, which takes turns like a contender.

    Attributes:
        entrant: how to start it.
        flops: floating-point operations of one call.
    """

    entrant: Entrant
    flops: int


Environments = Mapping[str, Path | EdgevitError]


def environments(peers: Sequence[Peer], *, install: bool, say: Say) -> dict[str, Path | EdgevitError]:
    """Interpreter of each peer's environment by name, or the error that stands in its way."""

    def python_of(peer: Peer) -> Path | EdgevitError:
        try:
            return environment_python(peer, install=install, say=say)
        except EdgevitError as error:
            return error

    return {peer.name: python_of(peer) for peer in peers}


def prepare_field(
    model: Model,
    peers: Sequence[Peer],
    pythons: Environments,
    folder: Path,
    *,
    with_edgevit: bool,
    artifacts: Sequence[Artifact] = (),
    say: Say,
) -> Field:
    """Convert for the peers and compile with edgevit; who fails is noted and left behind.

    Args:
        model: loaded from a file.
        peers: who to prepare.
        pythons: from :func:`environments`.
        folder: for what is made.
        with_edgevit: whether edgevit takes part.
        artifacts: compiled before; the one of this model is used instead of compiling it again.
        say: told what is going on.
    """
    prepared = Field()
    assert model.source is not None
    config = {
        "shapes": {spec.name: list(spec.shape) for spec in model.inputs},
        "outputs": [spec.name for spec in model.outputs],
    }

    def admit(name: str, title: str, version: str | None, prepare: Callable[[], Entrant]) -> None:
        try:
            prepared.entrants.append(prepare())
        except EdgevitError as error:
            prepared.absent.append((name, title, version, error.message))

    if with_edgevit:
        admit(EDGEVIT, EDGEVIT, None, lambda: _edgevit(model, folder, config, artifacts, say))
    for peer in peers:
        source, python = model.source, pythons[peer.name]
        prepare = partial(_peer, peer, python, source, folder / peer.name, config, say)
        admit(peer.name, peer.title, peer.version, prepare)
    return prepared


def yardsticks(folder: Path, threads: Sequence[int], say: Say) -> dict[int, Yardstick | EdgevitError]:
    """The FMA kernel for each number of threads, or the error that stands in its way.

    Args:
        folder: for the libraries.
        threads: numbers of threads.
        say: told what is going on.
    """

    def yardstick(count: int) -> Yardstick | EdgevitError:
        try:
            answer = _built("fma", str(folder), str(count), what="the FMA kernel's compiler")
        except EdgevitError as error:
            return error
        config = {"lanes": answer["lanes"], "sums": answer["sums"]}
        runner, library = WORKERS / "fma_runner.py", Path(answer["library"])
        return Yardstick(Entrant(FMA, FMA, Path(sys.executable), runner, library, config, None), int(answer["flops"]))

    say("compiling the kernel that measures the FMA peak")
    return {count: yardstick(count) for count in threads}


def _peer(
    peer: Peer, python: Path | EdgevitError, source: Path, folder: Path, config: dict[str, Any], say: Say
) -> Entrant:
    if isinstance(python, EdgevitError):
        raise python
    model = source.with_suffix(peer.suffix).resolve()
    if not model.is_file():
        raise EnvironmentFailure(f"{peer.title} reads {model.name}, which is not beside the ONNX file.")
    if peer.converts:
        say(f"converting {source.name} for {peer.title}")
        make_folder(folder)
        asked = {**config, "model": str(model), "folder": str(folder)}
        model = convert(python, peer.runner_path, peer.title, asked)
    return Entrant(peer.name, peer.title, python, peer.runner_path, model, config, PEER_TOLERANCE)


def _edgevit(model: Model, folder: Path, config: dict[str, Any], artifacts: Sequence[Artifact], say: Say) -> Entrant:
    target = folder / EDGEVIT
    ready = next((artifact for artifact in artifacts if artifact.manifest.model.sha256 == model.sha256), None)
    if ready is not None:
        sha256 = ready.save(target).sha256
    else:
        assert model.source is not None
        say(f"compiling {model.source.name} with edgevit")
        sha256 = str(_built("model", str(model.source), str(target), what="edgevit's compiler")["sha256"])
    runner = WORKERS / "edgevit_runner.py"
    return Entrant(EDGEVIT, EDGEVIT, Path(sys.executable), runner, target, config, OWN_TOLERANCE, sha256)


def _built(*arguments: str, what: str) -> dict[str, Any]:
    # Ends with its standard input only once it has answered; a failure ends it at once.
    return answer_of([sys.executable, "-m", _BUILD, *arguments], what, _BUILD_SECONDS)

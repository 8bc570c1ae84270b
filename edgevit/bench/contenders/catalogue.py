"""The peers: what to install, and which runner speaks to each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgevit.errors import UserError

WORKERS = Path(__file__).parent / "workers"
SERVE = WORKERS / "serve.py"
EDGEVIT = "edgevit"
BASELINE = "onnxruntime"
FMA = "fma peak"

_NUMPY = "numpy==2.2.6"


@dataclass(frozen=True)
class Peer:
    """An inference runtime to measure against.

    Attributes:
        name: on the command line.
        title: what its makers call it.
        packages: everything its environment gets, pinned; nothing else is installed with them. The first one's
            version is the peer's.
        runner: file in ``workers/``.
        suffix: of the model file it reads, beside the ONNX file; ``.onnx`` for the file itself.
        converts: whether the runner turns the model into a format of its own first.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    runner: str
    suffix: str = ".onnx"
    converts: bool = False

    @property
    def version(self) -> str:
        """Pinned version."""
        return self.packages[0].partition("==")[2]

    @property
    def runner_path(self) -> Path:
        """The runner's file."""
        return WORKERS / self.runner


# Only what the runtime imports is listed: OpenVINO's telemetry package, pnnx's PyTorch and the like stay away.
PEERS = {
    peer.name: peer
    for peer in (
        Peer(BASELINE, "ONNX Runtime", ("onnxruntime==1.31.1", _NUMPY), "onnxruntime_runner.py"),
        Peer("litert", "LiteRT", ("ai-edge-litert==2.3.0", _NUMPY), "litert_runner.py", suffix=".tflite"),
        Peer("openvino", "OpenVINO", ("openvino==2026.4.1", _NUMPY), "openvino_runner.py"),
        Peer("mnn", "MNN", ("MNN==3.6.1", _NUMPY), "mnn_runner.py", converts=True),
        Peer("ncnn", "ncnn", ("ncnn==1.0.20261020", "pnnx==20261020", _NUMPY), "ncnn_runner.py", converts=True),
    )
}


def peers_named(names: str) -> list[Peer]:
    """Peers of a comma-separated list; ``all`` for every one, an empty list for none.

    Raises:
        UserError: an unknown name.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if wanted == ["all"]:
        return list(PEERS.values())
    for name in wanted:
        if name not in PEERS:
            raise UserError(f"there is no peer {name!r}.", advice=f"Choose among {', '.join(PEERS)}, or all.")
    return [PEERS[name] for name in dict.fromkeys(wanted)]

"""A device whose software is too old, or newer than the artifact, is named as that."""

from __future__ import annotations

import pytest
import tvm.rpc

import edgevit
from edgevit.artifact import Artifact
from edgevit.errors import DeviceMismatch


def test_a_server_of_another_tvm_is_refused_before_anything_is_uploaded(small_artifact: Artifact) -> None:
    tools = {**small_artifact.manifest.tools, "apache-tvm": "0.31.0"}
    newer = Artifact(small_artifact.manifest.model_copy(update={"tools": tools}), small_artifact.files)
    with edgevit.connect() as session:
        with pytest.raises(DeviceMismatch, match=r"compiled with 0\.31\.0"):
            session.load(newer)
        session.load(small_artifact).close()


def test_a_server_of_another_rpc_protocol_is_told_from_a_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words are those of TVM's server (rpc_endpoint.cc) when a client of another version asks for a session."""

    def refused(*_: object) -> None:
        raise tvm.error.InternalError(
            "Server[SockServerLoop]: Client protocol version mismatch with the server "
            " server protocol=0.7.0, client protocol=0.8.0"
        )

    monkeypatch.setattr(tvm.rpc, "connect", refused)
    with pytest.raises(DeviceMismatch, match="another TVM version"):
        edgevit.connect()

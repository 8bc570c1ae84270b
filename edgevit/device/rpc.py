"""Sessions over TVM's RPC protocol: with edgevit's own server or any stock TVM server."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import socket
import struct
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from edgevit.device.guard import Guard
from edgevit.device.session import (
    LOAD_TIMEOUT,
    RUN_TIMEOUT,
    DeviceInfo,
    DeviceUsage,
    LoadedModel,
    Session,
    device_errors,
)
from edgevit.device.usage import architecture
from edgevit.device.vm import as_list, dismantle, load_error
from edgevit.errors import DeviceBusy, DeviceError, DeviceMismatch, DeviceUnreachable, EdgevitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgevit.artifact import Artifact
    from edgevit.device.readings import Readings
    from edgevit.device.session import Tensors

CONNECT_TIMEOUT = 20.0
"""Seconds for reaching a device and for its handshake."""

_CALL_TIMEOUT = 30.0
_CLOSE_TIMEOUT = 5.0
_MAGIC = 0xFF271  # TVM's RPC_MAGIC; +1 means the server is taken, +2 that the key does not match
_THREADS_BIG_CORES = 1  # TVM's AffinityMode.kBig: fastest cores first


class RpcSession(Session):
    """A session with an RPC server.

    ``on_close`` runs once after the connection has ended; whoever started a server for this session stops
    it there.
    """

    def __init__(
        self,
        channel: socket.socket,
        address: str,
        *,
        kind: str = "rpc",
        key: str = "",
        emulated: bool = False,
        handshake_timeout: float = CONNECT_TIMEOUT,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """Shake hands over a connected socket, which the session owns from here on.

        Raises:
            DeviceUnreachable: what answers is no TVM server, or expects another key.
            DeviceBusy: the server is serving somebody else.
        """
        self.kind = kind
        self.emulated = emulated
        self.address = address
        self._model: RpcModel | None = None
        self._remote: Any = None
        self._functions: dict[str, Any] = {}
        self.uploads = itertools.count()
        try:
            self._guard = Guard(channel, address)
        except BaseException:
            if on_close is not None:
                on_close()
            raise
        # Runs at the latest when the session is collected or the interpreter ends.
        self._release = weakref.finalize(self, _release, self._guard, on_close)
        try:
            self._shake_hands(key, handshake_timeout)
        except BaseException:
            self.close()
            raise

    def describe(self) -> DeviceInfo:
        """What the device says of itself; a stock TVM server says nothing."""
        facts = self._facts("edgevit.server.info")
        return DeviceInfo(
            kind=self.kind,
            address=self.address,
            emulated=self.emulated,
            runtime=f"edgevit server {facts['version']}" if "version" in facts else "TVM RPC server",
            architecture=facts.get("arch"),
            system=facts.get("os"),
            cpu=facts.get("cpu"),
            cores=facts.get("cores"),
            memory_bytes=facts.get("memory_bytes"),
        )

    def load(self, artifact: Artifact, *, timeout: float = LOAD_TIMEOUT) -> LoadedModel:
        """Upload the library, compare its hash where the server can, load it."""
        if self._model is not None:
            self._model.close()
        self._refuse_mismatch(artifact)
        self._model = RpcModel(self, artifact, timeout)
        return self._model

    def close(self) -> None:
        """End the session; the server removes its work folder."""
        if self._model is not None:
            self._model.close()
            self._model = None
        with contextlib.suppress(Exception), self._guard.deadline(_CLOSE_TIMEOUT, "closing"):
            self._functions.clear()
            self._remote = None
        self._functions.clear()
        self._remote = None
        self._release()

    def usage(self) -> DeviceUsage:
        """State of the server's process for this session."""
        facts = self._facts("edgevit.server.usage")
        threads: int | None
        try:
            threads = int(self.call("runtime.NumThreads"))
        except DeviceError:
            raise
        except Exception:  # an older runtime without the function
            threads = facts.get("threads", 0) or None
        return DeviceUsage(
            cpu_seconds=facts.get("cpu_seconds"),
            peak_rss_bytes=facts.get("peak_rss_bytes"),
            load_average=facts.get("load_average_1m"),
            threads=threads,
            temperature_c=facts.get("temperature_c"),
        )

    def call(self, name: str, *args: object, timeout: float = _CALL_TIMEOUT) -> Any:
        """Call a function of the remote runtime by name."""
        with self.limit(timeout, f"calling {name}"):
            if name not in self._functions:
                self._functions[name] = self._remote.get_function(name)
            return self._functions[name](*args)

    def limit(self, seconds: float, doing: str) -> contextlib.AbstractContextManager[None]:
        """Deadline for calls on :attr:`remote` made inside the block."""
        return self._guard.deadline(seconds, doing)

    @property
    def remote(self) -> Any:
        """TVM's RPC session; only for use inside :meth:`limit`."""
        return self._remote

    def _shake_hands(self, key: str, timeout: float) -> None:
        from tvm import rpc

        try:
            with self._guard.deadline(timeout, "shaking hands"):
                self._remote = rpc.connect("127.0.0.1", self._guard.port, self._guard.token + key)
        except Exception as error:
            refusal = _protocol_mismatch(error, self.address) or self._refusal(key)
            if refusal is None and isinstance(error, EdgevitError):
                raise
            raise refusal or DeviceUnreachable(
                "the handshake failed.", where=self.address, advice="Is this really a TVM RPC server?"
            ) from error

    def _refusal(self, key: str) -> DeviceError | None:
        greeting = self._guard.greeting
        if not greeting:
            return None
        code = struct.unpack("<i", greeting.ljust(4, b"\0"))[0]
        if code == _MAGIC + 1:
            return DeviceBusy(
                "the server is serving somebody else.",
                where=self.address,
                advice="Wait until it is free; one session at a time keeps measurements honest.",
            )
        if code == _MAGIC + 2:
            return DeviceUnreachable(
                f"the server does not accept the key {key!r}.",
                where=self.address,
                advice="A server that registered with a tracker is reached with --tracker and --key.",
            )
        if code != _MAGIC:
            return DeviceUnreachable(
                "something answers there, but it is no TVM RPC server.",
                where=self.address,
                advice="Check the port.",
            )
        return None

    def _facts(self, function: str) -> dict[str, Any]:
        """JSON from one of edgevit's server functions; empty on a stock server."""
        try:
            facts = json.loads(str(self.call(function)))
        except DeviceError:
            raise
        except Exception:
            return {}
        if "arch" in facts:
            facts["arch"] = architecture(facts["arch"])
        return {name: value for name, value in facts.items() if value is not None}

    def _refuse_mismatch(self, artifact: Artifact) -> None:
        facts = self._facts("edgevit.server.info")
        target = artifact.manifest.target
        here, wanted = facts.get("tvm"), artifact.manifest.tools.get("apache-tvm")
        if here and wanted and here != wanted:
            raise DeviceMismatch(
                f"the server runs TVM {here}, the artifact was compiled with {wanted}.",
                where=self.address,
                advice="Restart the server with this edgevit ('edgevit devices serve'), or compile the model again.",
            )
        for what, here, wanted in (
            ("architecture", facts.get("arch"), target.architecture),
            ("operating system", facts.get("os"), target.system),
        ):
            if here and here != wanted:
                raise DeviceMismatch(
                    f"the artifact is for {wanted}, the device's {what} is {here}.",
                    where=self.address,
                    advice="Compile for this device ('edgevit targets' lists what there is), or try it with --emulate.",
                )


def _protocol_mismatch(error: Exception, address: str) -> DeviceError | None:
    """TVM's runtimes talk to those of their own protocol version only."""
    if "protocol version mismatch" not in str(error):
        return None
    return DeviceMismatch(
        "the server is of another TVM version: it speaks another version of the RPC protocol.",
        where=address,
        advice="Install the TVM version on the device that 'edgevit devices doctor' names for this machine.",
    )


def _release(guard: Guard, on_close: Callable[[], None] | None) -> None:
    guard.close()
    if on_close is not None:
        on_close()


class RpcModel(LoadedModel):
    """A library loaded in an RPC server."""

    def __init__(self, session: RpcSession, artifact: Artifact, timeout: float) -> None:
        super().__init__(artifact)
        self._session = session
        self._arguments: list[Any] = []
        self._vm: Any = None
        self._device: Any = None
        # A name of its own: overwriting a library that is still mapped would crash the server.
        name = f"{next(session.uploads)}-{artifact.manifest.library.file}"
        try:
            with session.limit(timeout, "uploading the model"):
                session.remote.upload(bytearray(artifact.library), name)
            self._verify_upload(name, timeout)
            with session.limit(timeout, "loading the model"):
                self._load(name)
                session.remote.remove(name)  # it stays mapped; storage on a device is scarce
        except EdgevitError:
            raise
        except Exception as error:
            raise load_error(error, session.address) from error

    def set_inputs(self, inputs: Tensors, *, timeout: float = RUN_TIMEOUT) -> None:
        """Copy inputs to the device."""
        import tvm

        arrays = self.ordered(inputs)
        with self._limit(timeout, "sending inputs"):
            self._arguments = [tvm.runtime.tensor(array, self._device) for array in arrays]
            self._vm.set_input(self._entry, *self._arguments)

    def invoke(self, *, timeout: float = RUN_TIMEOUT) -> dict[str, NDArray[np.generic]]:
        """Run once and fetch the outputs."""
        self._refuse_unready(self._vm, self._arguments)
        with self._limit(timeout, "running the model"):
            self._vm.invoke_stateful(self._entry)
            # No name for the remote objects: freeing them asks the device too, so it must happen in here.
            fetched = [result.numpy() for result in as_list(self._vm.get_outputs(self._entry))]
            return {info.name: array for info, array in zip(self.outputs, fetched, strict=True)}

    def time(self, samples: int, *, timeout: float = RUN_TIMEOUT) -> list[float]:
        """Seconds of each call, taken by the device's own clock."""
        self._refuse_count("samples", samples)
        self._refuse_unready(self._vm, self._arguments)
        with self._limit(timeout, "measuring"):
            evaluate = self._vm.time_evaluator("invoke_stateful", self._device, number=1, repeat=samples)
            seconds = [float(one) for one in evaluate(self._entry).results]
            del evaluate
            return seconds

    def profile(self, samples: int, *, timeout: float = RUN_TIMEOUT) -> Readings:
        """Readings of the device's own clock around every kernel call."""
        from edgevit.device.readings import take_readings

        entry = self._profile_entry()
        self._refuse_count("samples", samples)
        self._refuse_unready(self._vm, self._arguments)
        with self._limit(timeout, "profiling"):
            names = [info.name for info in self.outputs]
            return take_readings(self._vm, self._device, entry, self._arguments, names, samples)

    def set_threads(self, count: int) -> int:
        """Restrict the runtime to ``count`` threads on the fastest cores."""
        self._refuse_count("threads", count)
        with device_errors("setting threads", self._session.address):
            self._session.call("runtime.config_threadpool", _THREADS_BIG_CORES, count)
            return int(self._session.call("runtime.NumThreads"))

    def usage(self) -> DeviceUsage:
        """State of the server's process."""
        return self._session.usage()

    def close(self) -> None:
        """Unload the model."""
        if self._vm is not None:
            with contextlib.suppress(Exception), self._session.limit(_CLOSE_TIMEOUT, "unloading"):
                self._forget()
        self._forget()

    def _forget(self) -> None:
        self._arguments = []
        dismantle(self._vm)
        self._vm = None
        self._device = None  # it holds TVM's session, and that its socket

    @contextlib.contextmanager
    def _limit(self, seconds: float, doing: str) -> Iterator[None]:
        self._refuse_closed(self._vm)
        with device_errors(doing, self._session.address), self._session.limit(seconds, doing):
            yield

    def _verify_upload(self, name: str, timeout: float) -> None:
        """Compare what the device stored: TVM's servers do not notice a full disk."""
        try:
            arrived = str(self._session.call("edgevit.server.sha256", name))
        except DeviceError:
            raise
        except Exception:
            # A stock server cannot tell; it can only send the file back.
            with self._session.limit(timeout, "comparing the model"):
                arrived = hashlib.sha256(self._session.remote.download(name)).hexdigest()
        if arrived != self.artifact.manifest.files[self.artifact.manifest.library.file].sha256:
            raise DeviceError(
                "the library was damaged on its way to the device.",
                where=self._session.address,
                advice="Is the device's storage full?",
            )

    def _load(self, name: str) -> None:
        from tvm import relax

        self._device = self._session.remote.cpu(0)
        self._vm = relax.VirtualMachine(self._session.remote.load_module(name), self._device)

"""Sessions over TVM's RPC protocol: with edgevit's own server or any stock TVM server."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import socket
import struct
import weakref
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from edgevit.device import batches
from edgevit.device.guard import LOST_ADVICE, Guard
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
from edgevit.device.vm import as_list, dismantle, load_error, no_gpu
from edgevit.device.workbench import THREADS_BIG_CORES, Workbench
from edgevit.errors import DeviceBusy, DeviceError, DeviceMismatch, DeviceUnreachable, EdgevitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgevit.artifact import Artifact
    from edgevit.device.readings import Readings
    from edgevit.device.session import Tensors
    from edgevit.manifest import Resolution

CONNECT_TIMEOUT = 20.0
"""Seconds for reaching a device and for its handshake."""

_CALL_TIMEOUT = 30.0
_CLOSE_TIMEOUT = 5.0
_MAGIC = 0xFF271  # TVM's RPC_MAGIC; +1 means the server is taken, +2 that the key does not match


_KERNELS = ("linux", "android")  # systems of the same kernel
_X86_NAMES = re.compile(r"\b(AMD|Intel|GenuineIntel|AuthenticAMD)\b")


class RpcSession(Session):
    """A session with an RPC server.

    ``on_close`` runs once after the connection has ended; whoever started a server for this session stops
    it there.

    Attributes:
        lost_advice: what to do when the connection ends.
    """

    lost_advice = LOST_ADVICE

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
        self._workbench: Workbench | None = None
        self._remote: Any = None
        self._functions: dict[str, Any] = {}
        self._uploads = itertools.count()
        try:
            self._guard = Guard(channel, address, lost_advice=self.lost_advice)
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
        facts = self._facts("edgevit.server.info")  # also tells whether it is emulated
        return DeviceInfo(
            kind=self.kind,
            address=self.address,
            emulated=self.emulated,
            runtime=f"edgevit server {facts['version']}" if "version" in facts else "TVM RPC server",
            architecture=facts.get("arch"),
            system=facts.get("os"),
            cpu=facts.get("cpu", facts.get("cpu_model")),
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

    def workbench(self) -> Workbench:
        """Functions and tensors in the server."""
        if self._workbench is not None:
            self._workbench.close()
        self._workbench = Workbench(self)
        return self._workbench

    def close(self) -> None:
        """End the session; the server removes its work folder."""
        if self._model is not None:
            self._model.close()
            self._model = None
        if self._workbench is not None:
            self._workbench.close()
            self._workbench = None
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
            return self.runtime_function(name)(*args)

    def find(self, name: str) -> Any:
        """A function of the remote runtime, None if it has none of that name; only for use inside :meth:`limit`."""
        if name not in self._functions:
            try:
                self._functions[name] = self._remote.get_function(name)
            except AttributeError:
                self._functions[name] = None
        return self._functions[name]

    def runtime_function(self, name: str) -> Callable[..., Any]:
        """As :meth:`find`, for a function that every server has.

        Raises:
            AttributeError: this one has not.
        """
        function: Callable[..., Any] | None = self.find(name)
        if function is None:
            raise AttributeError(f"the server has no function {name}")
        return function

    def device(self, kind: str = "cpu") -> Any:
        """TVM's device of the server; only for use inside :meth:`limit`.

        Args:
            kind: ``cpu``, ``opencl`` or ``metal``.

        Raises:
            DeviceMismatch: the server's runtime has no such device.
        """
        device = self._remote.device(kind, 0)
        if kind != "cpu" and not device.exist:
            raise no_gpu(kind, self.address)
        return device

    def load_library(self, library: bytes, timeout: float, name: str = "functions.so") -> Any:
        """TVM's module for a library, after comparing what the device stored.

        Raises:
            DeviceError: the library was damaged on its way.
        """
        # A name of its own: overwriting a library that is still mapped would crash the server.
        name = f"{next(self._uploads)}-{name}"
        with self.limit(timeout, "uploading a library"):
            self._remote.upload(bytearray(library), name)
        self._verify_upload(name, library, timeout)
        with self.limit(timeout, "loading a library"):
            module = self._remote.load_module(name)
            self._remote.remove(name)  # it stays mapped; storage on a device is scarce
            return module

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

    def _verify_upload(self, name: str, library: bytes, timeout: float) -> None:
        """Compare what the device stored: TVM's servers do not notice a full disk."""
        try:
            arrived = str(self.call("edgevit.server.sha256", name))
        except DeviceError:
            raise
        except Exception:
            # A stock server cannot tell; it can only send the file back.
            with self.limit(timeout, "comparing the library"):
                arrived = hashlib.sha256(self._remote.download(name)).hexdigest()
        if arrived != hashlib.sha256(library).hexdigest():
            raise DeviceError(
                "the library was damaged on its way to the device.",
                where=self.address,
                advice="Is the device's storage full?",
            )

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
            # QEMU's user mode shows a program the processor that it really runs on.
            cpu = str(facts.get("cpu_model", ""))
            self.emulated |= facts["arch"] in ("aarch64", "arm") and bool(_X86_NAMES.search(cpu))
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
        system = facts.get("os")
        if system in _KERNELS and target.system in _KERNELS and facts.get("libc") == "musl":
            system = target.system  # edgevit's static server brings its own loader, for both
        for what, here, wanted in (
            ("architecture", facts.get("arch"), target.architecture),
            ("operating system", system, target.system),
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
        try:
            self._load(timeout)
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

    @property
    def batches(self) -> bool:
        """Whether the server runs batches itself: edgevit's do, TVM's do not."""
        with self._limit(_CALL_TIMEOUT, f"looking for {batches.FUNCTION}"):
            return self._session.find(batches.FUNCTION) is not None

    def run_batch(
        self, batch: Sequence[Tensors], *, timeout: float = RUN_TIMEOUT
    ) -> list[dict[str, NDArray[np.generic]]]:
        """In one request, or a few if there is much to carry; on a server that cannot, one run after the other."""
        if not self.batches:
            return super().run_batch(batch, timeout=timeout)
        asked = []
        for inputs in batch:
            arrays = self.ordered(inputs)
            asked.append((self._resolution, arrays))
        results = []
        for resolution, alike in itertools.groupby(asked, key=itemgetter(0)):
            runs, most = [arrays for _, arrays in alike], batches.most_runs(resolution)
            for first in range(0, len(runs), most):
                results += self._request(resolution, runs[first : first + most], timeout)
        return results

    def _request(
        self, resolution: Resolution, runs: list[list[NDArray[np.generic]]], timeout: float
    ) -> list[dict[str, NDArray[np.generic]]]:
        takes, gives = batches.forms(resolution.inputs), batches.forms(resolution.outputs)
        with self._limit(timeout * len(runs), "running a batch"):
            self._arguments = []
            run = self._session.find(batches.FUNCTION)
            data = run(self._vm.module, resolution.entry, len(runs), takes, gives, batches.pack(runs))
            return batches.unpack(data, resolution.outputs, len(runs))

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
            self._session.call("runtime.config_threadpool", THREADS_BIG_CORES, count)
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

    def _load(self, timeout: float) -> None:
        from tvm import relax

        library = self.artifact.manifest.library.file
        module = self._session.load_library(self.artifact.library, timeout, library)
        with self._session.limit(timeout, "loading the model"):
            gpu = self.artifact.manifest.target.gpu
            self._device = self._session.device(gpu.api if gpu else "cpu")
            self._vm = relax.VirtualMachine(module, self._device)
            del module

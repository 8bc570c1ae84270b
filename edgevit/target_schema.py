"""The schema of a target: everything the compiler, the linker and a session must know of a device."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, PositiveInt, field_validator, model_validator


def _spelled(pattern: str, rule: str) -> AfterValidator:
    """A check of spelling whose message is for people, where pydantic would show the pattern."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"{text!r} is not {rule}")
        return text

    return AfterValidator(check)


Name = Annotated[str, _spelled(r"[a-z0-9][a-z0-9._-]{0,63}", "a name of lower-case letters, digits, '.', '_' and '-'")]
CpuName = Annotated[str, _spelled(r"[A-Za-z0-9][A-Za-z0-9._+-]*", "an LLVM CPU name")]
Feature = Annotated[
    str, _spelled(r"[+-][a-z0-9][a-z0-9._-]*", "an LLVM feature with its sign, such as '+dotprod' or '-sve'")
]
ZigTarget = Annotated[
    str,
    _spelled(r"[a-z0-9_]+-[a-z]+(-[a-z0-9]+)?(\.[0-9]+)*", "a zig target such as 'aarch64-linux-gnu.2.28'"),
]
LanguageVersion = Annotated[
    str, _spelled(r"(CL|metal)[1-9]\.[0-9]", "a version of a GPU language, such as 'CL2.0' or 'metal2.3'")
]
Extension = Annotated[str, _spelled(r"cl_[a-z0-9]+_[a-z0-9_]+", "an OpenCL extension such as 'cl_khr_fp16'")]
Address = Annotated[str, _spelled(r"(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):[0-9]{1,5}", "an address of the form host:port")]

Architecture = Literal["aarch64", "arm", "x86_64"]
System = Literal["linux", "android", "macos", "ios"]
OsKernel = Literal["linux", "darwin"]

_ARCHITECTURES: dict[str, Architecture] = {"aarch64": "aarch64", "armv7a": "arm", "x86_64": "x86_64"}
# Operating systems by how LLVM's triple spells them, the more specific first.
_SYSTEMS: dict[str, System] = {"android": "android", "ios": "ios", "macos": "macos", "linux": "linux"}
_OS_KERNELS: dict[System, OsKernel] = {"linux": "linux", "android": "linux", "macos": "darwin", "ios": "darwin"}
_LANGUAGES = {"opencl": "CL", "metal": "metal"}
_IN_ORDER = frozenset({"cortex-a7", "cortex-a35", "cortex-a53", "cortex-a55", "cortex-a510", "cortex-a520"})
_VERSION = re.compile(r"\.([0-9]+(?:\.[0-9]+)*)$")


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Caches(_Schema):
    """Data caches of the cores that run the model, in bytes.

    ``l2_shared_by`` is the number of cores that share one L2: a kernel's fair share is the quotient.
    """

    l1d: PositiveInt
    l2: PositiveInt
    l2_shared_by: PositiveInt = 1
    l3: PositiveInt | None = None


class Vector(_Schema):
    """The fixed-width vector registers that kernels are written for."""

    bits: Literal[64, 128, 256, 512]
    registers: PositiveInt

    @property
    def bytes(self) -> int:
        """Bytes in one register."""
        return self.bits // 8

    def lanes(self, element_bits: int = 32) -> int:
        """Elements of ``element_bits`` bits in one register."""
        return self.bits // element_bits


class Cluster(_Schema):
    """One kind of core of a processor that has several, fastest first."""

    cpu: CpuName
    cores: PositiveInt


class Gpu(_Schema):
    """The GPU that a model's kernels run on; the CPU then only starts them."""

    api: Literal["opencl", "metal"]
    language: LanguageVersion
    """Version that the text of kernels is written for: ``CL2.0``, ``metal2.3``."""
    extensions: tuple[Extension, ...] = ()
    """OpenCL extensions that kernels may use."""
    max_threads: PositiveInt
    """Most threads (OpenCL's work-items) in a group that kernels ask for."""
    local_bytes: PositiveInt
    """Bytes of local (Metal: threadgroup) memory that one group may use."""
    simd: PositiveInt
    """Threads that execute one instruction together."""
    cores: PositiveInt
    """Shader cores (OpenCL: compute units)."""
    local_on_chip: bool = True
    """Whether local memory is a memory of its own; where it is not, staging data there is no gain."""

    @model_validator(mode="after")
    def _coherent(self) -> Gpu:
        if not self.language.startswith(_LANGUAGES[self.api]):
            raise ValueError(f"{self.language} is not a version of {self.api}'s language")
        if self.extensions and self.api != "opencl":
            raise ValueError("extensions are OpenCL's")
        if self.max_threads % self.simd:
            raise ValueError("max_threads is not a multiple of simd")
        return self


class Linking(_Schema):
    """How object files become a shared library, or a static program, for the device."""

    linker: Literal["zig", "system", "ndk"] = "zig"
    zig_target: ZigTarget
    """zig's triple; its trailing version is the oldest glibc, macOS, iOS or Android API level it runs on."""
    zig_static_target: ZigTarget | None = None
    """zig's triple for one static file (musl); absent where the system allows none."""

    @property
    def minimum_glibc(self) -> str | None:
        """Oldest glibc a linked library loads on, such as ``2.28``; None off glibc."""
        return self._version() if "-gnu" in self.zig_target else None

    @property
    def minimum_macos(self) -> str | None:
        """Oldest macOS a linked library loads on, such as ``11.0``; None off macOS."""
        return self._version() if "-macos" in self.zig_target else None

    @property
    def minimum_os(self) -> str | None:
        """Oldest macOS or iOS, such as ``15.0``, or Android API level, such as ``26``; None on Linux."""
        return self._version() if re.search(r"-(macos|ios|linux-android)", self.zig_target) else None

    def _version(self) -> str | None:
        found = _VERSION.search(self.zig_target)
        return found.group(1) if found else None


class Reach(_Schema):
    """Where such a device answers when the command line does not say; presets name no address."""

    rpc: Address | None = None
    ssh: str | None = None
    tracker: Address | None = None
    key: str | None = None


class Target(_Schema):
    """A device as the compiler sees it."""

    name: Name
    description: str
    aliases: tuple[Name, ...] = ()
    triple: str
    """LLVM's triple: ``aarch64-linux-gnu``, ``armv7a-linux-androideabi``, ``aarch64-apple-ios``, …"""
    cpu: CpuName
    """LLVM's ``-mcpu`` name."""
    features: tuple[Feature, ...] = ()
    """LLVM's ``-mattr`` list; what kernels may rely on is listed even where ``cpu`` implies it."""
    float_abi: Literal["hard", "soft"] | None = None
    """Calling convention of floats; 32-bit ARM only."""
    cores: PositiveInt
    """Cores worth a thread each: without the slow ones where there are several kinds."""
    clusters: tuple[Cluster, ...] = ()
    """Kinds of cores, fastest first, where there is more than one."""
    caches: Caches
    vector: Vector
    fma: bool
    """Whether vectors have a fused multiply-add."""
    gpu: Gpu | None = None
    """What kernels run on where that is not the CPU."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """Precision of the compiled model where the user asks for none."""
    linking: Linking
    reach: Reach = Reach()
    emulator: str | None = None
    """QEMU's user-mode program that runs this target's code on another machine."""
    notes: str = ""
    sources: tuple[str, ...] = ()
    """Public documents that the figures come from."""

    @field_validator("triple")
    @classmethod
    def _known_triple(cls, triple: str) -> str:
        architecture, _, rest = triple.partition("-")
        if architecture == "arm64":
            # TVM's own is_aarch64 test looks at the spelling.
            raise ValueError(f"write 'aarch64-{rest}': TVM does not recognise 'arm64'")
        if architecture not in _ARCHITECTURES:
            raise ValueError(f"architecture {architecture!r} is not one of {', '.join(_ARCHITECTURES)}")
        if not any(system in rest for system in _SYSTEMS):
            raise ValueError("the operating system is none of linux, android, macos and ios")
        return triple

    @field_validator("features")
    @classmethod
    def _consistent_features(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        names = [feature[1:] for feature in features]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} named more than once")
        return features

    @model_validator(mode="after")
    def _coherent(self) -> Target:
        if self.triple.endswith("eabihf") and self.float_abi != "hard":
            raise ValueError(f"float_abi must be 'hard' for {self.triple}")
        if self.triple.endswith("androideabi") and self.float_abi != "soft":
            raise ValueError(f"float_abi must be 'soft' for {self.triple}")
        if self.float_abi and self.architecture != "arm":
            raise ValueError("float_abi is for 32-bit ARM only")
        if self.clusters and sum(cluster.cores for cluster in self.clusters) < self.cores:
            raise ValueError("cores is more than the clusters have together")
        if self.gpu and self.gpu.api == "metal" and self.os_kernel != "darwin":
            raise ValueError("Metal is for macOS and iOS")
        if self.emulator and self.os_kernel != "linux":
            raise ValueError("QEMU's user mode runs programs for the Linux kernel only")
        return self

    @property
    def architecture(self) -> Architecture:
        """Instruction set family."""
        return _ARCHITECTURES[self.triple.partition("-")[0]]

    @property
    def system(self) -> System:
        """Operating system."""
        return next(system for spelling, system in _SYSTEMS.items() if spelling in self.triple)

    @property
    def os_kernel(self) -> OsKernel:
        """Operating system's kernel, which code without a C library of its own depends on: Android's is Linux."""
        return _OS_KERNELS[self.system]

    @property
    def in_order(self) -> bool:
        """Whether the processor runs instructions in the order LLVM gives them, which then loads further ahead."""
        return self.cpu in _IN_ORDER

    def has(self, feature: str) -> bool:
        """Whether ``feature`` (LLVM's name, no sign) is listed as present."""
        return f"+{feature}" in self.features

    def tvm_target(self) -> dict[str, object]:
        """The dictionary that ``tvm.target.Target`` takes."""
        target: dict[str, object] = {
            "kind": "llvm",
            "mtriple": self._llvm_triple(),
            "mcpu": self.cpu,
            "num-cores": self.cores,
            # Contraction to FMA only: full fast-math measured slower and breaks NaN handling.
            "fast-math-contract": True,
        }
        if self.features:
            target["mattr"] = list(self.features)
        if self.float_abi:
            target["mfloat-abi"] = self.float_abi
        return target

    def _llvm_triple(self) -> str:
        # An object file names its platform only where the triple has a version, and Xcode asks for it in archives.
        return f"{self.triple}{self.linking.minimum_os or ''}" if self.system == "ios" else self.triple

    def fingerprint(self) -> str:
        """SHA-256 of everything that can change generated code, in hexadecimal.

        Two targets with the same fingerprint get the same bytes: names, notes and addresses do not count.
        """
        irrelevant = {"name", "description", "aliases", "reach", "emulator", "notes", "sources"}
        content = self.model_dump(mode="json", exclude=irrelevant)
        # What CPUs do without is left out, so that records of earlier versions keep their fingerprints.
        for name in ("gpu", "precision"):
            if content[name] == Target.model_fields[name].default:
                del content[name]
        # The order of features does not matter to LLVM once none is named twice.
        content["features"] = sorted(self.features)
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_toml(self) -> str:
        """The target as a TOML file of one's own to start from; sizes in bytes."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        content.pop("aliases", None)
        return _toml_table(content)


def _toml_table(content: dict[str, object]) -> str:
    plain = {key: value for key, value in content.items() if not _is_table(value)}
    lines = [f"{key} = {_toml_value(value)}" for key, value in plain.items()]
    for key, value in content.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *(f"{k} = {_toml_value(v)}" for k, v in value.items())]
        elif _is_table(value) and isinstance(value, list):
            for entry in value:
                lines += ["", f"[[{key}]]", *(f"{k} = {_toml_value(v)}" for k, v in entry.items())]
    return "\n".join(lines) + "\n"


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _toml_value(value: object) -> str:
    # JSON's strings, numbers, booleans and arrays are TOML's too; nulls are defaults, which are left out.
    return json.dumps(value, ensure_ascii=False)

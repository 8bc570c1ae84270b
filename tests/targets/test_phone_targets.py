"""Targets of phones, tablets and Macs: their systems, their GPUs, and what their slow cores lack."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgevit.errors import TargetError
from edgevit.resources import resource_folder
from edgevit.targets import Target, executes_here, get_target, list_targets, runs_here

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = sorted(path.stem for path in resource_folder("targets").glob("*.toml"))
ANDROID = [name for name in PRESETS if get_target(name).system == "android"]
GPUS = [name for name in PRESETS if get_target(name).gpu]

# As edgevit computed them before targets had GPUs: records that were measured then belong to these.
FINGERPRINTS = {
    "apple-silicon": "64a87683b4a33e9fb8b2aac66c211475f38c0aa66a862b404885b982e3ae3acf",
    "arm64-linux": "f3d07af7145c3b3d9968bf718a6d72da668b38b51f041aeb4dbab457e81c5036",
    "armv7-linux": "861fc9a91cde606eef3e4909cdf367194c2c9652d62dc378db5ec31e98bf536b",
    "graviton2": "5b9bb9f49fa3ca877e4e80cfec33429b89a143630f7847a35cc6ff1c798f5af2",
    "graviton3": "ea38e976940c15a6bf3002f12c32ee05989509ac051af226c383044ba54b4314",
    "graviton4": "4da0ee596fb9864f20410b154f70510913f5b1688aecf3e986adbfaaf180aef1",
    "jetson-orin": "213e55613a6c860fcd6087fdfffe7a9cef1bb8f895198a4ec2a6a916fc08dffb",
    "rpi3": "d0c8e693bdf8e2f9e0fca951a31971203146a5247153ba1691b58349560ea835",
    "rpi4": "af6bf30b80bc306fb4d0725b53d46b677002a1bfa648be10dd030dad968f3022",
    "rpi5": "f4cd40d88f3feb443f3ca23765c1cd53091e009227919745e30e9df6c2afb542",
    "x86-64-v3": "72c01c9ae1149fa4603f96ec0c53e772fe39030ccd14c5638e99f4a9a53a0cf5",
    "x86-64-v4": "46830991cf3a026910bc6bf8a02a5b1ddfc56df72191f80913ab61872d049ecf",
}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_records_of_earlier_versions_keep_their_fingerprints(name: str) -> None:
    target = get_target(name)
    assert target.fingerprint() == FINGERPRINTS[name]
    assert "gpu" not in target.to_toml()
    assert "precision" not in target.to_toml()


def test_the_presets_cover_the_promised_phones() -> None:
    phones = [f"pixel-{number}" for number in (6, 7, 8, 9)] + [f"galaxy-s{number}" for number in (22, 23, 24, 25)]
    assert set(PRESETS) >= {*phones, *(f"{phone}-gpu" for phone in phones)}
    assert set(PRESETS) >= {f"iphone-{number}" for number in (12, 13, 14, 15, 16)}
    assert get_target("android").name == "android-arm64"
    assert get_target("metal").name == "metal-macos"


@pytest.mark.parametrize(
    ("name", "triple", "system", "kernel", "oldest"),
    [
        ("android-arm64", "aarch64-linux-android", "android", "linux", "26"),
        ("android-armv7", "armv7a-linux-androideabi", "android", "linux", "26"),
        ("android-x86_64", "x86_64-linux-android", "android", "linux", "26"),
        ("pixel-8-gpu", "aarch64-linux-android", "android", "linux", "26"),
        ("metal-ios", "aarch64-apple-ios", "ios", "darwin", "15.0"),
        ("metal-macos", "aarch64-apple-macos", "macos", "darwin", "11.0"),
        ("rpi5", "aarch64-linux-gnu", "linux", "linux", None),
    ],
)
def test_the_triple_says_the_system(name: str, triple: str, system: str, kernel: str, oldest: str | None) -> None:
    target = get_target(name)
    assert (target.triple, target.system, target.os_kernel) == (triple, system, kernel)
    assert target.linking.minimum_os == oldest


def test_objects_for_ios_name_the_oldest_ios() -> None:
    assert get_target("iphone-13").tvm_target()["mtriple"] == "aarch64-apple-ios15.0"
    assert get_target("metal-macos").tvm_target()["mtriple"] == "aarch64-apple-macos"


@pytest.mark.parametrize("name", GPUS)
def test_gpu_targets_ask_for_half_precision_and_round_trip(name: str) -> None:
    target = get_target(name)
    assert target.precision == "fp16"
    again = Target.model_validate_json(json.dumps(tomllib.loads(target.to_toml())), strict=True)
    assert again == target.model_copy(update={"aliases": ()})
    assert again.fingerprint() == target.fingerprint()


@pytest.mark.parametrize("name", [name for name in GPUS if name.endswith("-gpu")])
def test_a_phones_gpu_comes_with_its_processor(name: str) -> None:
    phone, gpu = get_target(name.removesuffix("-gpu")), get_target(name)
    assert phone.gpu is None
    assert (gpu.cpu, gpu.features, gpu.clusters, gpu.caches) == (
        phone.cpu,
        phone.features,
        phone.clusters,
        phone.caches,
    )
    assert gpu.fingerprint() != phone.fingerprint()


def test_the_gpu_and_the_precision_are_part_of_the_fingerprint() -> None:
    mali = get_target("android-opencl-mali")
    assert mali.gpu is not None
    other = mali.model_copy(update={"gpu": mali.gpu.model_copy(update={"cores": 3})})
    full = mali.model_copy(update={"precision": "fp32"})
    assert len({target.fingerprint() for target in (mali, other, full, get_target("android-arm64"))}) == 4


@pytest.mark.parametrize("name", ANDROID)
def test_code_needs_nothing_that_a_phones_slow_cores_lack(name: str) -> None:
    from tvm.target import Target as TvmTarget
    from tvm.target import codegen

    def features(cpu: str, attributes: list[str]) -> set[str]:
        described = {"kind": "llvm", "mtriple": target.triple, "mcpu": cpu, "mattr": attributes}
        return {str(feature) for feature in codegen.llvm_get_cpu_features(TvmTarget(described))}

    target = get_target(name)
    listed = list(target.features)
    used = features(target.cpu, listed)
    assert not used & {"sve", "sve2", "sme"}
    # What LLVM calls a feature is often a hint for its scheduler. These are instructions that it writes by itself.
    instructions = {
        *("neon", "dotprod", "fullfp16", "fp16fml", "lse", "rdm", "i8mm", "bf16", "rcpc", "rcpc-immo", "jsconv"),
        *("complxnum", "fptoint", "altnzcv", "flagm"),
    }
    for cluster in target.clusters:
        assert used & instructions <= features(cluster.cpu, [])


def test_the_emulators_image_runs_on_this_machine_but_not_as_its_own() -> None:
    android, host = get_target("android-x86_64"), get_target("host")
    assert not runs_here(android)
    same = (host.architecture, host.system) == ("x86_64", "linux")
    assert executes_here(android) == (same and {f for f in android.features if f[0] == "+"} <= set(host.features))
    assert not executes_here(get_target("metal-ios"))


GPU = '[gpu]\napi = "{}"\nlanguage = "{}"\nmax_threads = {}\nlocal_bytes = 32768\nsimd = 32\ncores = 4\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "rpi5"\ntriple = "aarch64-linux-androideabi"', "float_abi must be 'soft'"),
        ('base = "android-armv7"\nfloat_abi = "hard"', "float_abi must be 'soft'"),
        ('base = "metal-ios"\nemulator = "qemu-aarch64"', "Linux kernel only"),
        (
            'base = "android"\n' + GPU.format("opencl", "metal2.3", 256),
            "not a version of opencl's language",
        ),
        ('base = "android"\n' + GPU.format("metal", "metal2.3", 256), "Metal is for macOS and iOS"),
        ('base = "android"\n' + GPU.format("opencl", "CL2.0", 100), "max_threads is not a multiple of simd"),
        ('base = "android"\n' + GPU.format("opencl", "OpenCL 2", 256), "'OpenCL 2' is not a version"),
        ('base = "metal"\ngpu.extensions = ["cl_khr_fp16"]', "extensions are OpenCL's"),
        ('base = "metal"\ngpu.sidm = 32', "Did you mean simd"),
        ('base = "android"\nprecision = "int8"', "precision"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TargetError) as caught:
        get_target(path)
    assert message in str(caught.value)


def test_presets_stand_on_each_other_and_a_circle_is_refused(tmp_path: Path) -> None:
    assert get_target("pixel-6-gpu").aliases == ()
    (tmp_path / "a.toml").write_text('base = "./b.toml"')
    (tmp_path / "b.toml").write_text('base = "./a.toml"')
    with pytest.raises(TargetError, match="leads back"):
        get_target(tmp_path / "a.toml")
    assert len(list_targets()) == len(PRESETS) + 1

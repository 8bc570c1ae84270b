"""An Xcode project of one app: ``project.pbxproj`` in the old property-list syntax that Xcode writes itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Value: TypeAlias = "str | Sequence[Value] | Mapping[str, Value]"

APP = "EdgevitApp"
_PLAIN = re.compile(r"[A-Za-z0-9_./]+")
_OBJECT_VERSION = "56"  # of Xcode 14


def project_text(sources: Sequence[str], resources: Sequence[str], *, title: str, bundle: str, minimum: str) -> str:
    """Text of ``project.pbxproj``.

    Args:
        sources: Swift files in the folder ``APP``.
        resources: folders in the folder ``APP`` that the app carries as they are.
        title: the app's name under its icon.
        bundle: its bundle identifier.
        minimum: oldest version of iOS.
    """
    objects: dict[str, Value] = {}

    def add(key: str, isa: str, **fields: Value) -> str:
        objects[_identifier(key)] = {"isa": isa, **fields}
        return _identifier(key)

    files = [add(f"file {n}", "PBXFileReference", lastKnownFileType="sourcecode.swift", path=n, sourceTree="<group>")
             for n in sources]  # fmt: skip
    folders = [
        add(f"file {name}", "PBXFileReference", lastKnownFileType="folder", path=name, sourceTree="<group>")
        for name in resources
    ]
    product = add("product", "PBXFileReference", explicitFileType="wrapper.application", includeInIndex="0",
                  path=f"{APP}.app", sourceTree="BUILT_PRODUCTS_DIR")  # fmt: skip
    group = add("group sources", "PBXGroup", children=[*files, *folders], path=APP, sourceTree="<group>")
    products = add("group products", "PBXGroup", children=[product], name="Products", sourceTree="<group>")
    main = add("group", "PBXGroup", children=[group, products], sourceTree="<group>")
    phases = [
        _phase(objects, "PBXSourcesBuildPhase", files),
        _phase(objects, "PBXFrameworksBuildPhase", []),
        _phase(objects, "PBXResourcesBuildPhase", folders),
    ]
    target = add(
        "target",
        "PBXNativeTarget",
        buildConfigurationList=_configurations(objects, "target", _app_settings(title, bundle)),
        buildPhases=phases,
        buildRules=[],
        dependencies=[],
        name=APP,
        productName=APP,
        productReference=product,
        productType="com.apple.product-type.application",
    )
    root = add(
        "project",
        "PBXProject",
        attributes={"BuildIndependentTargetsInParallel": "1", "LastUpgradeCheck": "1400"},
        buildConfigurationList=_configurations(objects, "project", _project_settings(minimum)),
        compatibilityVersion="Xcode 14.0",
        developmentRegion="en",
        hasScannedForEncodings="0",
        knownRegions=["en", "Base"],
        mainGroup=main,
        productRefGroup=products,
        projectDirPath="",
        projectRoot="",
        targets=[target],
    )
    content: dict[str, Value] = {
        "archiveVersion": "1",
        "classes": {},
        "objectVersion": _OBJECT_VERSION,
        "objects": objects,
        "rootObject": root,
    }
    return f"// !$*UTF8*$!\n{_written(content, 0)}\n"


def _phase(objects: dict[str, Value], isa: str, files: Sequence[str]) -> str:
    builds = []
    for file in files:
        builds.append(_identifier(f"build {file}"))
        objects[builds[-1]] = {"isa": "PBXBuildFile", "fileRef": file}
    objects[_identifier(isa)] = {
        "isa": isa,
        "buildActionMask": "2147483647",
        "files": builds,
        "runOnlyForDeploymentPostprocessing": "0",
    }
    return _identifier(isa)


def _configurations(objects: dict[str, Value], owner: str, settings: Mapping[str, Mapping[str, Value]]) -> str:
    names = []
    for name, values in settings.items():
        names.append(_identifier(f"{owner} {name}"))
        objects[names[-1]] = {"isa": "XCBuildConfiguration", "buildSettings": values, "name": name}
    objects[_identifier(f"{owner} configurations")] = {
        "isa": "XCConfigurationList",
        "buildConfigurations": names,
        "defaultConfigurationIsVisible": "0",
        "defaultConfigurationName": "Release",
    }
    return _identifier(f"{owner} configurations")


def _project_settings(minimum: str) -> dict[str, dict[str, Value]]:
    common: dict[str, Value] = {
        "ALWAYS_SEARCH_USER_PATHS": "NO",
        "CLANG_ENABLE_MODULES": "YES",
        "IPHONEOS_DEPLOYMENT_TARGET": minimum,
        "SDKROOT": "iphoneos",
        "SWIFT_VERSION": "5.0",
    }
    debug: dict[str, Value] = {
        "DEBUG_INFORMATION_FORMAT": "dwarf",
        "ENABLE_TESTABILITY": "YES",
        "ONLY_ACTIVE_ARCH": "YES",
        "SWIFT_OPTIMIZATION_LEVEL": "-Onone",
    }
    release: dict[str, Value] = {
        "DEBUG_INFORMATION_FORMAT": "dwarf-with-dsym",
        "SWIFT_COMPILATION_MODE": "wholemodule",
        "SWIFT_OPTIMIZATION_LEVEL": "-O",
        "VALIDATE_PRODUCT": "YES",
    }
    return {"Debug": {**common, **debug}, "Release": {**common, **release}}


def _app_settings(title: str, bundle: str) -> dict[str, dict[str, Value]]:
    settings: dict[str, Value] = {
        "CODE_SIGN_STYLE": "Automatic",
        "CURRENT_PROJECT_VERSION": "1",
        "GENERATE_INFOPLIST_FILE": "YES",
        "INFOPLIST_KEY_CFBundleDisplayName": title,
        "INFOPLIST_KEY_UIApplicationSceneManifest_Generation": "YES",
        "INFOPLIST_KEY_UILaunchScreen_Generation": "YES",
        "LD_RUNPATH_SEARCH_PATHS": ["$(inherited)", "@executable_path/Frameworks"],
        "MARKETING_VERSION": "1.0",
        "PRODUCT_BUNDLE_IDENTIFIER": bundle,
        "PRODUCT_NAME": "$(TARGET_NAME)",
        "TARGETED_DEVICE_FAMILY": "1,2",
    }
    return {"Debug": settings, "Release": settings}


def _identifier(key: str) -> str:
    """24 hexadecimal digits, the same for the same part of every project."""
    return hashlib.sha256(f"edgevit {key}".encode()).hexdigest()[:24].upper()


def _written(value: Value, depth: int) -> str:
    """A value in the syntax of old property lists."""
    indent, inner = "\t" * depth, "\t" * (depth + 1)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        lines = [f"{inner}{_quoted(key)} = {_written(part, depth + 1)};\n" for key, part in value.items()]
        return f"{{\n{''.join(lines)}{indent}}}"
    lines = [f"{inner}{_written(part, depth + 1)},\n" for part in value]
    return f"(\n{''.join(lines)}{indent})"


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

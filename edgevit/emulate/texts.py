"""From the shipped text of a kernel to text that this processor's compiler takes.

What is changed, and nothing else:

- The declaration of an array that the group shares (``threadgroup float4 s[64];``, ``__local float s[256];``) becomes
  a pointer or reference to memory that the runtime hands out, so that each access can be told from all others.
- Metal's kernels get a function beside them that passes the arguments and the thread's place by their attributes.

Everything else, vector types and built-in functions above all, comes from the preludes in ``native/``.
"""

from __future__ import annotations

import re

from edgevit.emulate.library import Api, Kernel
from edgevit.errors import ToolchainError

ENTRY = "ev_entry_"
"""Prefix of the function that runs one thread of a kernel."""

_SHARED = re.compile(
    r"\b(?P<space>threadgroup|__local|local)\s+(?P<type>\w+)\s+(?P<name>\w+)\s*\[(?P<size>[^\];]*)\]\s*;"
)
# A shared variable in any other form would become a thread's own without anybody noticing.
_SHARED_OTHERWISE = re.compile(r"\b(?:threadgroup|__local|local)\s+\w+\s+\w+\s*[;=\[,]")
_SIGNATURE = re.compile(r"\bkernel\s+void\s+(?P<name>\w+)\s*\((?P<parameters>.*?)\)\s*\{", re.DOTALL)
_PARAMETER = re.compile(
    r"(?P<type>.*?)(?P<name>\w+)\s*\[\[\s*(?P<attribute>\w+)\s*(?:\(\s*(?P<index>\d+)\s*\))?\s*\]\]", re.DOTALL
)
_UNCHECKED = '__attribute__((visibility("default"), no_sanitize("kernel-address")))'

_PLACES = {
    "threadgroup_position_in_grid": "item->group[{0}]",
    "thread_position_in_threadgroup": "item->local[{0}]",
    "thread_position_in_grid": "item->group[{0}] * item->threads[{0}] + item->local[{0}]",
    "threadgroups_per_grid": "item->groups[{0}]",
    "threads_per_threadgroup": "item->threads[{0}]",
    "thread_index_in_threadgroup": "item->index",
    "thread_index_in_simdgroup": "item->index % item->simd",
    "simdgroup_index_in_threadgroup": "item->index / item->simd",
    "threads_per_simdgroup": "item->simd",
}


def program_text(api: Api, kernel: Kernel) -> str:
    """The text to compile with the prelude of its language; line numbers are those of the shipped text.

    Raises:
        ToolchainError: the text uses something that emulation does not know.
    """
    text = _shared_arrays(api, kernel)
    if api == "metal":
        text = f"{text}\n{_metal_entry(kernel)}"
    return f'#line 1 "{kernel.name}"\n{text}\n'


def entry_text(kernel: Kernel) -> str:
    """C++ text of the function that runs one thread of an OpenCL kernel."""
    pointers = ", ".join(["void*"] * kernel.arguments)
    passed = ", ".join(f"arguments[{index}]" for index in range(kernel.arguments))
    return (
        f'extern "C" void {kernel.name}({pointers});\n'
        f'extern "C" __attribute__((visibility("default")))\n'
        f"void {ENTRY}{kernel.name}(void** arguments, const void*) {{ {kernel.name}({passed}); }}\n"
    )


def _shared_arrays(api: Api, kernel: Kernel) -> str:
    def handed_out(found: re.Match[str]) -> str:
        kind, name, size = found["type"], found["name"], found["size"]
        if api == "metal":
            return f'{kind} (&{name})[{size}] = ev_shared_array<{kind}, {size}>("{name}");'
        space = found["space"]
        return (
            f'{space} {kind}* {name} = ({space} {kind}*)ev_shared("{name}", sizeof({kind}) * ({size}), sizeof({kind}));'
        )

    text = _SHARED.sub(handed_out, kernel.text)
    if other := _SHARED_OTHERWISE.search(text):
        raise _unknown(kernel, f"declares shared memory in a form that emulation does not know: {other[0]!r}")
    return text


def _metal_entry(kernel: Kernel) -> str:
    found = _SIGNATURE.search(kernel.text)
    if found is None or found["name"] != kernel.name:
        raise _unknown(kernel, "has no signature that emulation can read")
    passed = [_passed(kernel, parameter) for parameter in re.split(r",(?![^\[]*\])", found["parameters"])]
    return (
        f'extern "C" {_UNCHECKED} void {ENTRY}{kernel.name}(void** arguments, const EvItem* item) '
        f"{{ {kernel.name}({', '.join(passed)}); }}"
    )


def _passed(kernel: Kernel, parameter: str) -> str:
    """What a Metal kernel's parameter gets."""
    found = _PARAMETER.search(parameter)
    if found is None:
        raise _unknown(kernel, f"has a parameter that emulation cannot read: {parameter.strip()!r}")
    kind, attribute = found["type"].strip(), found["attribute"]
    if attribute == "buffer" and kind.startswith("device") and kind.endswith("*") and found["index"]:
        return f"({kind})arguments[{found['index']}]"
    width = {"uint": 1, "ushort": 1, "uint2": 2, "ushort2": 2, "uint3": 3, "ushort3": 3}.get(kind)
    if attribute not in _PLACES or width is None:
        raise _unknown(kernel, f"has a parameter that emulation does not know: {parameter.strip()!r}")
    return f"{kind}({', '.join(_PLACES[attribute].format(axis) for axis in range(width))})"


def _unknown(kernel: Kernel, what: str) -> ToolchainError:
    return ToolchainError(f"kernel {kernel.name} {what}.", advice="Report it: emulation should know what TVM writes.")

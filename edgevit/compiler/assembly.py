"""Read the assembly that LLVM makes of a kernel: its innermost loops and what they are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from edgevit.compiler.kernels import KernelFamily
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

Kind = Literal["multiply-add by lane", "multiply-add", "load", "store", "call", "branch", "other"]

_LABEL = re.compile(r"^([\w.$]+):")
_DEBUG = re.compile(r"\.?L(tmp|func_|cfi|debug|info|str|section|pubs)")
_FUNCTION = re.compile(r"^\s*\.type\s+([\w.$]+),\s*[@%]function", re.MULTILINE)
_APPLE_FUNCTION = re.compile(r"^_\w+:.*-- Begin function|^(_\w+):\s*;\s*@")
_FMA = re.compile(r"^(fml[as]|vfm[as]\.f|vml[as]\.f|fn?m(add|sub)|vfn?m(add|sub)(132|213|231)?[ps][sdh])")
_LANE = re.compile(r"\[\d+\]$")
_LOAD = re.compile(r"^(ld[^a]|ldar|vld|vldm|pop)")
_STORE = re.compile(r"^(st|vst|push)")
_CALL = re.compile(r"^(bl|blr|blx|call|callq)$")
_BRANCH = re.compile(r"^(b|b\.?(eq|ne|cs|cc|hs|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le|al)(\.w)?|cbn?z|tbn?z|j[a-z]+)$")
_STACK = re.compile(r"\bw?sp\b|%[re]sp\b")
_FRAME = re.compile(r"\[(x29|fp)\b|\(%rbp\b")
_FRAME_SET = re.compile(r"^\s+(add|mov|movq)\s+(x29, sp|%rsp, %rbp)")
_ELEMENTS = re.compile(r"\.(\d+)[bhsd]\b")


@dataclass(frozen=True)
class Instruction:
    """One line of code.

    Attributes:
        mnemonic: as LLVM spells it for the architecture.
        operands: the rest of the line, without comments.
        framed: whether the function keeps a frame pointer.
    """

    mnemonic: str
    operands: str
    framed: bool = False

    @cached_property
    def kind(self) -> Kind:
        """What it does, as far as counting goes."""
        if _FMA.match(self.mnemonic):
            return "multiply-add by lane" if _LANE.search(self.operands) else "multiply-add"
        if _CALL.match(self.mnemonic):
            return "call"
        if _BRANCH.match(self.mnemonic):
            return "branch"
        if self._x86:
            return self._x86_kind()
        if _LOAD.match(self.mnemonic):
            return "load"
        return "store" if _STORE.match(self.mnemonic) else "other"

    @property
    def spills(self) -> bool:
        """Whether it reads or writes the stack."""
        return bool(_STACK.search(self.operands) or (self.framed and _FRAME.search(self.operands)))

    @property
    def target(self) -> str | None:
        """Label a branch goes to."""
        return self.operands.split(",")[-1].strip() if self.kind == "branch" else None

    @property
    def lanes(self) -> int:
        """Elements of the vector it works on, 1 for a scalar."""
        found = _ELEMENTS.search(f"{self.mnemonic} {self.operands}")
        if found:
            return int(found.group(1))
        bits = 16 if re.search(r"\.f16|[ps]h$", self.mnemonic) else 64 if re.search(r"[ps]d$", self.mnemonic) else 32
        if self._x86:
            if re.search(r"s[shd]$", self.mnemonic):
                return 1
            registers = {"x": 128, "y": 256, "z": 512}
            widths = [registers[letter] for letter in re.findall(r"%([xyz])mm", self.operands)]
            return max(widths) // bits if widths else 1
        first = self.operands.lstrip()[:1]
        return {"q": 128, "d": 64}.get(first, bits) // bits if self.mnemonic.startswith("v") else 1

    @property
    def bytes(self) -> int:
        """Bytes it moves between memory and registers, by the registers it names."""
        if self._x86:
            widths = [{"x": 16, "y": 32, "z": 64}[letter] for letter in re.findall(r"%([xyz])mm", self.operands)]
            return max(widths, default=8) if "(" in self.operands and self.mnemonic[:3] != "lea" else 0
        if self.kind not in ("load", "store"):
            return 0
        registers = self.operands.partition("[")[0]
        if self.mnemonic.startswith(("vld1", "vst1")):
            return 8 * len(re.findall(r"\bd\d+", registers))
        named = re.findall(r"\b([vqdshbxwr])\d+", registers)
        return sum({"v": 16, "q": 16, "d": 8, "x": 8, "s": 4, "w": 4, "r": 4, "h": 2, "b": 1}[name] for name in named)

    @property
    def _x86(self) -> bool:
        return "%" in self.operands

    def _x86_kind(self) -> Kind:
        if "(" not in self.operands or not re.match(r"v?mov|vbroadcast|kmov", self.mnemonic):
            return "other"
        return "store" if self.operands.rstrip().endswith(")") else "load"


@dataclass(frozen=True)
class Loop:
    """A loop without another one inside.

    Attributes:
        label: of its first block.
        instructions: of all its blocks, in the order they lie in.
    """

    label: str
    instructions: tuple[Instruction, ...]

    def count(self, *kinds: Kind) -> int:
        """Instructions of the given kinds."""
        return sum(instruction.kind in kinds for instruction in self.instructions)

    @property
    def multiply_adds(self) -> tuple[Instruction, ...]:
        """All multiply-adds, by lane or not."""
        return tuple(i for i in self.instructions if i.kind in ("multiply-add", "multiply-add by lane"))

    @property
    def multiply_add_share(self) -> float:
        """Share of the loop's instructions that are multiply-adds."""
        return len(self.multiply_adds) / len(self.instructions)

    @property
    def flops(self) -> int:
        """Two for every lane of every multiply-add of one iteration."""
        return sum(2 * instruction.lanes for instruction in self.multiply_adds)

    @property
    def bytes(self) -> int:
        """Bytes that one iteration moves between memory and registers."""
        return sum(instruction.bytes for instruction in self.instructions)

    @property
    def spills(self) -> tuple[Instruction, ...]:
        """Loads from and stores to the stack."""
        return tuple(instruction for instruction in self.instructions if instruction.spills)

    @property
    def text(self) -> str:
        """The instructions without branches, as an assembler takes them."""
        return "\n".join(f"\t{i.mnemonic}\t{i.operands}" for i in self.instructions if i.kind != "branch") + "\n"


@dataclass(frozen=True)
class Block:
    """Instructions between a label and the next."""

    label: str
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True)
class Function:
    """A function's basic blocks, in the order they lie in."""

    name: str
    blocks: tuple[Block, ...] = field(repr=False)

    def innermost_loops(self) -> tuple[Loop, ...]:
        """Stretches of blocks that end in a branch back to their start and hold no shorter such stretch."""
        places = {block.label: index for index, block in enumerate(self.blocks) if block.label}
        ends: dict[int, int] = {}
        for index, block in enumerate(self.blocks):
            for instruction in block.instructions:
                start = places.get(instruction.target or "")
                if start is not None and start <= index:
                    ends.setdefault(start, index)
        spans = sorted(ends.items())
        inner = [s for s in spans if not any(s != o and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
        return tuple(
            Loop(self.blocks[start].label, tuple(i for b in self.blocks[start : end + 1] for i in b.instructions))
            for start, end in inner
        )


def parse(text: str) -> tuple[Function, ...]:
    """Functions of an assembly file in LLVM's output format."""
    names = set(_FUNCTION.findall(text))
    functions: list[Function] = []
    blocks: list[Block] = []
    current: list[Instruction] = []
    name = label = ""
    framed = False

    def close() -> None:
        if current:
            blocks.append(Block(label, tuple(current)))
            current.clear()

    for line in text.splitlines():
        found = _LABEL.match(line)
        if found and not _DEBUG.match(found.group(1)):
            close()
            label = found.group(1)
            if label in names or _APPLE_FUNCTION.match(line):
                functions += [Function(name, tuple(blocks))] if blocks else []
                name, framed = label, False
                blocks.clear()
            continue
        framed = framed or bool(_FRAME_SET.match(line))
        instruction = _instruction(line, framed)
        if instruction is not None:
            current.append(instruction)
            if instruction.kind == "branch":
                # What a branch falls through to has a comment for a name.
                close()
                label = ""
    close()
    return (*functions, Function(name, tuple(blocks))) if blocks else tuple(functions)


def _instruction(line: str, framed: bool) -> Instruction | None:
    if not line.startswith((" ", "\t")):
        return None
    code = re.split(r"\s(?://|##|;|@|#\s)", line, maxsplit=1)[0].strip()
    if not code or code.startswith((".", "#", "@", ";", "//")):
        return None
    mnemonic, _, operands = code.partition("\t")
    return Instruction(mnemonic, operands.strip(), framed)


def kernel_assembly(family: KernelFamily, workload: Any, target: Target, choice: Choice | None = None) -> str:
    """Assembly of one kernel compiled alone.

    Args:
        family: that writes it.
        workload: of the family.
        target: to generate code for.
        choice: None for the family's analytic default.
    """
    import tvm

    from edgevit.compiler.entry import build_module, kernel_entry

    chosen = choice if choice is not None else family.analytic_default(workload, target)
    with tvm.target.Target(target.tvm_target()):  # elementary functions look at the current target
        function = family.emit(workload, target, chosen, "kernel")
    return module_assembly(build_module(kernel_entry(function, _argument_sizes(function)), target).mod)


def module_assembly(module: Any) -> str:
    """Assembly of the LLVM modules among a runtime module and what it imports."""
    own = [str(module.inspect_source("asm"))] if module.kind == "llvm" else []
    return "\n".join([*own, *(text for imported in module.imports if (text := module_assembly(imported)))])


def hottest_loop(functions: Sequence[Function]) -> Loop | None:
    """A kernel's main tile: the innermost loop with many multiply-adds and little else; without any, the longest."""
    loops = [loop for function in functions for loop in function.innermost_loops()]
    return max(loops, key=lambda loop: (loop.flops * loop.multiply_add_share, len(loop.instructions)), default=None)


def _argument_sizes(function: Any) -> list[tuple[int, str]]:
    """Elements and dtype of every parameter, from the buffers that kernels declare over them first of all."""
    from tvm import tirx

    body = function.body
    while isinstance(body, tirx.AttrStmt):
        body = body.body
    declared = [part.buffer for part in body.seq if isinstance(part, tirx.DeclBuffer)]
    return [(int(buffer.shape[0]), str(buffer.dtype)) for buffer in declared]

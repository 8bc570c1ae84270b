"""The machine code of hot kernels for ARM processors that are not here: read, not run."""

from dataclasses import replace

import pytest

from edgevit.compiler.assembly import Instruction, hottest_loop, kernel_assembly, parse
from edgevit.compiler.kernels import attention, conv, depthwise, normalise
from edgevit.compiler.kernels.window import Axis, Windows
from edgevit.compiler.pointwise import Operand, Pointwise, Term
from edgevit.targets import get_target

CORES = {
    "cortex-a53": "rpi3",
    "cortex-a72": "rpi4",
    "cortex-a76": "rpi5",
    "neoverse-n1": "graviton2",
    "apple-m1": "apple-silicon",
}
HALF_CORES = ("cortex-a76", "neoverse-n1", "apple-m1")
LEAST_SHARE = 0.55


def convolution(height, width, depth, channels, kernel=1, stride=1, pad=0):
    return conv.Workload(
        1, height, width, (depth,), channels, (kernel,) * 2, (stride,) * 2, (pad,) * 4, (1, 1), 1, None
    )


# Kernels of MobileViT-XS at 256 × 256: pixels and channels as they are there.
PRODUCTS = {
    "expansion": convolution(1, 4096, 32, 128),
    "projection": convolution(1, 1024, 192, 96),
    "query, key and value": convolution(1, 1024, 96, 288),
    "second layer of a perceptron": convolution(1, 256, 240, 120),
    "three by three": convolution(32, 32, 96, 96, kernel=3, pad=1),
    "first layer": convolution(256, 256, 3, 16, kernel=3, stride=2, pad=1),
    "classifier": convolution(1, 1, 384, 1000),
}


def _attention(side: int, width: int) -> attention.Workload:
    """Self-attention over the 2 × 2 patches of a square image, four heads."""
    rows, dim = side * side, width // 4
    batch = ((2, side), (2, 1))
    tokens = ((side // 2, 2 * side), (side // 2, 2))
    return attention.Workload(
        heads=4,
        dim=dim,
        value_dim=dim,
        scale=dim**-0.5,
        sizes=((rows, 3 * width),) * 3,
        columns=(0, width, 2 * width),
        head_strides=(dim,) * 3,
        query_map=(batch, tokens),
        key_map=(batch, tokens),
    )


ATTENTIONS = {"32 by 32": _attention(32, 96), "16 by 16": _attention(16, 120), "8 by 8": _attention(8, 144)}


def depthwise_workload(size, channels, stride):
    axis = Axis(size, size // stride, 3, stride, 1, 1)
    return depthwise.Workload(Windows(1, channels, axis, axis))


def loop_of(family, workload, target):
    functions = parse(kernel_assembly(family, workload, get_target(target)))
    loop = hottest_loop(functions)
    assert loop is not None
    return loop


def in_half(workload):
    """The workload as a float16 model has it: float32 sums, rounded as they are stored."""
    program = Pointwise((Operand(workload.output),), (Term("cast", (0,), (), "float16"),))
    return replace(workload, dtype="float16", epilogue=program)


def vector_spills(loop) -> list[Instruction]:
    """Stack accesses of vector registers; an address that is read again costs nothing beside multiply-adds."""
    return [i for i in loop.spills if i.operands[0] not in "xwr"]


def check_tight(loop, *, by_lane: bool) -> None:
    """Nothing but multiply-adds, their operands and what a loop needs."""
    assert not vector_spills(loop), loop.text
    assert loop.count("call") == 0, loop.text
    multiply_adds = loop.count("multiply-add by lane") if by_lane else len(loop.multiply_adds)
    assert multiply_adds >= LEAST_SHARE * len(loop.instructions), loop.text


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_mostly_multiply_adds_by_lane(name, core):
    check_tight(loop_of(conv, PRODUCTS[name], CORES[core]), by_lane=True)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_is_mostly_multiply_adds_by_lane(name, core):
    check_tight(loop_of(attention, ATTENTIONS[name], CORES[core]), by_lane=True)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_keeps_its_tile_in_registers(stride, core):
    """Filters need a register each, so that lanes are of no use here, and loads weigh more."""
    loop = loop_of(depthwise, depthwise_workload(64, 128, stride), CORES[core])
    assert not loop.spills, loop.text
    assert loop.count("call") == 0
    assert len(loop.multiply_adds) >= (0.45 if stride == 1 else 0.35) * len(loop.instructions)


@pytest.mark.parametrize("core", CORES)
def test_layer_norm_neither_spills_nor_calls(core):
    """Factors that LLVM keeps on the stack, and only reads there, are no worse than factors read from memory."""
    shape = (1, 1024, 96)
    workload = normalise.Workload(shape, 1e-5, True, True, True, Pointwise((Operand(shape),)))
    loop = loop_of(normalise, workload, CORES[core])
    assert not [i for i in loop.spills if i.kind == "store"], loop.text
    assert loop.count("call") == 0


@pytest.mark.parametrize("core", HALF_CORES)
@pytest.mark.parametrize("name", [name for name in PRODUCTS if name != "classifier"])
def test_half_precision_products_use_all_eight_lanes(name, core):
    loop = loop_of(conv, in_half(PRODUCTS[name]), CORES[core])
    check_tight(loop, by_lane=True)
    assert {instruction.lanes for instruction in loop.multiply_adds} == {8}, loop.text


@pytest.mark.parametrize("core", HALF_CORES)
def test_half_precision_depthwise_uses_all_eight_lanes(core):
    case = depthwise_workload(64, 128, 1)
    windows = replace(case.windows, dtype="float16")
    program = Pointwise((Operand(windows.output_shape),), (Term("cast", (0,), (), "float16"),))
    loop = loop_of(depthwise, depthwise.Workload(windows, program), CORES[core])
    assert {instruction.lanes for instruction in loop.multiply_adds} == {8}, loop.text
    assert loop.count("call") == 0


@pytest.mark.parametrize("name", [name for name in PRODUCTS if name not in ("classifier", "first layer")])
def test_32_bit_products_stay_in_sixteen_registers(name):
    """LLVM has no fused multiply-add by lane for 32-bit ARM: scalars are spread as they are loaded."""
    loop = loop_of(conv, PRODUCTS[name], "armv7")
    assert not vector_spills(loop), loop.text
    assert loop.count("call") == 0
    assert len(loop.multiply_adds) >= 0.4 * len(loop.instructions), loop.text
    assert {instruction.lanes for instruction in loop.multiply_adds} == {4}


LOOPS = {
    "aarch64": """
	.type	f,@function
f:
	add	x8, sp, #16
.LBB0_1:                                // outer
	mov	x9, #0
.LBB0_2:                                // inner
	ldp	q0, q1, [x1, #-32]
	ldr	q2, [sp, #16]                    // 16-byte Folded Reload
.Ltmp3:
	fmla	v3.4s, v0.4s, v2.s[0]
	fmla	v4.8h, v1.8h, v2.8h
	subs	x5, x5, #1
	b.ne	.LBB0_2
	bl	expf
	b.ne	.LBB0_1
	ret
""",
    "arm": """
	.type	f,%function
f:
.LBB0_2:
	vld1.32	{d0, d1}, [r1]!
	vld1.32	{d2[], d3[]}, [r2:32], r3
	add	r6, sp, #24
	vfma.f32	q3, q0, q1
	bne	.LBB0_2
	bx	lr
""",
    "x86_64": """
	.type	f,@function
f:
.LBB0_2:
	vmovups	(%rax), %zmm0
	vfmadd231ps	(%rcx){1to16}, %zmm0, %zmm1 # zmm1 = (zmm0 * mem) + zmm1
	vmovups	%zmm1, 64(%rsp)
	jne	.LBB0_2
	retq
""",
}


@pytest.mark.parametrize(
    ("architecture", "flops", "loads", "stores", "by_lane", "spills"),
    [("aarch64", 8 + 16, 2, 0, 1, 1), ("arm", 8, 2, 0, 0, 1), ("x86_64", 32, 1, 1, 0, 1)],
)
def test_parser_finds_the_inner_loop(architecture, flops, loads, stores, by_lane, spills):
    (function,) = parse(LOOPS[architecture])
    (loop,) = function.innermost_loops()
    assert (loop.label, loop.flops, loop.count("load"), loop.count("store")) == (".LBB0_2", flops, loads, stores)
    assert (loop.count("multiply-add by lane"), len(loop.spills), loop.count("call")) == (by_lane, spills, 0)

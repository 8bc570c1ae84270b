"""Training leftovers: stripped where that is exact, refused where it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_graphs import model, node, run, value

from edgevit.errors import ModelError
from edgevit.model import from_proto

SHAPE = [2, 8, 4, 4]
X = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
RANDOM = ("Bernoulli", "RandomUniformLike", "RandomUniform", "RandomNormal", "RandomNormalLike")

Nodes = Callable[[str, str], list[onnx.NodeProto]]


def network(dropout: Sequence[onnx.NodeProto], opset: int = 17, **constants: object) -> onnx.ModelProto:
    """x -> relu -> a -> (dropout) -> b -> negation -> y."""
    return model(
        [node("Relu", ["x"], ["a"]), *dropout, node("Neg", ["b"], ["y"])],
        [value("x", SHAPE)],
        [value("y", SHAPE)],
        {
            "keep": np.float32(0.75),
            "drop": np.float32(0.25),
            "zero": np.float32(0),
            "one": np.float32(1),
            "four": np.float32(4),
            "true": np.bool_(True),
            "keeps": np.full(SHAPE, 0.75, np.float32),
            "perimage": np.full([2, 1, 1, 1], 0.75, np.float32),
            **constants,
        },
        opset=opset,
    )


def without_dropout() -> np.ndarray:
    """What the same network computes with no dropout in it, by ONNX Runtime."""
    return run(network([node("Identity", ["a"], ["b"])]), x=X)[0]


def stripped(proto: onnx.ModelProto, note: str) -> None:
    loaded = from_proto(proto)
    assert any(note in text for text in loaded.notes), loaded.notes
    kinds = [n.op_type for n in loaded.proto.graph.node]
    assert "Dropout" not in kinds
    assert not set(kinds).intersection(RANDOM)
    np.testing.assert_array_equal(run(loaded.proto, x=X)[0], without_dropout())


@pytest.mark.parametrize("opset", [7, 10, 11])
def test_dropout_before_opset_12(opset: int) -> None:
    stripped(network([node("Dropout", ["a"], ["b"], ratio=0.5)], opset=opset), "stripped 1 Dropout")


@pytest.mark.parametrize("inputs", [["a"], ["a", "keep"], ["a", "keep", "true"], ["a", "", "true"]])
@pytest.mark.parametrize("outputs", [["b"], ["b", "mask"]])
def test_dropout(inputs: list[str], outputs: list[str]) -> None:
    stripped(network([node("Dropout", inputs, outputs)]), "stripped 1 Dropout")


def test_dropout_with_a_training_flag_as_input() -> None:
    proto = network([node("Dropout", ["a", "keep", "training"], ["b"])])
    proto.graph.input.append(value("training", [], TensorProto.BOOL))
    loaded = from_proto(proto)
    assert [n.op_type for n in loaded.proto.graph.node] == ["Relu", "Neg"]


def test_several_dropouts_in_a_row_and_at_the_output() -> None:
    proto = model(
        [
            node("Dropout", ["x", "", "true"], ["a"]),
            node("Dropout", ["a", "", "true"], ["b"]),
            node("Relu", ["b"], ["c"]),
            node("Dropout", ["c", "", "true"], ["y"]),
        ],
        constants={"true": np.bool_(True)},
    )
    loaded = from_proto(proto)
    assert "stripped 3 Dropout nodes: dropout is the identity at inference" in loaded.notes
    assert loaded.outputs[0].name == "y"
    x = np.array([[-1, 0, 1, 2]], np.float32)
    np.testing.assert_array_equal(run(loaded.proto, x=x)[0], np.maximum(x, 0))


def test_dropout_mask_in_use() -> None:
    proto = network([node("Dropout", ["a", "keep", "true"], ["b", "mask"], name="drop7")])
    proto.graph.output.append(value("mask", SHAPE, TensorProto.BOOL))
    with pytest.raises(ModelError, match="mask of Dropout 'drop7' is used") as caught:
        from_proto(proto)
    assert "model.eval()" in (caught.value.advice or "")


def uniform_like(comparison: str = "Less", bound: str = "keep") -> list[onnx.NodeProto]:
    return [
        node("RandomUniformLike", ["a"], ["u"]),
        node(comparison, ["u", bound], ["m"]),
        node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
    ]


PATTERNS: dict[str, list[onnx.NodeProto]] = {
    "mask scaled, then applied": [
        *uniform_like(),
        node("Div", ["f", "keep"], ["s"]),
        node("Mul", ["s", "a"], ["b"]),
    ],
    "applied, then scaled": [
        *uniform_like(),
        node("Mul", ["a", "f"], ["s"]),
        node("Div", ["s", "keep"], ["b"]),
    ],
    "greater than the drop rate": [
        *uniform_like("Greater", "drop"),
        node("Mul", ["a", "f"], ["s"]),
        node("Div", ["s", "keep"], ["b"]),
    ],
    "where": [
        node("RandomUniformLike", ["a"], ["u"]),
        node("GreaterOrEqual", ["u", "drop"], ["m"]),
        node("Where", ["m", "a", "zero"], ["s"]),
        node("Div", ["s", "keep"], ["b"]),
    ],
    "where, negated": [
        node("RandomUniformLike", ["a"], ["u"]),
        node("Less", ["u", "drop"], ["m"]),
        node("Not", ["m"], ["n"]),
        node("Where", ["n", "a", "zero"], ["s"]),
        node("Div", ["s", "keep"], ["b"]),
    ],
    "bernoulli": [
        node("Bernoulli", ["keeps"], ["f"]),
        node("Mul", ["a", "f"], ["s"]),
        node("Div", ["s", "keep"], ["b"]),
    ],
    "bernoulli mask as boolean": [
        node("Bernoulli", ["keeps"], ["m"], dtype=TensorProto.BOOL),
        node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["a", "f"], ["s"]),
        node("Div", ["s", "keep"], ["b"]),
    ],
    "stochastic depth": [
        node("Bernoulli", ["perimage"], ["f"]),
        node("Div", ["f", "keep"], ["s"]),
        node("Mul", ["a", "s"], ["b"]),
    ],
    "stochastic depth by floor": [
        node("RandomUniform", [], ["u"], shape=[2, 1, 1, 1]),
        node("Add", ["u", "keep"], ["k"]),
        node("Floor", ["k"], ["f"]),
        node("Div", ["a", "keep"], ["s"]),
        node("Mul", ["s", "f"], ["b"]),
    ],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_random_dropout(pattern: str) -> None:
    stripped(network(PATTERNS[pattern]), "stripped 1 random dropout")


def test_scaling_after_the_dropout_stays() -> None:
    nodes = PATTERNS["mask scaled, then applied"]
    proto = network([*nodes[:-1], node("Mul", ["s", "a"], ["t"]), node("Mul", ["t", "four"], ["b"])])
    loaded = from_proto(proto)
    np.testing.assert_array_equal(run(loaded.proto, x=X)[0], 4 * without_dropout())


NOT_EXACT: dict[str, list[onnx.NodeProto]] = {
    "noise added": [node("RandomNormalLike", ["a"], ["r"]), node("Add", ["a", "r"], ["b"])],
    "uniform noise multiplied": [node("RandomUniformLike", ["a"], ["r"]), node("Mul", ["a", "r"], ["b"])],
    "mask not rescaled": [*uniform_like(), node("Mul", ["a", "f"], ["b"])],
    "rescaled by the wrong factor": [
        *uniform_like(),
        node("Mul", ["a", "f"], ["s"]),
        node("Div", ["s", "drop"], ["b"]),
    ],
    "mask used twice": [
        *uniform_like(),
        node("Div", ["f", "keep"], ["s"]),
        node("Mul", ["s", "s"], ["t"]),
        node("Mul", ["t", "a"], ["b"]),
    ],
    "mask also used elsewhere": [
        *uniform_like(),
        node("Div", ["f", "keep"], ["s"]),
        node("Mul", ["s", "a"], ["t"]),
        node("Add", ["t", "f"], ["b"]),
    ],
    "everything dropped": [
        *uniform_like("Less", "zero"),
        node("Mul", ["a", "f"], ["b"]),
    ],
    "wider range": [
        node("RandomUniformLike", ["a"], ["u"], high=2.0),
        node("Less", ["u", "keep"], ["m"]),
        node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
        node("Div", ["f", "keep"], ["s"]),
        node("Mul", ["s", "a"], ["b"]),
    ],
    "divided by the mask": [*uniform_like(), node("Div", ["a", "f"], ["b"])],
    "rate that depends on the input": [
        node("Sigmoid", ["a"], ["p"]),
        node("Bernoulli", ["p"], ["f"]),
        node("Mul", ["a", "f"], ["s"]),
        node("Div", ["s", "keep"], ["b"]),
    ],
}


@pytest.mark.parametrize("pattern", NOT_EXACT)
def test_random_values_that_are_not_dropout(pattern: str) -> None:
    with pytest.raises(ModelError, match="random") as caught:
        from_proto(network(NOT_EXACT[pattern]))
    assert "model.eval()" in (caught.value.advice or "")


def test_mask_that_widens_its_operand() -> None:
    proto = model(
        [
            node("RandomUniform", [], ["u"], shape=[3, 4]),
            node("Less", ["u", "keep"], ["m"]),
            node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
            node("Div", ["f", "keep"], ["s"]),
            node("Mul", ["s", "x"], ["y"]),
        ],
        outputs=[value("y", [3, 4])],
        constants={"keep": np.float32(0.5)},
    )
    with pytest.raises(ModelError, match="random"):
        from_proto(proto)


def test_random_value_inside_a_branch() -> None:
    noise = helper.make_graph([node("RandomUniformLike", ["x"], ["r"], name="noise")], "t", [], [value("r", [1, 4])])
    plain = helper.make_graph([node("Neg", ["x"], ["n"])], "e", [], [value("n", [1, 4])])
    proto = model(
        [
            node("ReduceSum", ["x"], ["s"], keepdims=0),
            node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
            node("If", ["c"], ["y"], then_branch=noise, else_branch=plain),
        ]
    )
    with pytest.raises(ModelError, match="RandomUniformLike 'noise'"):
        from_proto(proto)


def test_batch_norm_in_training_mode() -> None:
    stats = {name: np.ones(8, np.float32) for name in ("g", "o", "m", "v")}
    norm = node("BatchNormalization", ["a", "g", "o", "m", "v"], ["b", "rm", "rv"], training_mode=1, name="bn3")
    with pytest.raises(ModelError, match="BatchNormalization 'bn3' is in training mode") as caught:
        from_proto(network([norm], **stats))
    assert "model.eval()" in (caught.value.advice or "")


def test_batch_norm_in_training_mode_before_opset_14() -> None:
    stats = {name: np.ones(8, np.float32) for name in ("g", "o", "m", "v")}
    norm = node("BatchNormalization", ["a", "g", "o", "m", "v"], ["b", "rm", "rv", "sm", "sv"])
    with pytest.raises(ModelError, match="training mode"):
        from_proto(network([norm], opset=9, **stats))

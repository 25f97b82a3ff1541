"""Damage to the fields of a model: what a broken or malicious exporter would write."""

from __future__ import annotations

import random

import numpy as np
import onnx
import onnx.helper
from onnx import numpy_helper

_HUGE = [2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1]
_ODD_INTEGERS = [0, -1, 1, 7, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]
_ODD_NAMES = ["", " ", "x", "\x1b[2J", "a\nb", "<script>alert(1)</script>", "../../x", "é" * 300]


def _swapped_dimensions(chance: random.Random, proto: onnx.ModelProto) -> None:
    dims = chance.choice([t for t in proto.graph.initializer if t.dims]).dims
    first, second = chance.randrange(len(dims)), chance.randrange(len(dims))
    dims[first], dims[second] = dims[second], dims[first]


def _one_dimension(chance: random.Random, proto: onnx.ModelProto, value: int) -> None:
    dims = chance.choice([t for t in proto.graph.initializer if t.dims]).dims
    dims[chance.randrange(len(dims))] = value


def _negative_dimension(chance: random.Random, proto: onnx.ModelProto) -> None:
    _one_dimension(chance, proto, chance.choice([-1, -3, -(2**31), -(2**63)]))


def _huge_dimension(chance: random.Random, proto: onnx.ModelProto) -> None:
    _one_dimension(chance, proto, chance.choice(_HUGE))


def _empty_weight(chance: random.Random, proto: onnx.ModelProto) -> None:
    tensor = chance.choice(proto.graph.initializer)
    tensor.dims.append(0)
    tensor.raw_data = b""


def _other_rank(chance: random.Random, proto: onnx.ModelProto) -> None:
    dims = chance.choice([t for t in proto.graph.initializer if t.dims]).dims
    if chance.random() < 0.5:
        dims.append(1)
    else:
        dims.pop()


def _other_element_type(chance: random.Random, proto: onnx.ModelProto) -> None:
    chance.choice(proto.graph.initializer).data_type = chance.choice([*range(24), 99, -1])


def _short_data(chance: random.Random, proto: onnx.ModelProto) -> None:
    tensor = chance.choice(proto.graph.initializer)
    tensor.raw_data = tensor.raw_data[: chance.randrange(len(tensor.raw_data))]


def _long_data(chance: random.Random, proto: onnx.ModelProto) -> None:
    chance.choice(proto.graph.initializer).raw_data += chance.randbytes(chance.randrange(1, 64))


def _data_in_the_wrong_field(chance: random.Random, proto: onnx.ModelProto) -> None:
    tensor = chance.choice(proto.graph.initializer)
    tensor.ClearField("raw_data")
    chance.choice([tensor.int32_data, tensor.int64_data, tensor.float_data]).extend([1] * 27)


def _not_finite(chance: random.Random, proto: onnx.ModelProto) -> None:
    floats = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    tensor = chance.choice(floats)
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[chance.randrange(array.size)] = chance.choice([np.nan, np.inf, 3e38, 1e-45])
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _missing_weight(chance: random.Random, proto: onnx.ModelProto) -> None:
    del proto.graph.initializer[chance.randrange(len(proto.graph.initializer))]


def _weight_twice(chance: random.Random, proto: onnx.ModelProto) -> None:
    proto.graph.initializer.add().CopyFrom(chance.choice(proto.graph.initializer))


def _dangling_input(chance: random.Random, proto: onnx.ModelProto) -> None:
    node = chance.choice([node for node in proto.graph.node if node.input])
    node.input[chance.randrange(len(node.input))] = "nowhere"


def _other_input(chance: random.Random, proto: onnx.ModelProto) -> None:
    names = [name for node in proto.graph.node for name in (*node.input, *node.output)]
    node = chance.choice([node for node in proto.graph.node if node.input])
    node.input[chance.randrange(len(node.input))] = chance.choice(names)


def _missing_input(chance: random.Random, proto: onnx.ModelProto) -> None:
    node = chance.choice([node for node in proto.graph.node if node.input])
    del node.input[chance.randrange(len(node.input))]


def _more_inputs(chance: random.Random, proto: onnx.ModelProto) -> None:
    node = chance.choice([node for node in proto.graph.node if node.input])
    node.input.extend([node.input[0]] * chance.randrange(1, 5))


def _cycle(chance: random.Random, proto: onnx.ModelProto) -> None:
    nodes = [node for node in proto.graph.node if node.input]
    first = chance.randrange(len(nodes))
    nodes[first].input[0] = nodes[chance.randrange(first, len(nodes))].output[0]


def _shuffled_nodes(chance: random.Random, proto: onnx.ModelProto) -> None:
    nodes = list(proto.graph.node)
    chance.shuffle(nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _missing_node(chance: random.Random, proto: onnx.ModelProto) -> None:
    del proto.graph.node[chance.randrange(len(proto.graph.node))]


def _same_output(chance: random.Random, proto: onnx.ModelProto) -> None:
    chance.choice(proto.graph.node).output[0] = chance.choice(proto.graph.node).output[0]


def _odd_name(chance: random.Random, proto: onnx.ModelProto) -> None:
    node = chance.choice(proto.graph.node)
    name = chance.choice(_ODD_NAMES)
    if chance.random() < 0.5:
        node.name = name
        return
    old = node.output[0]
    for other in proto.graph.node:
        for names in (other.input, other.output):
            for index, used in enumerate(names):
                if used == old:
                    names[index] = name
    for value in proto.graph.output:
        if value.name == old:
            value.name = name


def _other_operator(chance: random.Random, proto: onnx.ModelProto) -> None:
    operators = [
        "Conv", "Gemm", "Relu", "BatchNormalization", "Constant", "Reshape", "Concat", "Loop",
        "Scan", "If", "ConvTranspose", "MaxPool", "Identity", "Transpose", "Cast", "Nothing", "",
    ]  # fmt: skip
    chance.choice(proto.graph.node).op_type = chance.choice(operators)


def _other_domain(chance: random.Random, proto: onnx.ModelProto) -> None:
    chance.choice(proto.graph.node).domain = chance.choice(
        ["ai.onnx", "ai.onnx.ml", "com.microsoft", "acme", "x\0y"]
    )


def _attribute(chance: random.Random, proto: onnx.ModelProto) -> onnx.AttributeProto:
    nodes = [node for node in proto.graph.node if node.attribute]
    return chance.choice(chance.choice(nodes).attribute)


def _missing_attribute(chance: random.Random, proto: onnx.ModelProto) -> None:
    node = chance.choice([node for node in proto.graph.node if node.attribute])
    del node.attribute[chance.randrange(len(node.attribute))]


def _odd_attribute(chance: random.Random, proto: onnx.ModelProto) -> None:
    """A number that no exporter writes: strides of 0, pads of 2^63."""
    node = chance.choice(proto.graph.node)
    name = chance.choice(
        ["pads", "strides", "dilations", "kernel_shape", "group", "axis", "transB", "perm", "alpha"]
    )
    for index, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[index]
            break
    values = [chance.choice(_ODD_INTEGERS) for _ in range(chance.randrange(1, 6))]
    single = name in ("group", "axis", "transB", "alpha")
    node.attribute.append(onnx.helper.make_attribute(name, values[0] if single else values))


def _other_attribute_type(chance: random.Random, proto: onnx.ModelProto) -> None:
    attribute = _attribute(chance, proto)
    if chance.random() < 0.5:
        attribute.type = chance.randrange(15)  # type: ignore[assignment]
    else:
        attribute.CopyFrom(
            onnx.helper.make_attribute(attribute.name, chance.choice([0.5, "SAME", [0.5], [b"x"]]))
        )


def _odd_opset(chance: random.Random, proto: onnx.ModelProto) -> None:
    if chance.random() < 0.3:
        del proto.opset_import[:]
    else:
        proto.opset_import[0].version = chance.choice([0, -1, 1, 6, 7, 9, 11, 13, 30, 2**40])


def _odd_ir_version(chance: random.Random, proto: onnx.ModelProto) -> None:
    proto.ir_version = chance.choice([0, -1, 1, 2, 3, 4, 99, 2**62])


def _odd_interface(chance: random.Random, proto: onnx.ModelProto) -> None:
    value = chance.choice([*proto.graph.input, *proto.graph.output])
    shape = value.type.tensor_type.shape
    change = chance.randrange(6)
    if change == 0:
        value.type.tensor_type.elem_type = chance.choice([0, 2, 7, 8, 9, 10, 16, 17, 99])
    elif change == 1:
        shape.dim[chance.randrange(len(shape.dim))].dim_value = chance.choice([0, -1, 1, 2, *_HUGE])
    elif change == 2:
        del shape.dim[chance.randrange(len(shape.dim))]
    elif change == 3:
        value.type.tensor_type.ClearField("shape")
    elif change == 4:
        value.ClearField("type")
    else:
        value.name = chance.choice(_ODD_NAMES)


def _interface_twice(chance: random.Random, proto: onnx.ModelProto) -> None:
    values = chance.choice([proto.graph.input, proto.graph.output])
    values.add().CopyFrom(values[0])


def _no_interface(chance: random.Random, proto: onnx.ModelProto) -> None:
    del chance.choice([proto.graph.input, proto.graph.output])[:]


def _external(chance: random.Random, proto: onnx.ModelProto) -> None:
    tensor = chance.choice(proto.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    places = ["../../etc/passwd", "/etc/passwd", "", ".", "w.bin", "x\0y", "//", "~/x"]
    tensor.external_data.add(key="location", value=chance.choice(places))
    tensor.external_data.add(key="offset", value=chance.choice(["0", "-1", "z", str(2**70)]))


def _sparse(chance: random.Random, proto: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), chance.choice(["s", ""]))
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [4]))


def _function(chance: random.Random, proto: onnx.ModelProto) -> None:
    """A function that calls itself, or another's name."""
    node = chance.choice(proto.graph.node)
    domain = "local"
    proto.opset_import.add(domain=domain, version=1)
    inner = onnx.NodeProto(op_type=node.op_type, domain=chance.choice([domain, ""]))
    inner.input.extend(node.input)
    inner.output.extend(node.output)
    function = proto.functions.add(name=node.op_type, domain=domain)
    function.input.extend(sorted({name for name in node.input if name}))
    function.output.extend(node.output)
    function.node.append(inner)
    function.opset_import.add(domain="", version=17)
    function.opset_import.add(domain=domain, version=1)
    node.domain = domain


def _deep(chance: random.Random, proto: onnx.ModelProto) -> None:
    """Branches within branches within branches, nearly as deep as protobuf reads."""
    graph = onnx.helper.make_graph([], "leaf", [], [])
    for _ in range(chance.choice([3, 10, 20, 28])):
        node = onnx.helper.make_node("If", ["c"], ["o"], then_branch=graph, else_branch=graph)
        node.attribute[1].ClearField("g")  # one side only: twice would grow without bound
        graph = onnx.helper.make_graph([node], "level", [], [])
    proto.graph.node.extend(graph.node)


#: All of them; the name of a function says what it does.
FIELDS = (
    _swapped_dimensions, _negative_dimension, _huge_dimension, _empty_weight, _other_rank,
    _other_element_type, _short_data, _long_data, _data_in_the_wrong_field, _not_finite,
    _missing_weight, _weight_twice, _dangling_input, _other_input, _missing_input, _more_inputs,
    _cycle, _shuffled_nodes, _missing_node, _same_output, _odd_name, _other_operator,
    _other_domain, _missing_attribute, _odd_attribute, _other_attribute_type, _odd_opset,
    _odd_ir_version, _odd_interface, _interface_twice, _no_interface, _external, _sparse,
    _function, _deep,
)  # fmt: skip

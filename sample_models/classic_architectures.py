"""Networks of standard convolutions: ResNet, VGG, Inception, and a YOLO-style detector."""

from __future__ import annotations

from functools import partial

from random_network import Activation, RandomNetwork, Traced

Outputs = dict[str, Traced]

# Scale of the last BatchNormalization of a residual branch: keeps the sums from growing.
BRANCH_GAIN = 0.5


def resnet18(net: RandomNetwork, classes: int) -> Outputs:
    """He et al. 2016, two 3x3 convolutions a block."""
    x = _resnet_stem(net)
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _basic_block(net, x, net.channels(channels), stride, f"stage{stage}.block{block}")
    return {"logits": net.classifier(x, classes)}


def resnet50(net: RandomNetwork, classes: int) -> Outputs:
    """He et al. 2016, bottleneck blocks, with the stride in the 3x3 convolution."""
    x = _resnet_stem(net)
    stages = ((64, 3), (128, 4), (256, 6), (512, 3))
    for stage, (channels, blocks) in enumerate(stages, start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _bottleneck(net, x, channels, stride, f"stage{stage}.block{block}")
    return {"logits": net.classifier(x, classes)}


def vgg16(net: RandomNetwork, classes: int) -> Outputs:
    """Simonyan and Zisserman 2015, with a BatchNormalization behind every convolution."""
    x = net.input
    for stage, (channels, layers) in enumerate(
        ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1
    ):
        for layer in range(1, layers + 1):
            name = f"stage{stage}.layer{layer}"
            x = net.conv_norm(x, net.channels(channels), 3, bias=True, name=name)
        x = net.max_pool(x, 2, stride=2, name=f"stage{stage}.pool")
    x = net.flatten(x, name="flatten")
    for layer in (1, 2):
        x = net.linear(x, net.channels(4096), name=f"fc{layer}")
        x = net.activate(x, Activation.RELU, name=f"fc{layer}.act")
    return {"logits": net.linear(x, classes, name="fc3")}


def inception_v3(net: RandomNetwork, classes: int) -> Outputs:
    """Szegedy et al. 2016, without the auxiliary classifier."""
    wide = net.channels
    x = net.conv_norm(net.input, wide(32), 3, stride=2, padding=(0, 0), name="stem.layer1")
    x = net.conv_norm(x, wide(32), 3, padding=(0, 0), name="stem.layer2")
    x = net.conv_norm(x, wide(64), 3, name="stem.layer3")
    x = net.max_pool(x, 3, stride=2, name="stem.pool1")
    x = net.conv_norm(x, wide(80), 1, name="stem.layer4")
    x = net.conv_norm(x, wide(192), 3, padding=(0, 0), name="stem.layer5")
    x = net.max_pool(x, 3, stride=2, name="stem.pool2")
    for index, pool_channels in enumerate((32, 64, 64), start=1):
        x = _inception_5x5(net, x, pool_channels, f"inception_a{index}")
    x = _inception_reduction_a(net, x, "reduction_a")
    for index, channels in enumerate((128, 160, 160, 192), start=1):
        x = _inception_7x7(net, x, channels, f"inception_b{index}")
    x = _inception_reduction_b(net, x, "reduction_b")
    for index in (1, 2):
        x = _inception_expanded(net, x, f"inception_c{index}")
    return {"logits": net.classifier(x, classes)}


def yolo(net: RandomNetwork, classes: int) -> Outputs:
    """Cross-stage partial backbone, fast spatial pyramid pooling, and a path aggregation neck.

    At width 1 the layout is the "small" one common since 2021 (5n blocks deep, half as wide as the
    large model), with SiLU. The outputs are the three raw maps of boxes, objectness and classes.
    """
    wide = net.channels
    layer = partial(net.conv_norm, activation=Activation.SILU)
    x = layer(net.input, wide(32), 6, stride=2, padding=(2, 2), name="backbone.stem")
    levels: list[Traced] = []
    for index, (channels, depth) in enumerate(((64, 1), (128, 2), (256, 3), (512, 1)), start=1):
        x = layer(x, wide(channels), 3, stride=2, name=f"backbone.down{index}")
        x = _partial_stage(net, x, wide(channels), depth, True, f"backbone.stage{index}")
        levels.append(x)
    _, fine, middle, _ = levels
    x = _pyramid_pooling(net, x, wide(512), "backbone.spp")

    top = layer(x, wide(256), 1, name="neck.top")
    x = net.concat([net.upsample(top, 2, name="neck.up1"), middle], name="neck.concat1")
    x = _partial_stage(net, x, wide(256), 1, False, "neck.stage1")
    centre = layer(x, wide(128), 1, name="neck.centre")
    x = net.concat([net.upsample(centre, 2, name="neck.up2"), fine], name="neck.concat2")
    small = _partial_stage(net, x, wide(128), 1, False, "neck.stage2")
    x = layer(small, wide(128), 3, stride=2, name="neck.down1")
    x = net.concat([x, centre], name="neck.concat3")
    medium = _partial_stage(net, x, wide(256), 1, False, "neck.stage3")
    x = layer(medium, wide(256), 3, stride=2, name="neck.down2")
    x = net.concat([x, top], name="neck.concat4")
    large = _partial_stage(net, x, wide(512), 1, False, "neck.stage4")

    anchors, box_and_objectness = 3, 5
    features = anchors * (box_and_objectness + classes)
    scales = {"stride8": small, "stride16": medium, "stride32": large}
    return {name: net.conv(y, features, 1, name=f"head.{name}") for name, y in scales.items()}


def _resnet_stem(net: RandomNetwork) -> Traced:
    x = net.conv_norm(net.input, net.channels(64), 7, stride=2, name="stem")
    return net.max_pool(x, 3, stride=2, padding=1, name="stem.pool")


def _shortcut(net: RandomNetwork, x: Traced, channels: int, stride: int, name: str) -> Traced:
    if stride == 1 and x.channels == channels:
        return x
    return net.conv_norm(
        x, channels, 1, stride=stride, activation=Activation.NONE, name=f"{name}.shortcut"
    )


def _basic_block(net: RandomNetwork, x: Traced, channels: int, stride: int, name: str) -> Traced:
    y = net.conv_norm(x, channels, 3, stride=stride, name=f"{name}.layer1")
    y = net.conv_norm(
        y, channels, 3, activation=Activation.NONE, gain=BRANCH_GAIN, name=f"{name}.layer2"
    )
    y = net.add(y, _shortcut(net, x, channels, stride, name), name=f"{name}.add")
    return net.activate(y, Activation.RELU, name=f"{name}.act")


def _bottleneck(net: RandomNetwork, x: Traced, channels: int, stride: int, name: str) -> Traced:
    expansion = 4
    inner, outer = net.channels(channels), net.channels(channels * expansion)
    y = net.conv_norm(x, inner, 1, name=f"{name}.layer1")
    y = net.conv_norm(y, inner, 3, stride=stride, name=f"{name}.layer2")
    y = net.conv_norm(
        y, outer, 1, activation=Activation.NONE, gain=BRANCH_GAIN, name=f"{name}.layer3"
    )
    y = net.add(y, _shortcut(net, x, outer, stride, name), name=f"{name}.add")
    return net.activate(y, Activation.RELU, name=f"{name}.act")


def _pooled_branch(net: RandomNetwork, x: Traced, channels: int, name: str) -> Traced:
    pooled = net.average_pool(x, 3, stride=1, padding=1, name=f"{name}.pool")
    return net.conv_norm(pooled, net.channels(channels), 1, name=f"{name}.pool_layer")


def _chain(
    net: RandomNetwork, x: Traced, layers: list[tuple[int, int | tuple[int, int]]], name: str
) -> Traced:
    """Layers of (channels, kernel), one behind the other."""
    for index, (channels, kernel) in enumerate(layers, start=1):
        x = net.conv_norm(x, net.channels(channels), kernel, name=f"{name}.layer{index}")
    return x


def _halve(net: RandomNetwork, x: Traced, channels: int, name: str) -> Traced:
    return net.conv_norm(x, net.channels(channels), 3, stride=2, padding=(0, 0), name=name)


def _inception_5x5(net: RandomNetwork, x: Traced, pool_channels: int, name: str) -> Traced:
    branches = [
        _chain(net, x, [(64, 1)], f"{name}.single"),
        _chain(net, x, [(48, 1), (64, 5)], f"{name}.large"),
        _chain(net, x, [(64, 1), (96, 3), (96, 3)], f"{name}.double"),
        _pooled_branch(net, x, pool_channels, name),
    ]
    return net.concat(branches, name=f"{name}.concat")


def _inception_reduction_a(net: RandomNetwork, x: Traced, name: str) -> Traced:
    double = _chain(net, x, [(64, 1), (96, 3)], f"{name}.double")
    branches = [
        _halve(net, x, 384, f"{name}.single"),
        _halve(net, double, 96, f"{name}.double.layer3"),
        net.max_pool(x, 3, stride=2, name=f"{name}.pool"),
    ]
    return net.concat(branches, name=f"{name}.concat")


def _inception_7x7(net: RandomNetwork, x: Traced, channels: int, name: str) -> Traced:
    row, column = (1, 7), (7, 1)
    double: list[tuple[int, int | tuple[int, int]]] = [
        (channels, 1),
        (channels, column),
        (channels, row),
        (channels, column),
        (192, row),
    ]
    branches = [
        _chain(net, x, [(192, 1)], f"{name}.single"),
        _chain(net, x, [(channels, 1), (channels, row), (192, column)], f"{name}.large"),
        _chain(net, x, double, f"{name}.double"),
        _pooled_branch(net, x, 192, name),
    ]
    return net.concat(branches, name=f"{name}.concat")


def _inception_reduction_b(net: RandomNetwork, x: Traced, name: str) -> Traced:
    single = _chain(net, x, [(192, 1)], f"{name}.single")
    large = _chain(net, x, [(192, 1), (192, (1, 7)), (192, (7, 1))], f"{name}.large")
    branches = [
        _halve(net, single, 320, f"{name}.single.layer2"),
        _halve(net, large, 192, f"{name}.large.layer4"),
        net.max_pool(x, 3, stride=2, name=f"{name}.pool"),
    ]
    return net.concat(branches, name=f"{name}.concat")


def _inception_expanded(net: RandomNetwork, x: Traced, name: str) -> Traced:
    branches = [_chain(net, x, [(320, 1)], f"{name}.single")]
    shared_layers: dict[str, list[tuple[int, int | tuple[int, int]]]] = {
        "split": [(384, 1)],
        "double": [(448, 1), (384, 3)],
    }
    for branch, layers in shared_layers.items():
        shared = _chain(net, x, layers, f"{name}.{branch}")
        branches.append(_chain(net, shared, [(384, (1, 3))], f"{name}.{branch}.row"))
        branches.append(_chain(net, shared, [(384, (3, 1))], f"{name}.{branch}.column"))
    branches.append(_pooled_branch(net, x, 192, name))
    return net.concat(branches, name=f"{name}.concat")


def _partial_stage(
    net: RandomNetwork, x: Traced, channels: int, depth: int, residual: bool, name: str
) -> Traced:
    """Wang et al. 2020: half of the channels go through the blocks, half go past them."""
    layer = partial(net.conv_norm, activation=Activation.SILU)
    half = channels // 2
    past = layer(x, half, 1, name=f"{name}.past")
    y = layer(x, half, 1, name=f"{name}.enter")
    for block in range(depth):
        prefix = f"{name}.block{block}"
        z = layer(y, half, 1, name=f"{prefix}.layer1")
        z = layer(z, half, 3, name=f"{prefix}.layer2")
        y = net.add(y, z, name=f"{prefix}.add") if residual else z
    return layer(net.concat([y, past], name=f"{name}.concat"), channels, 1, name=f"{name}.leave")


def _pyramid_pooling(net: RandomNetwork, x: Traced, channels: int, name: str) -> Traced:
    """He et al. 2015, as three pools of 5x5 in a row: windows of 5, 9 and 13."""
    layer = partial(net.conv_norm, activation=Activation.SILU)
    pools = [layer(x, channels // 2, 1, name=f"{name}.enter")]
    for index in (1, 2, 3):
        pools.append(net.max_pool(pools[-1], 5, stride=1, padding=2, name=f"{name}.pool{index}"))
    return layer(net.concat(pools, name=f"{name}.concat"), channels, 1, name=f"{name}.leave")

"""Networks that are depthwise separable already: MobileNet, Xception, EfficientNet."""

from __future__ import annotations

from random_network import Activation, RandomNetwork, Traced

Outputs = dict[str, Traced]


def mobilenetv1(net: RandomNetwork, classes: int) -> Outputs:
    """Howard et al. 2017."""
    x = net.conv_norm(net.input, net.channels(32), 3, stride=2, name="stem")
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    blocks += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    for index, (channels, stride) in enumerate(blocks, start=1):
        x = net.conv_norm(
            x, x.channels, 3, stride=stride, groups=x.channels, name=f"block{index}.depthwise"
        )
        x = net.conv_norm(x, net.channels(channels), 1, name=f"block{index}.pointwise")
    return {"logits": net.classifier(x, classes)}


def mobilenetv2(net: RandomNetwork, classes: int) -> Outputs:
    """Sandler et al. 2018."""
    x = net.conv_norm(
        net.input, net.channels(32), 3, stride=2, activation=Activation.RELU6, name="stem"
    )
    stages = [  # expansion, channels, blocks, stride
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    for stage, (expansion, channels, blocks, stride) in enumerate(stages, start=1):
        for block in range(blocks):
            x = _inverted_residual(
                net,
                x,
                net.channels(channels),
                expansion=expansion,
                kernel=3,
                stride=stride if block == 0 else 1,
                activation=Activation.RELU6,
                squeeze=False,
                name=f"stage{stage}.block{block}",
            )
    x = net.conv_norm(x, net.channels(1280), 1, activation=Activation.RELU6, name="head")
    return {"logits": net.classifier(x, classes)}


def efficientnet_b0(net: RandomNetwork, classes: int) -> Outputs:
    """Tan and Le 2019: inverted residuals with SiLU and squeeze-and-excitation."""
    x = net.conv_norm(
        net.input, net.channels(32), 3, stride=2, activation=Activation.SILU, name="stem"
    )
    stages = [  # expansion, channels, blocks, stride, kernel
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ]
    for stage, (expansion, channels, blocks, stride, kernel) in enumerate(stages, start=1):
        for block in range(blocks):
            x = _inverted_residual(
                net,
                x,
                net.channels(channels),
                expansion=expansion,
                kernel=kernel,
                stride=stride if block == 0 else 1,
                activation=Activation.SILU,
                squeeze=True,
                name=f"stage{stage}.block{block}",
            )
    x = net.conv_norm(x, net.channels(1280), 1, activation=Activation.SILU, name="head")
    return {"logits": net.classifier(x, classes)}


def xception(net: RandomNetwork, classes: int) -> Outputs:
    """Chollet 2017."""
    wide = net.channels
    x = net.conv_norm(net.input, wide(32), 3, stride=2, padding=(0, 0), name="stem.layer1")
    x = net.conv_norm(x, wide(64), 3, padding=(0, 0), name="stem.layer2")
    for index, channels in enumerate((128, 256, 728), start=1):
        widths = (wide(channels), wide(channels))
        x = _xception_reduction(net, x, widths, index > 1, f"entry{index}")
    for index in range(1, 9):
        y = x
        for layer in (1, 2, 3):
            name = f"middle{index}.layer{layer}"
            y = net.activate(y, Activation.RELU, name=f"{name}.act")
            y = _separable(net, y, wide(728), name)
        x = net.add(y, x, name=f"middle{index}.add")
    x = _xception_reduction(net, x, (wide(728), wide(1024)), True, "exit")
    for index, channels in enumerate((1536, 2048), start=1):
        x = _separable(net, x, wide(channels), f"head.layer{index}")
        x = net.activate(x, Activation.RELU, name=f"head.layer{index}.act")
    return {"logits": net.classifier(x, classes)}


def _inverted_residual(
    net: RandomNetwork,
    x: Traced,
    channels: int,
    *,
    expansion: int,
    kernel: int,
    stride: int,
    activation: Activation,
    squeeze: bool,
    name: str,
) -> Traced:
    expanded = x.channels * expansion
    y = x
    if expansion > 1:
        y = net.conv_norm(y, expanded, 1, activation=activation, name=f"{name}.expand")
    y = net.conv_norm(
        y,
        expanded,
        kernel,
        stride=stride,
        groups=expanded,
        activation=activation,
        name=f"{name}.depthwise",
    )
    if squeeze:
        # A quarter of the block's input, not of what it was expanded to.
        y = _squeeze_excite(net, y, max(1, x.channels // 4), f"{name}.se")
    y = net.conv_norm(y, channels, 1, activation=Activation.NONE, name=f"{name}.project")
    if stride == 1 and x.channels == channels:
        y = net.add(y, x, name=f"{name}.add")
    return y


def _squeeze_excite(net: RandomNetwork, x: Traced, channels: int, name: str) -> Traced:
    """Hu et al. 2018: a gate per channel, computed from the channels' means."""
    gate = net.global_average_pool(x, name=f"{name}.pool")
    gate = net.conv(gate, channels, 1, name=f"{name}.reduce")
    gate = net.activate(gate, Activation.SILU, name=f"{name}.act")
    gate = net.conv(gate, x.channels, 1, name=f"{name}.expand")
    gate = net.activate(gate, Activation.SIGMOID, name=f"{name}.gate")
    return net.multiply(x, gate, name=f"{name}.mul")


def _separable(net: RandomNetwork, x: Traced, channels: int, name: str) -> Traced:
    """Depthwise and pointwise convolution with nothing in between, then BatchNormalization."""
    y = net.conv(x, x.channels, 3, groups=x.channels, bias=False, name=f"{name}.depthwise")
    y = net.conv(y, channels, 1, bias=False, name=f"{name}.pointwise")
    return net.batch_norm(y, name=f"{name}.bn")


def _xception_reduction(
    net: RandomNetwork, x: Traced, widths: tuple[int, int], activate_first: bool, name: str
) -> Traced:
    shortcut = net.conv_norm(
        x, widths[1], 1, stride=2, activation=Activation.NONE, name=f"{name}.shortcut"
    )
    y = net.activate(x, Activation.RELU, name=f"{name}.act1") if activate_first else x
    y = _separable(net, y, widths[0], f"{name}.layer1")
    y = net.activate(y, Activation.RELU, name=f"{name}.act2")
    y = _separable(net, y, widths[1], f"{name}.layer2")
    y = net.max_pool(y, 3, stride=2, padding=1, name=f"{name}.pool")
    return net.add(y, shortcut, name=f"{name}.add")

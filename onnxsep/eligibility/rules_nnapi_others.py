"""NNAPI's rules about operators that move numbers, and about all others without weights."""

from __future__ import annotations

from onnxsep.eligibility import nnapi_conditions as n
from onnxsep.eligibility.conditions import (
    input_changes,
    resize_option,
    resize_unknown,
    resizes_channels,
    shrinks_unevenly,
)
from onnxsep.eligibility.rule import in_onnxruntime, rules

BUILDERS = "providers/nnapi/nnapi_builtin/builders"
FIX = "fix every dimension with --fix-shape, the batch too"
IN_FLOAT = "leave it in float"
NEWER_ANDROID = "none on this Android; see what newer ones take with --api-level"


def builder(name: str) -> str:
    """The file of the builder called so."""
    return in_onnxruntime(f"{BUILDERS}/impl/{name}_op_builder.cc")


MOVING = (
    *rules(
        builder("reshape"),
        ("Reshape",),
        ("reshape-computed", input_changes(1), "the new shape is computed", FIX),
        ("reshape-zero", n.reshape_to_zero, "a size of 0 is kept as 0 (allowzero)", "none"),
    ),
    *rules(
        in_onnxruntime(f"{BUILDERS}/impl"),
        ("Concat", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Gather", "Pad"),
        ("rank", n.rank_outside(1, 4), "the input has more than four dimensions or none", "none"),
    ),
    *rules(
        builder("concat"),
        ("Concat",),
        (
            "concat-scales",
            n.joins_scales,
            "before API level 29, all inputs and the result need one scale",
            NEWER_ANDROID,
        ),
    ),
    *rules(
        builder("slice"),
        ("Slice",),
        ("slice-computed", input_changes(1, 2, 3, 4), "where to cut is computed", FIX),
    ),
    *rules(
        builder("split"),
        ("Split",),
        ("split-uneven", n.uneven_split, "the parts are not of one size", "write it as Slices"),
    ),
    *rules(
        builder("pad"),
        ("Pad",),
        ("pad-computed", input_changes(1, 2), "the padding is computed", FIX),
        (
            "pad-mode",
            lambda unit, _: unit.text("mode", "constant") != "constant",
            "only padding with a constant is built",
            "none",
        ),
        ("pad-negative", n.negative_padding, "numbers are cut off", "write it as a Slice"),
    ),
    *rules(
        builder("depthtospace"),
        ("DepthToSpace",),
        (
            "depth-to-space-order",
            lambda unit, _: unit.text("mode", "DCR") != "DCR",
            "channels are ordered CRD, as PyTorch's PixelShuffle does",
            "permute the output channels of the convolution before, and use DCR",
        ),
    ),
)
OTHERS = (
    *rules(
        builder("binary"),
        ("Add", "Sub", "Mul", "Div", "Pow", "PRelu"),
        (
            "binary-rank",
            n.second_rank_above_four,
            "an input has more than four dimensions",
            "none",
        ),
    ),
    *rules(
        builder("batchnorm"),
        ("BatchNormalization",),
        (
            "normalization-changes",
            input_changes(1, 2, 3, 4),
            "scale, bias, mean or variance are no constant",
            "fold it: `onnxsep optimize --passes fold_batchnorm`",
        ),
        ("normalization-trains", n.several_results, "it runs in training mode", "export for use"),
    ),
    *rules(
        builder("softmax"),
        ("Softmax",),
        (
            "softmax-scale",
            n.result_scale_unfit,
            "behind a quantized Softmax the scale has to be 1/256 and the zero point 0",
            IN_FLOAT,
        ),
        ("softmax-rank", n.rank_outside(1, 4), "the input has more than four dimensions", "none"),
    ),
    *rules(
        builder("resize"),
        ("Resize",),
        ("resize-rank", n.rank_outside(4, 4), "the input is no batch of images", "none"),
        (
            "resize-cubic",
            lambda unit, _: unit.text("mode", "nearest") not in ("linear", "nearest"),
            "only nearest and linear interpolation are built",
            "use linear",
        ),
        (
            "resize-coordinates",
            n.resize_coordinates,
            "nearest needs asymmetric coordinates rounded down; linear needs asymmetric ones, or "
            "half_pixel or align_corners from API level 30",
            "export with coordinate_transformation_mode asymmetric and nearest_mode floor",
        ),
        ("resize-option", resize_option, "an option of later opsets is set", "export without it"),
        ("resize-unknown", resize_unknown, "neither scales nor sizes are constant", FIX),
        ("resize-channels", resizes_channels, "more than height and width would change", "none"),
        (
            "resize-uneven",
            shrinks_unevenly,
            "the image shrinks by something else than a whole number that divides its size",
            "choose another size",
        ),
    ),
    *rules(
        builder("minmax"),
        ("Max", "Min"),
        ("min-max-inputs", n.more_than_two_inputs, "only two inputs are built", "write it in twos"),
    ),
    *rules(
        builder("cast"),
        ("Cast",),
        ("cast-type", n.cast_unfit, "only float32 and int32 are built", "none"),
    ),
    *rules(
        builder("reduction"),
        ("ReduceMean",),
        ("reduce-computed", input_changes(1), "the axes are computed", FIX),
        ("reduce-rank", n.rank_outside(1, 4), "the input has more than four dimensions", "none"),
    ),
)

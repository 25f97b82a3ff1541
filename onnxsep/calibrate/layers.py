"""Second moments of one convolution's inputs, met on a walk through the network."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxsep.calibrate.patches import PatchSampler
from onnxsep.calibrate.walk import ActivationWalk
from onnxsep.convolution import ConvSite
from onnxsep.factorize import MomentAccumulator, Moments

# Output positions looked at per weight of a filter: a covariance of n features is known to a few
# per cent from a few times n independent rows, and neighbouring positions are far from independent.
_ROWS_PER_FEATURE = 12
_FEWEST_ROWS = 16_384
_MOST_ROWS = 49_152


def rows_per_sample(site: ConvSite, samples: int) -> int:
    """Output positions to take from each of ``samples`` images."""
    features = site.in_channels * site.taps
    rows = min(max(_ROWS_PER_FEATURE * features, _FEWEST_ROWS), _MOST_ROWS)
    return max(1, math.ceil(rows / samples))


def node_after(graph: ir.Graph, node: ir.Node) -> ir.Node | None:
    """The node that follows ``node`` in the graph's order, or None at the end."""
    found = False
    for current in graph:
        if found:
            return current
        found = current is node
    return None


def own_moments(walk: ActivationWalk, site: ConvSite, *, samples: int, seed: int) -> Moments:
    """Moments of the inputs of ``site`` in the network that ``walk`` goes through.

    Args:
        walk: Stands somewhere before the site; afterwards directly in front of it.
        site: A convolution of it.
        samples: Number of images.
        seed: Of the choice of output positions.
    """
    sampler = PatchSampler(site.geometry, rows_per_sample=rows_per_sample(site, samples), seed=seed)
    accumulator = MomentAccumulator(site.in_channels * site.taps)
    for values in walk.step([site.input_name], cut_before=site.node):
        source = values[site.input_name]
        chosen = sampler.choose(len(source), site.geometry.output_size(source.shape[2:]))
        accumulator.update(sampler.patches(source, *chosen))
    return accumulator.result()


def shifted_moments(
    original: ActivationWalk,
    rewritten: ActivationWalk,
    original_site: ConvSite,
    site: ConvSite,
    original_graph: ir.Graph,
    *,
    samples: int,
    seed: int,
) -> Moments:
    """Moments of what ``site`` meets in the rewritten network against what it once gave.

    Args:
        original: Walk through the original network, afterwards behind the site.
        rewritten: Walk through the rewritten network, afterwards in front of the site.
        original_site: The convolution in the original network.
        site: The same convolution, not rewritten yet, in the rewritten network.
        original_graph: The original's graph.
        samples: Number of images.
        seed: Of the choice of output positions.
    """
    sampler = PatchSampler(site.geometry, rows_per_sample=rows_per_sample(site, samples), seed=seed)
    accumulator = MomentAccumulator(site.in_channels * site.taps, site.out_channels)
    # strict=True runs both walks to their end, where each keeps its cut.
    pairs = zip(
        original.step(
            [original_site.output_name], cut_before=node_after(original_graph, original_site.node)
        ),
        rewritten.step([site.input_name], cut_before=site.node),
        strict=True,
    )
    for wanted, given in pairs:
        target, source = wanted[original_site.output_name], given[site.input_name]
        chosen = sampler.choose(len(source), target.shape[2:])
        accumulator.update(sampler.patches(source, *chosen), PatchSampler.outputs(target, *chosen))
    return accumulator.result()

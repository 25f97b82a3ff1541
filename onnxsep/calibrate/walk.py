"""Inner values of a network for a whole data set, in graph order, each node run about once.

To fit layer after layer on what the already rewritten network feeds it, the values in front of
every convolution are needed in turn. Running the network from its input each time would cost the
square of its depth. The walk keeps the values that are alive at its present point (the *cut*) and
goes on from there; where they would take too much memory it stays at the last cut that did not,
and runs the nodes in between again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxsep.runtime import Feeds, cut_model, make_session, run

DEFAULT_MEMORY_LIMIT_BYTES = 768 * 2**20


class ActivationWalk:
    """Goes through the main graph of a model from the inputs to the outputs.

    The model may be rewritten in place behind the present point, as long as the names of the
    values that cross it stay.
    """

    def __init__(
        self,
        model: ir.Model,
        batches: Iterable[Feeds],
        *,
        threads: int = 0,
        memory_limit: int = DEFAULT_MEMORY_LIMIT_BYTES,
    ) -> None:
        """Start at the inputs.

        Args:
            model: The network; nodes in topological order.
            batches: Iterated once per step until the first cut is kept; must be re-iterable and
                give the same batches each time.
            threads: Threads of onnxruntime; 0 for all cores.
            memory_limit: Bytes that the values kept at a cut may take.
        """
        self._model = model
        self._batches = batches
        self._threads = threads
        self._memory_limit = memory_limit
        self._kept: list[Feeds] | None = None

    def step(self, wanted: Sequence[str], *, cut_before: ir.Node | None) -> Iterator[Feeds]:
        """Values ``wanted`` for every batch; the walk then stands in front of ``cut_before``.

        Args:
            wanted: Names of values of the main graph at or behind the present point.
            cut_before: A node of the main graph, or None to stay where the walk is.

        Yields:
            One mapping from name to array per batch, in the order of the batches.
        """
        alive = [] if cut_before is None else self._alive_before(cut_before)
        source = self._batches if self._kept is None else self._kept
        session = None
        computed: list[str] = []
        kept: list[Feeds] = []
        kept_bytes = 0
        keep = cut_before is not None
        for feeds in source:
            if session is None:
                targets = list(dict.fromkeys([*wanted, *alive]))
                computed = [name for name in targets if name not in feeds]
                if computed:
                    part = cut_model(self._model, self._kept or [feeds], computed)
                    session = make_session(part, threads=self._threads)
            # A scalar that was taken out of an array is no array any more.
            values = {name: np.asarray(value) for name, value in feeds.items()}
            if session is not None:
                outputs = run(session, feeds, label="the model")
                values.update(zip(computed, outputs, strict=True))
            if keep:
                kept.append({name: values[name] for name in alive})
                kept_bytes += sum(
                    value.nbytes if isinstance(value, np.ndarray) else self._memory_limit + 1
                    for value in kept[-1].values()
                )
                keep = kept_bytes <= self._memory_limit
                if not keep:
                    kept = []
            yield {name: values[name] for name in wanted}
        if keep:
            self._kept = kept

    def _alive_before(self, node: ir.Node) -> list[str]:
        """Values computed from the inputs before ``node`` and used by it or behind it."""
        computed: set[ir.Value] = set(self._model.graph.inputs)
        used: dict[ir.Value, None] = {}
        behind = False
        for current in self._model.graph:
            behind = behind or current is node
            inputs = _all_inputs(current, self._model.graph)
            if behind:
                used.update(dict.fromkeys(inputs))
            elif any(value in computed for value in inputs) or _is_random(current):
                computed.update(current.outputs)
        return [value.name for value in used if value in computed and value.name]


def _all_inputs(node: ir.Node, graph: ir.Graph) -> list[ir.Value]:
    """Values of ``graph`` that ``node`` reads, those read inside its subgraphs included."""
    values = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            subgraphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            subgraphs = list(attribute.as_graphs())
        else:
            continue
        for subgraph in subgraphs:
            for inner in ir.traversal.RecursiveGraphIterator(subgraph):
                values.extend(
                    value for value in inner.inputs if value is not None and value.graph is graph
                )
    return values


def _is_random(node: ir.Node) -> bool:
    # Computed twice, a random value would be two values.
    return node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")

"""Convert an ONNX graph to steps that run it: fold constants, and make names unique across branches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from throughtime.errors import nearest
from throughtime.exchange.onnx.feedforward import STATISTICS
from throughtime.exchange.onnx.file import Block, Node, OnnxError
from throughtime.exchange.onnx.operators import MEANINGS
from throughtime.exchange.onnx.recurrent import OPERATORS, STORED, OnnxRecurrent

_IF = "If"


@dataclass(frozen=True)
class Step:
    """A node to run.

    Attributes:
        node: the node.
        takes: the names of its inputs.
        layer: the recurrent layer that runs it, if it is a recurrent operator.
        branches: for an `If`, the steps for true and for false, each with the names of their results.
    """

    node: Node
    takes: tuple[str, ...]
    layer: OnnxRecurrent | None = None
    branches: tuple[tuple[list[Step], tuple[str, ...]], ...] = ()

    def run(self, values: dict[str, Tensor]) -> None:
        """Compute the node's results and add them to `values`."""
        if self.branches:
            condition = values[self.takes[0]]
            if condition.numel() != 1:
                raise self.node.error(f"its condition must be a single boolean, got shape {list(condition.shape)}")
            steps, outputs = self.branches[0 if bool(condition) else 1]
            for step in steps:
                step.run(values)
            results: tuple[Tensor, ...] = tuple(values[name] for name in outputs)
        else:
            results = self._results([values[name] if name else None for name in self.takes])
        for name, result in zip(self.node.outputs, results, strict=False):
            if name:
                values[name] = result

    def _results(self, given: list[Tensor | None]) -> tuple[Tensor, ...]:
        try:
            found = self.layer(*given) if self.layer is not None else MEANINGS[self.node.operator](self.node, *given)
            results = found if isinstance(found, tuple) else (found,)
            if not all(isinstance(result, Tensor) for result in results):
                raise ValueError("a required input is omitted")
            if any(self.node.outputs[len(results) :]):
                raise ValueError(f"expected {len(self.node.outputs)} results, got {len(results)}")
        except OnnxError:
            raise
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            # torch's message describes the mismatch; the node's name locates it in the file.
            shapes = ", ".join(str(list(v.shape)) for v in given if v is not None)
            raise self.node.error(f"can't run on {shapes or 'no inputs'}: {error}") from error
        return results


class Steps:
    """The steps of a model.

    Args:
        graph: the model's graph.
        inputs: the names of the model's inputs.

    Attributes:
        steps: the steps in running order.
        outputs: the names of the model's results.
        layers: the recurrent layers, by unique names.
        constants: the stored and folded arrays, by unique names.
        used: the constants that the steps use.
        trained: the used constants that are weights, not statistics or settings.
        given_weights: the model's inputs that are weights of a recurrent layer.

    Raises:
        OnnxError: if an operator is unsupported or the graph is malformed.
    """

    def __init__(self, graph: Block, inputs: tuple[str, ...]) -> None:
        self.layers: dict[str, OnnxRecurrent] = {}
        self.constants: dict[str, Tensor] = {}
        self.trained: set[str] = set()
        self.given_weights: set[str] = set()
        self._inputs = set(inputs)
        self._taken = set(inputs)
        self._parameters: dict[object, nn.Parameter] = {}
        self._consumers = Counter(_consumed(graph))
        self._shared: set[str] = set()
        self.used: set[str] = set()
        self.steps, self.outputs = self._block(graph, {name: name for name in inputs}, set(inputs))
        self._use(self.outputs)

    def _block(
        self, block: Block, outer: Mapping[str, str], own: set[str] | None = None
    ) -> tuple[list[Step], tuple[str, ...]]:
        """Convert a graph to steps and the names of its results.

        Args:
            block: the graph.
            outer: the unique names of the visible values.
            own: the names that the graph must not redefine.
        """
        scope, own, steps = dict(outer), set(own or ()), []
        for name, array in block.constants.items():
            scope[name] = unique = self._unique(name)
            self.constants[unique] = torch.from_numpy(array.copy())
            if self._consumers[name] > 1:
                self._shared.add(unique)
            own.add(name)
        for node in block.nodes:
            self._check(node, scope, own)
            given = tuple(scope[name] if name else "" for name in node.inputs)
            own.update(name for name in node.outputs if name)
            if node.operator == _IF and given[0] in self.constants:
                steps += self._inlined(node, given[0], scope)
                continue
            inner = scope
            scope = scope | {name: self._unique(name) for name in node.outputs if name}
            renamed = replace(node, inputs=given, outputs=tuple(scope[name] if name else "" for name in node.outputs))
            step = self._step(renamed, inner)
            if step is not None:
                steps.append(step)
        for name in block.outputs:
            if name not in scope or not name:
                raise OnnxError(f"the model's output {name!r} is not computed by any node")
        return steps, tuple(scope[name] for name in block.outputs)

    def _step(self, node: Node, scope: Mapping[str, str]) -> Step | None:
        """Convert a node to a step with unique names; None if its results are constants."""
        if node.operator == _IF:
            branches = tuple(self._branch(node, k, scope) for k in range(2))
            for _, outputs in branches:
                self._use(outputs)
            self._use(node.inputs)
            return Step(node, node.inputs, branches=branches)
        if node.operator in OPERATORS:
            return self._recurrent(node)
        step = Step(node, node.inputs)
        if self._folds(node):
            step.run(self.constants)
            return None
        self._use(name for place, name in enumerate(node.inputs) if (node.operator, place) not in STATISTICS)
        self.used.update(node.inputs)
        return step

    def _branch(self, node: Node, which: int, scope: Mapping[str, str]) -> tuple[list[Step], tuple[str, ...]]:
        try:
            steps, outputs = self._block(node.branches[which], scope)
        except OnnxError as error:
            raise node.error(f"in its {('then', 'else')[which]}_branch: {error}") from None
        if len(outputs) < len(node.outputs):
            raise node.error(f"a branch must have {len(node.outputs)} results, got {len(outputs)}")
        return steps, outputs

    def _inlined(self, node: Node, condition: str, scope: dict[str, str]) -> list[Step]:
        """Convert the branch that is always taken; its results get the node's names in the scope."""
        if self.constants[condition].numel() != 1:
            raise node.error("its condition must be a single boolean")
        steps, outputs = self._branch(node, 0 if bool(self.constants[condition]) else 1, scope)
        scope.update({name: found for name, found in zip(node.outputs, outputs, strict=False) if name})
        return steps

    def _folds(self, node: Node) -> bool:
        """Return whether to fold a node into a constant. Views of shared weights are not, so that they stay shared."""
        if not all(name in self.constants for name in node.inputs if name):
            return False
        return not any(name in self._shared and _is_weight(self.constants[name]) for name in node.inputs)

    def _recurrent(self, node: Node) -> Step:
        stored = {letter: node.input(place) for place, letter in STORED.items() if node.input(place)}
        self.given_weights.update(name for name in stored.values() if name in self._inputs)
        known = all(name in self.constants for name in stored.values())
        key = self._unique_layer(node)
        layer = OnnxRecurrent(
            node, {letter: self.constants[name] for letter, name in stored.items()} if known else None
        )
        for module, name, origin in layer.origins(stored):
            module.register_parameter(name, self._parameters.setdefault(origin, module.get_parameter(name)))
        self.layers[key] = layer
        self._use(layer.takes)
        return Step(node, tuple(layer.takes), layer)

    def _use(self, names: Iterator[str] | tuple[str, ...] | list[str]) -> None:
        given = list(names)
        self.used.update(given)
        self.trained.update(name for name in given if name in self.constants and _is_weight(self.constants[name]))

    @staticmethod
    def _check(node: Node, scope: Mapping[str, str], own: set[str]) -> None:
        possible = [*MEANINGS, *OPERATORS, _IF]
        if node.operator not in possible:
            raise node.error(
                f"unsupported operator{nearest(node.operator, possible)}; supported: {', '.join(sorted(possible))}"
            )
        if node.operator == _IF and not node.input(0):
            raise node.error("its condition is missing")
        for name in node.inputs:
            if name and name not in scope:
                raise node.error(f"its input {name!r} is not computed by any earlier node")
        for name in node.outputs:
            if name in own:
                raise node.error(f"its output {name!r} already exists")

    def _unique(self, name: str) -> str:
        number, found = 1, name
        while found in self._taken:
            number += 1
            found = f"{name}_{number}"
        self._taken.add(found)
        return found

    def _unique_layer(self, node: Node) -> str:
        return plain_name(node.name or node.operator, self.layers)


def _consumed(block: Block) -> Iterator[str]:
    """Yield the names of all nodes' inputs, once per node."""
    for node in block.nodes:
        yield from set(node.inputs)
        for branch in node.branches:
            yield from _consumed(branch)


def _is_weight(tensor: Tensor) -> bool:
    """Return whether training may change a constant; a single number is a setting, such as an exponent or a bound."""
    return tensor.is_floating_point() and tensor.dim() > 0


def plain_name(name: str, taken: Container[str]) -> str:
    """Return an unused name that torch allows for a module or parameter."""
    plain = re.sub(r"\W+", "_", name).strip("_") or "value"
    number, found = 1, plain
    while found in taken or hasattr(nn.ModuleDict, found):
        number += 1
        found = f"{plain}_{number}"
    return found

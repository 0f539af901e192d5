"""Build ONNX graphs from nodes and named values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Supported by all recent runtimes; version 15 introduced Shape with start and end.
OPSET, IR_VERSION = 17, 8

_SMALL = 64  # elements; larger constants are weights and not deduplicated


class Graph:
    """A graph under construction.

    Args:
        parent: the graph that contains this one, whose values it can use and which stores its constants.
    """

    def __init__(self, name: str, parent: Graph | None = None) -> None:
        self.name = name
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._top: Graph = parent._top if parent else self
        self._taken: Counter[str] = Counter()
        self._constants: dict[str, Array] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self._used: set[str] = set()

    def unique_name(self, name: str) -> str:
        """Return a unique name based on the given one."""
        taken = self._top._taken
        taken[name] += 1
        return name if taken[name] == 1 else self.unique_name(f"{name}_{taken[name]}")

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        """Declare an input; a string among the sizes names a size that is only known at run time."""
        self.inputs.append(_declared(self.unique_name(name), dtype, shape))
        return str(self.inputs[-1].name)

    def output(self, name: str, value: str, dtype: Any, shape: Sequence[int | str]) -> None:
        """Declare an output."""
        from onnx import helper

        self._top._used.add(value)
        given = self.unique_name(name)
        self.nodes.append(helper.make_node("Identity", [value], [given], name=self.unique_name("Identity")))
        self.outputs.append(_declared(given, dtype, shape))

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one result, and return the result's name."""
        return self.node(operator, inputs, 1, **attributes)[0]

    def node(self, operator: str, inputs: Sequence[str], results: int, **attributes: Any) -> list[str]:
        """Add a node and return the names of its results."""
        from onnx import helper

        self._top._used.update(inputs)
        given = [self.unique_name(operator.lower()) for _ in range(results)]
        self.nodes.append(
            helper.make_node(operator, list(inputs), given, name=self.unique_name(operator), **attributes)
        )
        return given

    def constant(self, array: Array, name: str = "constant") -> str:
        """Add a constant and return its name; equal small constants are shared."""
        array = np.asarray(array, order="C")
        top = self._top
        key = array.dtype.str, array.shape, array.tobytes() if array.size < _SMALL else len(top._constants)
        if key not in top._known:
            top._known[key] = self.unique_name(name)
            top._constants[top._known[key]] = array
        return top._known[key]

    def whole(self, *values: int) -> str:
        """Add a constant vector of integers, such as axes or a shape."""
        return self.constant(np.array(values, np.int64))

    def proto(self) -> Any:
        """Return the graph as an ONNX proto."""
        from onnx import helper, numpy_helper

        used = [(name, array) for name, array in self._constants.items() if name in self._used]
        constants = [numpy_helper.from_array(array, name) for name, array in used]
        return helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, constants)


def _declared(name: str, dtype: Any, shape: Sequence[int | str]) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

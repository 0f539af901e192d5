"""JAX: `lax.scan` over a user-defined cell under `jit`, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from throughtime.bench.arguments import Arguments
from throughtime.bench.cases import Case
from throughtime.bench.contestant import Ready, Results
from throughtime.bench.own_cell import by_hand


class JaxScan:
    """The input product for all steps, followed by a scan."""

    name = "JAX"
    packages = ("jax",)
    is_ours = False

    def takes(self, case: Case) -> bool:
        """Return True only for user-defined cells."""
        return not case.is_built_in

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Compile the function by calling it once."""
        import jax

        device = jax.devices("cpu")[0]
        x, weights, cotangent = (
            jax.device_put(jax.tree.map(lambda t: t.numpy(), of), device)
            for of in (arguments.x, arguments.parameters, arguments.cotangent)
        )
        if not case.trains:
            forward = jax.jit(_scan)
            return Ready(lambda: jax.block_until_ready(forward(x, weights)), lambda y: {"output": np.asarray(y)})

        def step(x: Any, weights: Any, cotangent: Any) -> Any:
            y, backward = jax.vjp(_scan, x, weights)
            return y, *backward(cotangent)

        train = jax.jit(step)
        return Ready(lambda: jax.block_until_ready(train(x, weights, cotangent)), _results)


def _results(given: Any) -> Results:
    y, of_x, of_weights = given
    gradients = {"x": of_x, **of_weights}
    return {"output": np.asarray(y)} | {f"gradient.{name}": np.asarray(g) for name, g in gradients.items()}


def _scan(x: Any, weights: Any) -> Any:
    import jax
    from jax import numpy as jnp

    def step(state: Any, from_x: Any) -> Any:
        h, c = by_hand(weights, from_x, *state, sigmoid=jax.nn.sigmoid, tanh=jnp.tanh, split=_quarters)
        return (h, c), h

    zeros = jnp.zeros((x.shape[1], weights["weight_h_l0"].shape[1]), x.dtype)
    return jax.lax.scan(step, (zeros, zeros), x @ weights["weight_x_l0"].T + weights["bias_l0"])[1]


def _quarters(gates: Any) -> Any:
    from jax import numpy as jnp

    return jnp.split(gates, 4, -1)

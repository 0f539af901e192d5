"""What the parameters of a recurrent layer start with."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from throughtime.errors import UserError, nearest
from throughtime.program.core import Parameter

SCHEMES = ("uniform", "orthogonal")
Scheme = float | str


def initialise(
    tensor: Tensor, parameter: Parameter, hidden_size: int, scheme: Scheme = "uniform", forget_bias: float | None = None
) -> None:
    """Sets a parameter to what it starts with, in place.

    What the cell declares stands, but for a forget bias that is asked for; the rest is drawn.

    Args:
        tensor: the stored parameter.
        parameter: what the program says of it.
        hidden_size: the layer's number of hidden units.
        scheme: "uniform" draws from U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)), as torch does; a number a from
            U(-a, a); "orthogonal" gives each gate an orthogonal matrix (Saxe et al. 2013, arXiv:1312.6120), gains and
            biases as "uniform".
        forget_bias: what the bias of a gate called `forget` starts with (Jozefowicz et al. 2015 found 1 to help).

    Raises:
        UserError: if there is no such scheme.
    """
    if isinstance(scheme, str) and scheme not in SCHEMES:
        raise UserError(
            f"no initialisation is called {scheme!r}{nearest(scheme, SCHEMES)}: "
            f"give a number for a uniform range, or one of {', '.join(SCHEMES)}."
        )
    bound = scheme if isinstance(scheme, int | float) else 1 / math.sqrt(hidden_size)
    with torch.no_grad():
        tensor.uniform_(-bound, bound)
        for part in parameter.parts:
            rows = tensor[part.start : part.stop]
            if forget_bias is not None and tensor.dim() == 1 and part.gate == "forget":
                rows.fill_(forget_bias)
            elif part.initial is not None:
                rows.fill_(part.initial)
            elif scheme == "orthogonal" and tensor.dim() == 2:
                nn.init.orthogonal_(rows)

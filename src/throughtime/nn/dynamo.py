"""Declarations for Dynamo, the front end of `torch.compile`, that don't import it.

Importing Dynamo takes as long as importing the rest of torch, and most programs never compile a model. torch's
decorators import it, so a function that Dynamo calls while it traces applies them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def constant_result(function: Function) -> Function:
    """Have Dynamo call a function instead of tracing it, and treat the result as a constant.

    The effect is that of `torch.compiler.assume_constant_result`, which imports Dynamo.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function

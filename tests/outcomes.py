"""Count the outcomes of random cases: a test that only forbids other errors would pass if every case was rejected."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

from throughtime.errors import UserError

# For random tests that take `outcomes`, which collects the outcomes of all examples of a test.
COLLECTING = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Outcomes:
    """How often each function accepted its arguments, and how often it rejected them."""

    def __init__(self) -> None:
        self.accepted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def of(
        self, call: Callable[..., Any], *arguments: Any, refusal: type[Exception] = UserError, match: str = ""
    ) -> Any:
        """Call a function and count its outcome.

        Args:
            call: the function.
            arguments: its arguments.
            refusal: the only error that it may raise.
            match: a regular expression that the error's message must contain.

        Returns:
            The function's result, or None if it rejected the arguments.
        """
        try:
            result = call(*arguments)
        except refusal as error:
            if not re.search(match, str(error)):
                raise
            self.refused[call.__name__] += 1
            return None
        self.accepted[call.__name__] += 1
        return result

    def require_both(self) -> None:
        """Assert that each function accepted some cases and rejected others."""
        names = {*self.accepted, *self.refused}
        assert names
        for name in names:
            assert self.accepted[name] > 0, f"{name} refused all {self.refused[name]} cases"
            assert self.refused[name] > 0, f"{name} accepted all {self.accepted[name]} cases"

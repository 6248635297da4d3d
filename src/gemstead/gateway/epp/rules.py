"""What operators say about calls, beside the calls themselves: how important an objective is, and which model stands
for which. From `InferenceObjective` and `InferenceModelRewrite` objects, or from the file of endpoints.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gemstead.traffic.objective import priority_of


class Rewrite(msgspec.Struct, frozen=True, kw_only=True):
    """A model that callers name, and what the engines are asked for instead."""

    model: str = ""  # "": any model that no other rule names
    targets: tuple[tuple[str, int], ...] = ()  # (model, weight)


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """All that holds now. Replaced whole when something changes."""

    objectives: dict[str, int] = {}  # priority by name
    rewrites: tuple[Rewrite, ...] = ()  # the oldest first: of two for one model it wins

    def priority(self, objective: str) -> int:
        """The priority that a call's objective gives it: a known one's; a number's or a usual name's own; else 0."""
        if not objective:
            return 0
        if (known := self.objectives.get(objective)) is not None:
            return known
        try:
            return priority_of(objective)
        except ValueError:
            return 0

    def rewritten(self, model: str, choose: Callable[[int], int]) -> str:
        """What the engines are asked for when a caller names `model`; "" when nothing is changed.

        An exact rule beats one for any model. Among several targets chance decides, by their weights.
        """
        exact = (rule for rule in self.rewrites if rule.model == model)
        rule = next(exact, None) or next((rule for rule in self.rewrites if not rule.model), None)
        if rule is None or not rule.targets:
            return ""
        targets = rule.targets
        if len(targets) == 1:
            return targets[0][0]
        drawn = choose(sum(weight for _, weight in targets))
        for name, weight in targets:
            if drawn < weight:
                return name
            drawn -= weight
        return targets[-1][0]

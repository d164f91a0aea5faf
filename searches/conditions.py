"""Conditional keys: which searched keys a point has.

A search that tries several adapters draws `rank` only for LoRA. Nobody declares this: it follows from the keys that the runs read
(`gpt2core.identity`), and thereby from the keys that their components declare.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

from searches.domains import Choice, Domain, Space
from searches.formatting import setting_text, value_text

#: Values of searched keys -> the keys that such a run reads. Other searched keys have the values of the reference.
Reads = Callable[[Mapping[str, Any]], Collection[str]]


class Conditions:
    """Which keys of a space are active at a point: read by its run, or by the run with another value of that key.

    The latter matters for `pretrain`: without a first stage, a run does not read it. A *condition* is a choice that decides
    whether another key is active, as `adapter` does for `rank`.
    """

    def __init__(self, space: Space, reads: Reads) -> None:
        self.space, self.reads = space, reads
        self._known: dict[tuple[Any, ...], frozenset[str]] = {}  # active keys by values of the conditions

    @cached_property
    def keys(self) -> list[str]:
        """The conditions."""
        conditions: list[str] = []
        choices = [key for key, domain in self.space.items() if isinstance(domain, Choice)]
        while True:  # a condition may show only under another one
            new = next((key for key in choices if key not in conditions and self._decides(key, conditions)), None)
            if new is None:
                return conditions
            conditions.append(new)

    @cached_property
    def order(self) -> list[str]:
        """The keys in the order of drawing: conditions first, those that more combinations read before the others."""
        count = {key: sum(key in self.active(values) for values in self.combinations) for key in self.keys}
        return [*sorted(count, key=lambda key: -count[key]), *(key for key in self.space if key not in count)]

    @cached_property
    def combinations(self) -> list[dict[str, Any]]:
        """All combinations of the conditions' values; a single empty one without conditions."""
        return list(self._product(self.keys))

    def active(self, point: Mapping[str, Any]) -> frozenset[str]:
        """Return the active keys at a point. Only conditions matter; missing ones have the values of the reference."""
        values = {key: point[key] for key in self.keys if key in point}
        known = tuple((key, repr(value)) for key, value in values.items())
        if known not in self._known:
            self._known[known] = frozenset(key for key in self.space if self._is_active(key, values))
        return self._known[known]

    def words(self, key: str) -> str:
        """Return under which values of the conditions a key is active, such as `adapter lora`; empty if under all."""
        parts = []
        having = [combination for combination in self.combinations if key in self.active(combination)]
        for condition in self.keys:
            values = tried(self.space[condition])
            needed = [value for value in values if any(combination[condition] == value for combination in having)]
            if condition != key and len(needed) < len(values):
                parts.append(setting_text(condition, " or ".join(map(value_text, needed))))
        return " and ".join(parts)

    def branches(self, fixed: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the different combinations that agree with `fixed`, without inactive conditions."""
        distinct: list[dict[str, Any]] = []
        for combination in self.combinations:
            values = {**combination, **{key: value for key, value in fixed.items() if key in combination}}
            active = self.active(values)
            branch = {key: value for key, value in values.items() if key in active}
            if branch not in distinct:
                distinct.append(branch)
        return distinct

    def _product(self, keys: list[str]) -> Iterator[dict[str, Any]]:
        for values in itertools.product(*(tried(self.space[key]) for key in keys)):
            yield dict(zip(keys, values, strict=True))

    def _decides(self, key: str, conditions: list[str]) -> bool:
        """Return whether `key` decides which other keys are read, at some values of `conditions` and perhaps one more choice."""
        others = self.space.keys() - {key}
        domains = [(name, self.space[name]) for name in others if name not in conditions]
        changes = [{name: value} for name, domain in domains if isinstance(domain, Choice) for value in domain.values]
        for values in self._product(conditions):
            for point in (values, *({**values, **change} for change in changes)):
                read = {frozenset(others & set(self.reads({**point, key: value}))) for value in tried(self.space[key])}
                if len(read) > 1:
                    return True
        return False

    def _is_active(self, key: str, values: Mapping[str, Any]) -> bool:
        return any(key in self.reads({**values, key: value}) for value in tried(self.space[key]))


def tried(domain: Domain) -> tuple[Any, ...]:
    """Return the values of a choice, or the bounds of numbers."""
    return domain.values if isinstance(domain, Choice) else (domain.low, domain.high)

"""View of the backbone section for builders, also for research code that reads nested configs."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from model_factory.yaml_config.registry import closest


class BackboneView(Mapping[str, Any]):
    """Values of the backbone section by attribute, and as a mapping: `["key"]`, `.get("key", default)`, `**config`.

    It also has `length`, `time_conditioning` and `condition` of the model's section.
    `config.model` and `config.algo` are views of the same values, for builders that read
    `config.model.hidden_size` or `config.algo.time_conditioning`.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or `default` if the section lacks it."""
        return self._wrap(self._values.get(key, default))

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):  # also while copying or unpickling, before `_values` is set
            raise AttributeError(key)
        if key in ("model", "algo") and key not in self._values:
            return self
        if key not in self._values:
            near = closest(key, list(self._values))
            hint = f"; it has {near!r}" if near else f"; it has {', '.join(self._values)}"
            raise AttributeError(f"the backbone section has no key {key!r}{hint}")
        return self._wrap(self._values[key])

    def __getitem__(self, key: str) -> Any:
        return self._wrap(self._values[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"BackboneView({self._values!r})"

    def as_dict(self) -> dict[str, Any]:
        """Return a copy of the values, with nested sections as dictionaries."""
        return deepcopy(self._values)

    @staticmethod
    def _wrap(value: Any) -> Any:
        return BackboneView(value) if isinstance(value, dict) else value

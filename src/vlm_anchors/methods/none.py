"""The model as it is: the zero of every comparison."""

from dataclasses import dataclass

from ..interventions.method import Method


@dataclass(frozen=True)
class Plain(Method):
    """No method: opens no hook, so the model runs untouched."""

    @property
    def leaves_prefix_alone(self) -> bool:
        return True

    def disabled(self) -> "Plain":
        return self

"""All that determines a training, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.adapt import METHODS, Adaptation
from models.architectures import ARCHITECTURES
from models.facts import Objective
from models.tasks import TASKS, TrainingData

SIZES: dict[str, dict[str, int]] = {
    "nano": {"d_model": 64, "n_layers": 2, "n_heads": 2},
    "mini": {"d_model": 96, "n_layers": 4, "n_heads": 4},
    "tiny": {"d_model": 128, "n_layers": 6, "n_heads": 4},
    "small": {"d_model": 192, "n_layers": 6, "n_heads": 6},
    "flat": {"d_model": 256, "n_layers": 4, "n_heads": 8},
    "base": {"d_model": 256, "n_layers": 8, "n_heads": 8},
}
"""Network shapes by name; of a GPT-2: .1M, .5M, 1.2M, 2.7M, 3.2M and 6.4M parameters on sudoku; on stories embeddings add .8M to 3.1M."""


class PlanError(ValueError):
    """A plan that no training can follow."""


@dataclass(frozen=True)
class TrainingPlan:
    """All that determines a training. With ``steps`` a run is reproducible; with ``minutes`` it depends on the machine's speed."""

    task: str
    objective: Objective
    size: str | None = None
    """A name in ``SIZES``; None is ``tiny``, or the size of ``init``."""
    architecture: str | None = None
    """A name in ``models.architectures.ARCHITECTURES``; None is ``gpt2``, or the architecture of ``init``."""
    init: str | None = None
    """A model folder to start from: the causal twin, to grow a masked one from it. None starts from random weights."""
    adaptation: Adaptation | None = None
    """How a masked model is made; None for a causal one. Unless given: ``switch`` from ``init``, ``scratch`` without."""
    steps: int | None = None
    minutes: float | None = None
    batch: int = 128
    data: TrainingData = field(default_factory=TrainingData)
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise PlanError("give either steps or minutes, and not both")
        for amount, value in (
            ("steps", self.steps),
            ("minutes", self.minutes),
            ("batch", self.batch),
            ("examples", self.data.examples),
            ("sparse", self.data.sparse),
        ):
            if value is not None and value <= 0:
                raise PlanError(f"{amount} is {value}; it must be greater than 0")
        for name, choices in (("size", tuple(SIZES)), ("architecture", tuple(ARCHITECTURES)), ("task", tuple(TASKS))):
            chosen = getattr(self, name)
            if chosen is not None and chosen not in choices:
                raise PlanError(f"unknown {name} {chosen!r}; choose from {', '.join(choices)}")
        self._check_adaptation()

    def _check_adaptation(self) -> None:
        if self.objective == "causal":
            fit = [name for name, one in ARCHITECTURES.items() if "causal" in one.regimes]
            if self.architecture is not None and self.architecture not in fit:
                raise PlanError(f"{self.architecture} has no causal attention; train it masked, or choose from {', '.join(fit)}")
            if self.adaptation is not None:
                raise PlanError("a causal model is not adapted; method, loss, schedule and logit shift are for masked models")
            return
        if self.adaptation is not None and self.init is None and METHODS[self.adaptation.method].from_twin:
            without = [name for name, method in METHODS.items() if not method.from_twin]
            raise PlanError(f"the method {self.adaptation.method!r} needs a model to start from; without one choose {', '.join(without)}")

    @property
    def adapted(self) -> Adaptation | None:
        """How a masked model is made, defaults filled in; None for a causal one."""
        if self.objective == "causal":
            return None
        return self.adaptation or Adaptation(method="switch" if self.init else "scratch")

    def progress(self, step: int, seconds: float) -> float:
        """Returns the share of the plan that is done, 0 to 1."""
        done = step / self.steps if self.steps is not None else seconds / (60 * (self.minutes or 1))
        return min(done, 1.0)

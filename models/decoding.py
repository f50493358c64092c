"""How a model is asked to write: the policy and all that is orthogonal to it, as one value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from models.numerals import number, whole
from models.trajectory_store import TrajectoryError
from models.turn import Option, PolicyError
from models.unmasking import POLICIES, policy_options, resolve_policy

TEMPERATURES = (1e-6, 1e6)
"""The least and the greatest above 0: further out, single precision turns logits into infinities."""


@dataclass(frozen=True)
class Stopping:
    """Writes all that is left at once when proposals are stable and confident (DiffusionGemma's ``StableAndConfidentStoppingCriteria``)."""

    stable: int = 1
    """For how many calls in a row, after the first to say so, every proposal must have been the same."""
    entropy: float = 0.005
    """Below which the mean entropy of the masked positions must be, in nats (of all positions, for a policy that redraws tokens)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stable", whole("stable", self.stable, PolicyError, least=1))
        object.__setattr__(self, "entropy", number("entropy", self.entropy, PolicyError))
        if self.entropy <= 0:
            raise PolicyError(f"entropy is {self.entropy}; it must be greater than 0 nats")


@dataclass(frozen=True)
class Decoding:
    """How to denoise: everything that determines a run besides the model, the prompt and the interventions."""

    policy: str = "low_confidence"
    """A name in ``models.unmasking.POLICIES``."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """The policy's own options; the rest take their defaults."""
    steps: int | None = None
    """At most so many steps, masked positions spread evenly over them. None writes one position a call, or as the policy says."""
    block_length: int | None = None
    """Writes so many positions before the next ones, left to right (semi-autoregressive: LLaDA, 2502.09992). None is all at once."""
    temperature: float = 0.0
    """0 proposes the most probable token; above (within ``TEMPERATURES``), a sample of the tempered distribution."""
    top_p: float = 1.0
    """Draws only from the most probable tokens that together reach this probability; it needs a temperature."""
    guidance: float = 0.0
    """Classifier-free guidance w: logits (1 + w) with the prompt less w without it, at two passes a call (LLaDA ``cfg_scale``)."""
    stop: Stopping | None = None
    seed: int = 0
    """Reproduces the run, 0 or greater. A sample's random numbers depend on it, its id and its call only, not on its batch."""

    def __post_init__(self) -> None:
        if not isinstance(self.options, Mapping):
            raise PolicyError(f"options are {self.options!r}; they must be a mapping of names to numbers, such as {{'threshold': 0.9}}")
        if not isinstance(self.stop, Stopping | None):
            raise PolicyError(f"stop is {self.stop!r}; it must be a Stopping, or None")
        object.__setattr__(self, "options", resolve_policy(self.policy, self.options))
        for name in ("steps", "block_length"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole(name, getattr(self, name), PolicyError, least=1))
        object.__setattr__(self, "seed", whole("seed", self.seed, PolicyError, most=None))
        for name in ("temperature", "top_p", "guidance"):
            object.__setattr__(self, name, number(name, getattr(self, name), PolicyError))
        self._check_chance()
        if not 0 <= self.guidance < math.inf:
            raise PolicyError(f"guidance is {self.guidance}; it must be 0 (none) or greater, and finite")

    def _check_chance(self) -> None:
        """Raises PolicyError on what no token can be drawn with."""
        least, most = TEMPERATURES
        if self.temperature and not least <= self.temperature <= most:
            raise PolicyError(f"temperature is {self.temperature}; it must be 0 (greedy), or {least:g} to {most:g}")
        if not 0 < self.top_p <= 1:
            raise PolicyError(f"top_p is {self.top_p}; it must be above 0, and 1 at most (all tokens)")
        if self.top_p < 1 and self.temperature == 0:
            raise PolicyError(f"top_p is {self.top_p} and the temperature 0, which draws nothing; give a temperature as well")


SETTINGS = ("block_length", "temperature", "top_p", "guidance", "stop_entropy", "stop_stable")
"""Names that ``decoding_with`` takes besides a policy's options; the last two make a ``Stopping``."""
_APART = ("policy", "options", "seed")


def stated(decoding: Decoding) -> dict[str, Any]:
    """Returns the policy's options and all else but policy and seed, as JSON can hold them."""
    rest = {name: value for name, value in asdict(decoding).items() if name not in _APART}
    return {**decoding.options, **rest}


def decoding_from(policy: str, options: Mapping[str, Any], seed: int) -> Decoding:
    """Returns what ``stated`` stated.

    Raises:
        TrajectoryError: Where it is not of a policy that is known here.
    """
    rest = {one.name for one in fields(Decoding)} - set(_APART)
    if policy not in POLICIES or not rest <= set(options):
        raise TrajectoryError(f"the trajectory was decoded by {policy!r}, which is no policy here; it can be looked at, not resumed")
    own = {name: value for name, value in options.items() if name not in rest}
    orthogonal = {name: options[name] for name in rest - {"stop"}}
    stop = options["stop"] and Stopping(**options["stop"])
    return Decoding(policy=policy, options=own, seed=seed, stop=stop, **orthogonal)


def decoding_with(policy: str, settings: Mapping[str, Option], *, steps: int | None = None, seed: int = 0) -> Decoding:
    """Returns a decoding from settings by name: options of the policy, and those of ``SETTINGS``.

    Raises:
        PolicyError: On an unknown policy or setting, naming the choices, or an impossible value.
    """
    known = policy_options(policy) if policy in POLICIES else {}
    unknown = set(settings) - set(known) - set(SETTINGS)
    if policy in POLICIES and unknown:
        choices = ", ".join((*known, *SETTINGS))
        raise PolicyError(f"policy {policy!r} has no setting {sorted(unknown)[0]!r}; choose from {choices}")
    values: dict[str, Any] = {
        name: whole(name, value, PolicyError, least=1) if name in ("block_length", "stop_stable") else number(name, value, PolicyError)
        for name, value in settings.items()
        if name in SETTINGS
    }
    stops = {name.removeprefix("stop_"): value for name, value in values.items() if name.startswith("stop_")}
    rest = {name: value for name, value in values.items() if not name.startswith("stop_")}
    stop = Stopping(**stops) if stops else None
    own = {name: value for name, value in settings.items() if name in known}
    return Decoding(policy=policy, options=own, steps=steps, seed=seed, stop=stop, **rest)

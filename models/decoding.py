"""How a model is asked to write: the policy and all that is orthogonal to it, as one value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from typing import Any

from models.trajectory import TrajectoryError
from models.turn import Option, PolicyError
from models.unmasking import POLICIES, policy_options, resolve_policy


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise PolicyError(f"{name} is {value!r}; it must be a number")
    return float(value)


def _whole(name: str, value: Any, *, least: int) -> int | None:
    if value is None and name != "seed":
        return None
    if _number(name, value) % 1:
        raise PolicyError(f"{name} is {value}; it must be a whole number")
    if value < least:
        raise PolicyError(f"{name} is {value}; it must be at least {int(least)}")
    return int(value)


def check_chance(temperature: float, top_p: float, seed: int) -> None:
    """Raises PolicyError on what no token can be drawn with."""
    if not 0 <= temperature < math.inf:
        raise PolicyError(f"temperature is {temperature}; it must be 0 (greedy) or greater, and finite")
    if not 0 < top_p <= 1:
        raise PolicyError(f"top_p is {top_p}; it must be above 0, and 1 at most (all tokens)")
    if top_p < 1 and temperature == 0:
        raise PolicyError(f"top_p is {top_p} and the temperature 0, which draws nothing; give a temperature as well")
    if seed < 0:
        raise PolicyError(f"seed is {seed}; it must be 0 or greater")


@dataclass(frozen=True)
class Stopping:
    """Writes all that is left at once when proposals are stable and confident (DiffusionGemma's ``StableAndConfidentStoppingCriteria``)."""

    stable: int = 1
    """For how many calls in a row, after the first to say so, every proposal must have been the same."""
    entropy: float = 0.005
    """Below which the mean entropy of the masked positions must be, in nats (of all positions, for a policy that redraws tokens)."""

    def __post_init__(self) -> None:
        if self.stable < 1:
            raise PolicyError(f"stable is {self.stable}; it must be at least 1 call")
        if not self.entropy > 0:
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
    """0 proposes the most probable token; above, a sample of the tempered distribution."""
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
        for name in ("steps", "block_length", "seed"):
            object.__setattr__(self, name, _whole(name, getattr(self, name), least=name != "seed"))
        for name in ("temperature", "top_p", "guidance"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        check_chance(self.temperature, self.top_p, self.seed)
        if not 0 <= self.guidance < math.inf:
            raise PolicyError(f"guidance is {self.guidance}; it must be 0 (none) or greater, and finite")


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
    values: dict[str, Any] = {name: float(settings[name]) for name in SETTINGS if name in settings}
    for name in ("block_length", "stop_stable"):
        if name in values and values[name] % 1:
            raise PolicyError(f"{name} is {settings[name]}; it must be a whole number")
        values |= {name: int(values[name])} if name in values else {}
    stops = {name.removeprefix("stop_"): value for name, value in values.items() if name.startswith("stop_")}
    rest = {name: value for name, value in values.items() if not name.startswith("stop_")}
    stop = Stopping(**stops) if stops else None
    own = {name: value for name, value in settings.items() if name in known}
    return Decoding(policy=policy, options=own, steps=steps, seed=seed, stop=stop, **rest)

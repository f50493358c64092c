"""Several answers to each prompt by many ways of writing, and what they are worth at equal quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.report import Estimate
from interp.scoring import estimate
from interp.statistics import Coordinate, Measured, Role, Statistic
from interp.transfer import Twins
from models.decoding import Decoding
from models.denoise import denoise
from models.language_model import LanguageModel
from models.left_to_right import LEFT_TO_RIGHT, write_left_to_right
from probes.metrics import bootstrap_mean, resample_counts

POLICIES = ("low_confidence", "random", "topk_margin")
THRESHOLD = "threshold"
OPTIONS = {THRESHOLD: {"threshold": 0.9}}
BATCH = 64
RESAMPLES = 1000
ROUNDING = 1e-9
ALL = "mean of policies"
MATCHED = (
    "Diversity of the diffusion model less that of the causal model where both are at least as good: at a level of quality each is as "
    "diverse as the most diverse of its temperatures that reaches the level; the difference is a mean over the levels of quality that both "
    "have (or the best that the worse one reaches; where one is better throughout and less diverse, nothing can be told and nothing is "
    "shown). Everything is found anew in each resample."
)
_LEFT_TO_RIGHT = LEFT_TO_RIGHT.replace("_", " ")


@dataclass(frozen=True)
class Setting:
    """One way of writing; of a causal model the temperature is all of it."""

    model: LanguageModel
    temperature: int
    """In percent."""
    policy: str = LEFT_TO_RIGHT
    calls: int | None = None
    """At most so many network calls a run; None is as many as it takes."""

    @property
    def causal(self) -> bool:
        """Whether it writes left to right."""
        return self.policy == LEFT_TO_RIGHT

    @property
    def writer(self) -> str:
        """All of it but the temperature."""
        calls = "" if self.calls is None else f", {self.calls} calls"
        return f"{self.model.name}, {_LEFT_TO_RIGHT if self.causal else self.policy}{calls}"

    def write(self, tokens: Int[Tensor, "row pos"], ids: range, seed: int) -> Int[Tensor, "row pos"]:
        """Returns rows written."""
        if self.causal:
            run = write_left_to_right(self.model, tokens, Decoding(temperature=self.temperature / 100, seed=seed), sample_ids=ids)
        else:
            options = OPTIONS.get(self.policy, {})
            how = Decoding(self.policy, options, steps=self.calls, temperature=self.temperature / 100, seed=seed)
            run = denoise(self.model, tokens, how, sample_ids=ids)
        return torch.from_numpy(run.tokens(-1))


@dataclass(frozen=True, eq=False)
class Sampled:
    """What the answers of one way of writing are worth: a value a prompt of each measure, NaN where it says nothing."""

    setting: Setting
    values: Mapping[str, Float[np.ndarray, " prompt"]]


def settings_of(twins: Twins, temperatures: Sequence[int], causal: Sequence[int], budgets: Sequence[int]) -> list[Setting]:
    """Returns the ways of writing to compare: the causal model's temperatures, and every policy, budget and temperature of the other.

    The random order makes runs differ at temperature 0 too. A threshold says itself how many calls it takes: with a budget that makes it
    write more than it is sure of, it is low confidence.
    """
    found = [Setting(twins.ar, one) for one in causal]
    found += [Setting(twins.diffusion, one, THRESHOLD) for one in temperatures]
    for calls in budgets:
        for policy in POLICIES:
            greedy = (0,) if policy == "random" else ()
            found += [Setting(twins.diffusion, one, policy, calls) for one in (*greedy, *temperatures)]
    return found


def draw(setting: Setting, prompts: Int[Tensor, "prompt pos"], samples: int, seed: int) -> Int[Tensor, "prompt sample pos"]:
    """Returns so many answers to each prompt."""
    rows = prompts.repeat_interleave(samples, 0)
    parts = [
        setting.write(rows[first : first + BATCH], range(first, min(first + BATCH, len(rows))), seed)
        for first in range(0, len(rows), BATCH)
    ]
    return torch.cat(parts).unflatten(0, (len(prompts), samples))


def over_prompts(values: Float[np.ndarray, " prompt"], seed: int) -> Estimate | None:
    """Returns the mean over the prompts that say anything; None where none does."""
    said = values[np.isfinite(values)]
    return estimate(bootstrap_mean(torch.from_numpy(said), seed=seed)) if len(said) else None


def _means(found: Sequence[Sampled], measure: str, counts: Float[np.ndarray, "prompt resample"]) -> Float[np.ndarray, "setting resample"]:
    values = np.stack([one.values[measure] for one in found])
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.nan_to_num(values) @ counts) / (np.isfinite(values) @ counts)


def _best(
    quality: Float[np.ndarray, "setting resample"],
    diverse: Float[np.ndarray, "setting resample"],
    levels: Float[np.ndarray, "level resample"],
) -> Float[np.ndarray, "level resample"]:
    """Returns the greatest diversity among the settings that are at least so good."""
    reached = quality >= levels[:, None] - ROUNDING
    return np.where(reached, np.nan_to_num(diverse, nan=-np.inf), -np.inf).max(1)


def _above(mine: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> Float[np.ndarray, " resample"]:
    """Returns by how much one frontier, of (quality, diversity) by setting and resample, lies above another."""
    highest = np.minimum(mine[0].max(0), other[0].max(0))
    lowest = np.minimum(highest, np.maximum(mine[0].min(0), other[0].min(0)))
    levels = np.concatenate([mine[0], other[0]]).clip(lowest, highest)
    with np.errstate(invalid="ignore"):
        return (_best(*mine, levels) - _best(*other, levels)).mean(0)


def _tells(mine: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], above: float) -> bool:
    """Returns whether a difference tells anything: not where one side is better throughout and pays for it with diversity."""
    better = mine[0][:, 0].min() > other[0][:, 0].max() + ROUNDING
    worse = mine[0][:, 0].max() < other[0][:, 0].min() - ROUNDING
    return bool(np.isfinite(above)) and not (better and above < 0) and not (worse and above > 0)


def at_equal_quality(
    writers: Sequence[Sequence[Sampled]], causal: Sequence[Sampled], quality: str, measure: str, *, lower_is_better: bool = False, seed: int
) -> Estimate | None:
    """Returns how much more diverse ways of writing are than the causal model where both are at least as good; None where nothing tells.

    At a level of quality each side is as diverse as the most diverse of its temperatures that reaches the level. The difference is a mean
    over levels, the qualities of all settings, cut to where both sides have settings: where all of one side's are better, to the best that
    the other side reaches. Then it tells something only where the better side is the more diverse one as well; a way of writing that is
    better throughout and less diverse, or the reverse, is left out. Prompts are resampled, the same for all, and everything but which are
    left out is found anew in each resample.

    Args:
        writers: Ways of writing, each at several temperatures; differences are averaged over them.
        causal: The causal model at several temperatures.
        quality: A measure.
        measure: Of diversity.
        lower_is_better: Of the quality.
        seed: Of the resampling.
    """
    n = len(next(iter(causal[0].values.values())))
    drawn = resample_counts(n, RESAMPLES, torch.Generator().manual_seed(seed)).double().numpy()
    counts = np.concatenate([np.ones((n, 1)), drawn], axis=1)

    def frontier(found: Sequence[Sampled]) -> tuple[np.ndarray, np.ndarray]:
        good = _means(found, quality, counts)
        return -good if lower_is_better else good, _means(found, measure, counts)

    other = frontier(causal)
    frontiers = [frontier(found) for found in writers]
    each = [(mine, _above(mine, other)) for mine in frontiers]
    told = [one for mine, one in each if _tells(mine, other, float(one[0]))]
    if not told:
        return None
    above = np.mean(told, axis=0)
    low, high = np.quantile(above[np.isfinite(above)], [0.025, 0.975])
    return Estimate(value=float(above[0]), low=float(low), high=float(high), n=n)


def by_writer(found: Sequence[Sampled]) -> dict[str, list[Sampled]]:
    """Returns what was sampled, by all of the setting but its temperature."""
    groups: dict[str, list[Sampled]] = {}
    for one in found:
        groups.setdefault(one.setting.writer, []).append(one)
    return groups


def temperature_values(found: Sequence[Sampled], measures: Sequence[str], axis: str, seed: int) -> list[Measured]:
    """Returns measures by writer and temperature; ``axis`` is what the measures' coordinate is called."""
    values = []
    for one in found:
        for measure in measures:
            if (mean := over_prompts(one.values[measure], seed)) is not None:
                at: dict[str, Coordinate] = {axis: measure, "writer": one.setting.writer, "temperature_in_percent": one.setting.temperature}
                values.append(Measured(at=at, estimate=mean))
    return values


def frontier_values(found: Sequence[Sampled], quality: tuple[str, str, int], measures: Sequence[str], seed: int) -> list[Measured]:
    """Returns measures of diversity over quality, a line a writer.

    Args:
        found: What was sampled.
        quality: The measure, the name of its axis, and how many of the axis's whole numbers are 1; two settings as good stand side by side.
        measures: Of diversity.
        seed: Of the intervals.
    """
    name, axis, scale = quality
    values = []
    for writer, settings in by_writer(found).items():
        taken: dict[int, Sampled] = {}
        for one in settings:
            place = round(scale * float(np.nanmean(one.values[name])))
            while place in taken:
                place += 1
            taken[place] = one
        for place, one in sorted(taken.items()):
            for measure in measures:
                if (mean := over_prompts(one.values[measure], seed)) is not None:
                    values.append(Measured(at={"measure": measure, "writer": writer, axis: place}, estimate=mean))
    return values


def fixed(value: float, n: int) -> Estimate:
    """Returns a figure that was calculated, not measured."""
    return Estimate(value=value, low=value, high=value, n=n)


def roles_in(values: Sequence[Measured], roles: Mapping[str, Role]) -> dict[str, Role]:
    """Returns the roles of the writers that are there."""
    there = {str(value.at["writer"]) for value in values}
    return {writer: role for writer, role in roles.items() if writer in there}


def matched_values(
    found: Sequence[Sampled], quality: str, measures: Sequence[str], *, lower_is_better: bool = False, seed: int
) -> list[Measured]:
    """Returns the differences at equal quality of each way of denoising, and in the mean of all."""
    causal = [one for one in found if one.setting.causal]
    writers = by_writer([one for one in found if not one.setting.causal])
    values = []
    for name, groups in {ALL: list(writers.values()), **{writer: [settings] for writer, settings in writers.items()}}.items():
        for measure in measures:
            above = at_equal_quality(groups, causal, quality, measure, lower_is_better=lower_is_better, seed=seed)
            if above is not None:
                values.append(Measured(at={"quality": quality, "writer": name, "measure": measure}, estimate=above))
    return values


def matched_statistic(name: str, how: str, values: list[Measured]) -> Statistic:
    """Returns the statistic of differences at equal quality."""
    return Statistic(
        name=name,
        title="Is diffusion more diverse at equal quality?",
        about=f"{MATCHED} {how}",
        unit="difference, above 0 diffusion is more diverse",
        panels=("quality",),
        lines=("writer",),
        x="measure",
        values=values,
    )

"""Are statements about a run merely readable, do they decide the cell's own output, or does the rest of the network use them?

What a statement claims is changed where it is read, in one call, and three things are looked at: the cell's own digit in that call, what
the rules demand of other cells in that call, and the rest of the run, in which nothing is pushed any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.faithfulness.aftermath import after_statistic
from interp.faithfulness.claims import CONCEPT_OF, PARTS, Claims
from interp.faithfulness.doses import FLOORS, RIVALS, Arm, Effect, length_statistic
from interp.faithfulness.trials import PUSH, Asked, How, Tested, push_claims
from interp.report import Estimate
from interp.scoring import estimate
from interp.statistics import Coordinate, Measured, Role, Statistic
from models.language_model import LanguageModel
from models.trajectory import Trajectory
from probes.metrics import bootstrap_mean, bootstrap_ratio

WRITTEN = "the digit written"


def _share(values: Float[Tensor, " claim"], claims: Claims, keep: Bool[Tensor, " claim"], seed: int) -> Estimate | None:
    """Returns the mean of yes-or-no outcomes."""
    return estimate(bootstrap_mean(values[keep], claims.sample[keep], seed=seed)) if keep.any() else None


def _nats(values: Float[Tensor, " claim"], claims: Claims, keep: Bool[Tensor, " claim"], seed: int) -> Estimate | None:
    """Returns the mean of a quantity of which 0 and 1 are no bounds; NaN does not count."""
    keep = keep & torch.isfinite(values)
    values = values[keep]
    return estimate(bootstrap_ratio(values, torch.ones_like(values), claims.sample[keep], seed=seed)) if keep.any() else None


def _ratio(effect: Effect, one: Tested, keep: Bool[Tensor, " claim"], seed: int) -> Estimate | None:
    """Returns the use within the call as a share of the use once the digit is written."""
    if not keep.any():
        return None
    return estimate(bootstrap_ratio(effect.use[keep], one.written.use[keep], one.claims.sample[keep], seed=seed))


def _measured(at: Mapping[str, Coordinate], found: Estimate | None) -> list[Measured]:
    return [] if found is None else [Measured(at=dict(at), estimate=found)]


def _roles(values: Sequence[Measured]) -> dict[str, Role]:
    lines = {str(one.at["push"]) for one in values}
    floors: dict[str, Role] = {name: "floor" for name in FLOORS if name in lines}
    return floors | {name: "reference" for name in (*RIVALS, WRITTEN) if name in lines}


def _by_layer(tested: Sequence[Tested], estimated: Callable[[Effect, Tested], Estimate | None], *, reference: bool) -> list[Measured]:
    """Returns a figure of every push of natural length, and (if asked) of the digit written."""
    values: list[Measured] = []
    for one in tested:
        for arm in one.arms:
            layers = dict.fromkeys(outcome.point.layer or 0 for outcome in one.outcomes if outcome.arm == arm)
            at: dict[str, Coordinate] = {"kind": one.kind, "directions": arm}
            for outcome in one.outcomes:
                if outcome.dose == 1 and outcome.arm == arm:
                    here: dict[str, Coordinate] = {"push": outcome.push, "layer": outcome.point.layer or 0}
                    values += _measured({**at, **here}, estimated(outcome.effect, one))
            for layer in layers if reference else ():
                values += _measured({**at, "push": WRITTEN, "layer": layer}, estimated(one.written, one))
    return values


def layer_statistics(tested: Sequence[Tested], seed: int) -> list[Statistic]:
    """Returns, by kind and layer, what pushes of natural length do: to the cell itself, to what the rules bind to it, to forced cells."""

    def every(one: Tested) -> Bool[Tensor, " claim"]:
        return torch.ones(len(one.claims), dtype=torch.bool)

    flips = _by_layer(tested, lambda effect, one: _share(effect.flipped, one.claims, every(one), seed), reference=False)
    use = _by_layer(tested, lambda effect, one: _nats(effect.use, one.claims, every(one), seed), reference=True)
    forced = _by_layer(tested, lambda effect, one: _nats(effect.consequence, one.claims, every(one), seed), reference=True)
    asked = (
        ("statement_flips", "Does a claim decide the cell's own digit?", ABOUT_FLIPS, "share of cells", flips),
        ("statement_use", "Do other cells use a claim within the call?", ABOUT_USE, "nats", use),
        ("statement_forced", "Does a forced cell follow a claim?", ABOUT_FORCED, "nats", forced),
    )
    return [
        Statistic(
            name=name,
            title=title,
            about=f"{PUSHED} {about}",
            unit=unit,
            panels=("kind", "directions"),
            lines=("push",),
            x="layer",
            roles=_roles(values),
            values=values,
        )
        for name, title, about, unit, values in asked
        if values
    ]


def _dose_values(tested: Sequence[Tested], asked: Asked, seed: int) -> list[Measured]:
    values: list[Measured] = []
    for one in tested:
        for arm in one.arms:
            point = one.choice(arm, asked)
            for outcome in one.of(arm, point):
                flips = _share(outcome.effect.flipped, one.claims, one.reported, seed)
                found = flips if asked == "flips" else _ratio(outcome.effect, one, one.reported, seed)
                at: dict[str, Coordinate] = {"kind": one.kind, "directions": arm, "layer": point.layer or 0, "push": outcome.push}
                values += _measured({**at, "dose": round(outcome.dose * 100)}, found)
    return sorted(values, key=lambda one: int(one.at["dose"]))


def dose_statistics(tested: Sequence[Tested], seed: int) -> list[Statistic]:
    """Returns the dose-response of flips and of use, by kind, of each arm at the layer where it has most of it on other boards."""
    asked: tuple[tuple[str, str, Asked, str, str], ...] = (
        ("statement_doses", "How long must a push be to decide the cell's own digit?", "flips", "share of cells", ABOUT_FLIPS),
        ("statement_use_doses", "How long must a push be to be used by other cells?", "use", RATIO, ABOUT_USE),
    )
    found = []
    for name, title, what, unit, about in asked:
        values = _dose_values(tested, what, seed)
        found.append(
            Statistic(
                name=name,
                title=title,
                about=f"{PUSHED} {about} {ABOUT_DOSES}",
                unit=unit,
                panels=("kind", "directions", "layer"),
                lines=("push",),
                x="dose",
                log_x=True,
                roles=_roles(values),
                values=values,
            )
        )
    return found


def every_dose_statistic(tested: Sequence[Tested], seed: int) -> Statistic:
    """Returns the share of flips at every dose and layer, by kind, of each arm."""
    values: list[Measured] = []
    for one in tested:
        for outcome in one.outcomes:
            if outcome.push == PUSH:
                at: dict[str, Coordinate] = {"kind": one.kind, "directions": outcome.arm, "layer": outcome.point.layer or 0}
                values += _measured(
                    {**at, "dose": round(outcome.dose * 100)}, _share(outcome.effect.flipped, one.claims, one.reported, seed)
                )
    return Statistic(
        name="statement_dose_layers",
        title="Which dose decides the cell's own digit, at which layer?",
        about=f"{PUSHED} {ABOUT_FLIPS} Doses are in hundredths of the natural length; boards with odd numbers.",
        unit="share of cells",
        panels=("kind",),
        lines=("directions", "layer"),
        x="dose",
        log_x=True,
        values=values,
    )


def part_statistic(tested: Sequence[Tested], seed: int) -> Statistic:
    """Returns how much of the use comes within the call, by third of the run, of each arm at the layer chosen on other boards."""
    values: list[Measured] = []
    for one in tested:
        for arm in one.arms:
            point = one.choice(arm, "use")
            for part, name in enumerate(PARTS):
                for outcome in one.of(arm, point):
                    if outcome.dose == 1:
                        at: dict[str, Coordinate] = {"kind": one.kind, "directions": arm, "layer": point.layer or 0}
                        values += _measured(
                            {**at, "push": outcome.push, "part": name},
                            _ratio(outcome.effect, one, (one.claims.part == part) & one.reported, seed),
                        )
    return Statistic(
        name="statement_parts",
        title="When do other cells use a claim before it is written?",
        about=f"{PUSHED} {ABOUT_USE} {ABOUT_PARTS}",
        unit=RATIO,
        panels=("kind", "directions", "layer"),
        lines=("push",),
        x="part",
        roles=_roles(values),
        values=values,
    )


RATIO = "use in the call over use once written"
PUSHED = (
    "What a statement claims is pushed out, and another digit in, at the position where it is read, in one call. A push of length 1 is as "
    "long as the classes' means are apart along the directions: a reader's patterns (what varies with its scores), its weights, or those "
    "of a native fit. Controls are as long as the push: random directions; the same directions of two digits that the claim is not about; "
    "the push itself at an unwritten cell that shares no unit. For comparison, other directions of the same two digits: another concept's, "
    "and what the output reads. One claim a board and third of the run; intervals resample boards."
)
ABOUT_FLIPS = "Share of cells whose likeliest digit becomes the one pushed towards, in the same call."
ABOUT_USE = (
    "What the rules demand in the same call: for a claim about its own cell, that unwritten cells of its units lose the digit pushed "
    "towards and win the one pushed out; for a reason read at another cell, that the named cell loses the digit pushed in there. Less the "
    "same on unwritten cells that share no unit. For comparison, writing that digit into the cell instead."
)
ABOUT_FORCED = (
    "Unwritten cells of the claim's units with two candidates, one of them the digit pushed towards: how far the log-probability of the "
    "other candidate rises over it, in the same call. For comparison, writing that digit into the cell instead."
)
ABOUT_DOSES = (
    "The layer is that with most of it over all doses on boards with even numbers; the figures are of those with odd numbers. Doses are in "
    "hundredths of the natural length; controls other than a random direction were made at 100 only."
)
ABOUT_PARTS = "The layer (of most use) was chosen on boards with even numbers; the figures are of those with odd numbers."


def statement_statistics(
    model: LanguageModel, run: Trajectory, claims: Mapping[str, Claims], arms: Mapping[str, Arm], how: How
) -> list[Statistic]:
    """Returns everything that the statement-level causal test measures.

    Args:
        model: The model of the run.
        run: What the claims are about.
        claims: By kind (``CONCEPT_OF``); how the run goes on after a push is measured for the first.
        arms: Where directions come from; the first that has directions for a kind is the one that ``support`` judges it by.
        how: Doses, draws and seed.
    """
    tested = []
    for done, (kind, some) in enumerate(claims.items()):
        how.on_step(done, len(claims) + 1)
        tested.append(push_claims(model, kind, some, arms, how))
    how.on_step(len(claims), len(claims) + 1)
    first = tested[0]
    point = first.choice(first.arms[0], "flips")
    directions = arms[first.arms[0]][CONCEPT_OF[first.kind], point].vectors
    found = [
        *dose_statistics(tested, how.seed),
        *layer_statistics(tested, how.seed),
        every_dose_statistic(tested, how.seed),
        length_statistic(claims, arms, how.seed),
        part_statistic(tested, how.seed),
        after_statistic(model, run, first.claims, point, directions, how.seed),
    ]
    how.on_step(len(claims) + 1, len(claims) + 1)
    return found

"""``report.json``: everything a run measured, in one versioned schema."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]


class Entry(BaseModel):
    """A part of a results file: immutable, and strict about its names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Entry):
    """A figure with its 95 % bootstrap interval, resampled by puzzle."""

    value: float
    low: float
    high: float
    n: int = Field(description="Independent units it rests on: puzzles, never tokens.")


class ModelEntry(Entry):
    """One twin."""

    name: str
    parameters: int
    facts: dict[str, str | int | None]


class EvaluationEntry(Entry):
    """How well one twin solves unseen boards."""

    model: str
    boards: str = Field(description="Which boards: the rung of the difficulty ladder.")
    policy: str = Field(description="Unmasking policy, or `greedy` for a causal model written left to right.")
    n: int
    exact: Estimate = Field(description="Share of boards equal to the only solution.")
    valid: Estimate = Field(description="Share of boards that keep every rule and every given.")
    cells: Estimate = Field(description="Share of the cells not given that are right.")
    steps: float = Field(description="Mean network calls a board.")
    seconds: float


class Scores(Entry):
    """How well one reader does at some sites of puzzles or documents that it was not fitted on."""

    auc: Estimate = Field(description="Area under the ROC curve, averaged over heads; .5 is chance.")
    matched: Estimate = Field(
        description="The same, comparing only sites of one mask rate: what knowing the mask rate alone adds to `auc` is missing here."
    )
    accuracy: Estimate = Field(description="Share of heads on the right side of their thresholds, over all sites.")
    calibration: float = Field(description="Expected calibration error of the probabilities, all heads together; 0 is perfect.")
    exact: Estimate = Field(description="Share of sites wholly right: every head; for exclusive heads, the likeliest is the true one.")


CONTROLS = ("shuffled", "untrained", "input_only")
"""What stands beside every score of a probe; see ``ProbeEntry.scores``."""
CEILING = "native"
AT_HOME = ("source", CEILING)
"""What no reader was moved for."""


class ProbeEntry(Entry):
    """One concept read at one hook point by one kind of reader, with its controls: without them it cannot be made."""

    concept: str
    reader: str = Field(description="How probes were fitted: `logistic`, ...")
    hook_point: str
    layer: int
    heads: tuple[str, ...] = Field(description="What was read, one name a yes-or-no question.")
    left_out: tuple[str, ...] = Field(default=(), description="Heads of the concept that are nearly always, or never, true here.")
    read_at: str | None = Field(default=None, description="Where the other model is read, if not at the hook point of this name.")
    fitted_at: float | None = Field(default=None, description="Fitted on sites within .1 of this mask rate alone; null is on all.")
    seed: int = Field(description="Of the split into puzzles to fit and to score on, the masks, the draws and the controls.")
    mask_rate: float | None = Field(default=None, description="Only sites within .1 of this mask rate; null is all.")
    kind: str | None = Field(default=None, description="Only positions of this kind; null is all.")
    step: int | None = Field(default=None, description="Only this network call of denoising runs; null is all.")
    sites: int = Field(description="Places scored; the independent units are in every estimate's n.")
    scores: dict[str, Scores] = Field(
        description="`source`: fitted and scored on the first model. `zero_shot`: the same probe on the other model, as it is; under the "
        "name of an alignment: on the other model's activations, moved without labels (`affine 100 pairs`: by a map fitted on so few). "
        "`refit 1.0%`: adjusted there with so many labels. "
        "`native`, the ceiling: fitted there with all. Floors: `shuffled`, fitted with labels of other rows; `untrained`, fitted and "
        "scored on a network of shuffled weights. Baseline: `input_only`, a logistic reader given visible tokens and no network."
    )

    @model_validator(mode="after")
    def _has_controls(self) -> ProbeEntry:
        moved = set(self.scores) - {*CONTROLS, *AT_HOME}
        missing = [name for name in (*CONTROLS, *((CEILING,) if moved else ())) if name not in self.scores]
        if missing:
            raise ValueError(f"{self.concept!r} at {self.hook_point} lacks {', '.join(missing)}; a probe's score comes with its controls")
        return self

    def beats(self, name: str, *controls: str) -> bool:
        """Returns whether the AUC interval of a score lies above those of all these controls."""
        return all(self.scores[name].auc.low > self.scores[control].auc.high for control in controls)

    def kept(self, name: str) -> float:
        """Returns the share of the ceiling's AUC over the higher floor that a score keeps; NaN where the ceiling does not beat it."""
        floor = max(self.scores[control].auc.value for control in ("shuffled", "untrained"))
        room = self.scores[CEILING].auc.value - floor
        return (self.scores[name].auc.value - floor) / room if room > 0 else float("nan")


class SpliceScores(Entry):
    """What an SAE's reconstructions cost a model, in nats a token, at the tokens it is to predict: cross-entropies of the true tokens."""

    hook_point: str
    layer: int
    spliced_at: str = Field(description="`everywhere`, or the kinds of positions whose predicting activations were replaced.")
    weights: Literal["tokens", "bound"] = Field(
        description="`tokens`: every token counts once. `bound`: canvases count so that the sum is the denoising bound (MDLM, LLaDA)."
    )
    mask_rate: float | None = Field(description="Only tokens seen from within .1 of this mask rate; null is all.")
    tokens: int = Field(description="Scored.")
    clean: Estimate = Field(description="Of the untouched model.")
    spliced: Estimate = Field(description="With the SAE's reconstructions.")
    zero: Estimate = Field(description="With zeros in their place.")
    mean: Estimate = Field(description="With the mean of what was replaced in their place.")
    delta: Estimate = Field(description="`spliced` - `clean`; below 0 the reconstructions serve better than the activations.")
    recovered: Estimate = Field(description="(`zero` - `spliced`) / (`zero` - `clean`): 1 is as good as untouched, 0 as bad as zeros.")
    recovered_over_mean: Estimate = Field(description="The same with `mean` in place of `zero`: the harder floor.")
    kl: Estimate = Field(description="KL divergence of the spliced model's predictions from the clean one's, KL(clean || spliced).")


class SaeScores(Entry):
    """A sparse autoencoder on one set of activations."""

    fvu: Estimate = Field(description="Fraction of variance unexplained, 0 is perfect.")
    l0: float = Field(description="Mean number of active latents.")
    dead: Share = Field(description="Share of latents that never fire on these activations.")
    dense: Share = Field(description="Share of latents that fire on more than a tenth of them.")
    n: int = Field(description="Activations scored.")
    spliced: SpliceScores | None = Field(default=None, description="Null where it was not measured.")
    bound: SpliceScores | None = Field(default=None, description="The same of the denoising bound, over all sites.")
    probing: dict[str, float] = Field(
        default_factory=dict, description="By concept and number of latents (`digit, 1`): mean AUC of probes that may use so few."
    )


class MatchEntry(Entry):
    """How near the decoder directions of one SAE lie to the nearest of another's."""

    mean: float = Field(description="Mean of the largest cosines.")
    above_07: Share
    above_09: Share
    chance: float = Field(description="The mean for as many random directions.")


class CrosscoderEntry(Entry):
    """One dictionary for both models, fitted on activations of the same sites in the same views, scored on other puzzles or documents."""

    pairs: int = Field(description="Activations of either model that it was fitted on.")
    fvu_source: float = Field(description="Fraction of variance unexplained on the first model.")
    fvu_target: float = Field(description="... and on the other one.")
    l0: float
    dead: Share
    n: int = Field(description="Pairs scored.")
    by_scaling: dict[str, int] = Field(description="Latents of each kind, by Latent Scaling: shared, of one model only, ...")
    by_norm: dict[str, int] = Field(description="The same by the norms of decoder rows, which misjudge rare ones.")


SAE_FLOORS = ("rotated", "untrained")


class SaeEntry(Entry):
    """SAEs of one hook point, with their controls: without them it cannot be made."""

    hook_point: str
    layer: int
    architecture: str
    d_in: int
    d_sae: int
    training_activations: int
    seed: int
    mask_rate: float | None = Field(default=None, description="Only sites within .1 of this mask rate; null is all.")
    kind: str | None = Field(default=None, description="Only positions of this kind; null is all.")
    step: int | None = Field(default=None, description="Only this network call of denoising runs; null is all.")
    scores: dict[str, SaeScores] = Field(
        description="`source`: fitted and scored on the first model. `zero_shot`: the same SAE on the other one, as it is; `matched`: with "
        "activations shifted and scaled to the first one's mean and size; `stitched`: through affine maps there and back. `tuned 1000`: "
        "that, trained on with so many activations (`frozen 1000`: all but the decoder); `scratch 1000`: trained on them alone. "
        "`native`, the ceiling: fitted there with as many as the first one. Floors: `rotated`, turned by a random rotation about the mean; "
        "`untrained`, fitted on a network of shuffled weights, and stitched."
    )
    matches: dict[str, MatchEntry] = Field(
        default_factory=dict, description="`native`: the SAE and the native one. `seeds`: the native one and a second one, the ceiling."
    )
    crosscoder: CrosscoderEntry | None = Field(default=None, description="Null where none was asked for, and in slices.")
    states: dict[str, int] = Field(default_factory=dict, description="What became of the latents on the other model: how many of each.")

    @model_validator(mode="after")
    def _has_controls(self) -> SaeEntry:
        missing = [name for name in (*SAE_FLOORS, *((CEILING,) if "zero_shot" in self.scores else ())) if name not in self.scores]
        if missing:
            raise ValueError(f"the SAE at {self.hook_point} lacks {', '.join(missing)}; its scores come with their controls")
        return self


T = TypeVar("T", ProbeEntry, SaeEntry)


def over_all_sites(entries: Iterable[T]) -> list[T]:
    """Returns the entries that are not of a slice of the sites."""
    return [entry for entry in entries if entry.mask_rate is None and entry.kind is None and entry.step is None]


class ReadingEntry(Entry):
    """The pseudo chain of thought over all traced boards."""

    reader: str
    boards: int
    policy: str
    statements: dict[str, int] = Field(description="Number of statements of each kind.")
    sound: Estimate = Field(description="Share of checkable statements that the symbolic solver confirms.")
    sound_by_kind: dict[str, Estimate]
    random_reader_sound: Estimate = Field(description="Control: the same narration with a random direction in place of each probe.")
    random_reader_statements: int
    coverage: Estimate = Field(description="Share of written cells that some justification names.")
    lead_steps: Estimate = Field(description="Steps between the first step at which a cell's digit was readable and its writing.")
    revised: Share = Field(description="Share of written cells that were later changed.")


class FaithfulnessEntry(Entry):
    """Adding (an excluded digit minus the model's digit) along a moved probe's directions at one cell and step, then resuming."""

    hook_point: str
    layer: int
    dose: float = Field(description="Length of the push over its natural length, the distance between class means on the causal twin.")
    own_cell_flipped: Estimate = Field(description="Share of cells whose written digit becomes the pushed one, in the same call.")
    own_cell_flipped_random: Estimate
    unit_moved: Estimate = Field(
        description="Mean absolute change, in nats, of the log-probability of the pushed digit at unwritten cells of the same units."
    )
    unit_moved_random: Estimate
    elsewhere_moved: Estimate = Field(description="The same at unwritten cells that share no unit.")
    elsewhere_moved_random: Estimate
    final_changed: Estimate = Field(description="Share of the other cells' final digits that differ after resuming to the end.")
    final_changed_random: Estimate


class Report(Entry):
    """All figures of one run."""

    schema_version: Literal[1] = 1
    task: str
    seed: int
    models: list[ModelEntry]
    evaluation: list[EvaluationEntry]
    probes: list[ProbeEntry]
    saes: list[SaeEntry]
    reading: ReadingEntry
    faithfulness: list[FaithfulnessEntry]
    seconds: dict[str, float] = Field(description="Wall-clock seconds by stage, and `total`.")
    findings: list[str] = Field(description="What the figures say, in sentences, whichever way they came out.")


def write_report(report: Report, path: Path) -> None:
    """Writes a report as JSON."""
    path.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_report(path: Path) -> Report:
    """Returns a report; raises pydantic's ValidationError where it does not fit the schema."""
    return Report.model_validate_json(path.read_text(encoding="utf-8"))

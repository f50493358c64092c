"""``report.json``: everything a run measured, in one versioned schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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


class ProbeEntry(Entry):
    """One concept at one hook point; every score is the AUC averaged over the concept's heads, on puzzles no probe was fitted on."""

    concept: str
    hook_point: str
    layer: int
    heads: int
    ar_on_ar: Estimate = Field(description="Probe fitted and scored on the causal twin.")
    zero_shot: Estimate = Field(description="The same probe on the diffusion twin, as it is.")
    mean_shift: Estimate = Field(
        description="... after moving the diffusion twin's mean onto the causal twin's. Equal to `zero_shot` by construction: a constant "
        "changes no ranking; what it does to thresholds stands in `all_right`."
    )
    affine: Estimate = Field(description="... through a ridge-affine map fitted on unlabelled pairs.")
    native: Estimate = Field(description="Ceiling: probe fitted on the diffusion twin.")
    shuffled: Estimate = Field(description="Floor: fitted on the causal twin with labels of other rows, scored on the diffusion twin.")
    untrained: Estimate = Field(description="Floor: fitted and scored on a network of the same shape with random weights.")
    input_only: Estimate = Field(description="Baseline: the same reader on the visible tokens of the cell's 20 peers, no network.")
    all_right: dict[str, Estimate] = Field(
        description="Share of sites with every head on the right side of its threshold, which a shift does move: `ar_on_ar`, `zero_shot`, "
        "`mean_shift`, `affine`, `native`, `shuffled`."
    )
    zero_shot_by_mask_rate: dict[str, Estimate] = Field(description="Zero-shot score by the share of masked cells, at 5 rates.")
    beats_floors: bool = Field(description="The zero-shot interval lies above those of `shuffled` and `untrained`.")
    beats_input: bool = Field(description="The zero-shot interval lies above that of `input_only`.")


class SaeScores(Entry):
    """A sparse autoencoder on one set of activations."""

    fvu: float = Field(description="Fraction of variance unexplained, 0 is perfect.")
    l0: float = Field(description="Mean number of active latents.")
    dead: Share = Field(description="Share of latents that never fire on these activations.")
    n: int = Field(description="Activations scored.")


class SaeEntry(Entry):
    """An SAE fitted on the causal twin, measured on both."""

    hook_point: str
    architecture: str
    d_in: int
    d_sae: int
    training_activations: int
    ar: SaeScores
    diffusion: SaeScores = Field(description="All mask rates together.")
    diffusion_by_mask_rate: dict[str, SaeScores]
    random_rotation: SaeScores = Field(description="Floor: the diffusion activations (about their mean) turned by a random rotation.")
    native: SaeScores = Field(description="Ceiling: an SAE of the same recipe fitted on the diffusion twin, on the same activations.")


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
    sae: SaeEntry
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

"""The whole road, once: harvest, probes and an SAE on the causal twin, transfer, denoising, pseudo chain of thought, its test, a page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from interp.boards import mixed_boards
from interp.clock import Clock, Progress
from interp.concepts import CONCEPTS
from interp.corpus import puzzle_corpus
from interp.faithfulness.pushing import causal_test, make_trial
from interp.features import transfer_saes
from interp.findings import findings
from interp.narration import Statement, narrate, to_jsonl
from interp.reading import CALIBRATED_ON, NARRATED, Reader, Reading, harvest_runs, read, reader_sets, save_readers
from interp.report import EvaluationEntry, ProbeEntry, Report, write_report
from interp.scoring import estimate
from interp.tellers import BoardAccount, solutions_of
from interp.transfer import Twins, collect, model_entry, transfer_entries
from interp.verdict import judge
from interp.viz.figures import REPORT_FIGURES, confidence_figure
from interp.viz.page import render_page, write_page
from interp.viz.sudoku_view import board_traces
from interp.viz.tables import report_tables
from models.decoding import Decoding
from models.denoise import denoise
from models.evaluate import evaluate
from models.hookpoints import resid_post
from models.load import load
from models.tasks.sudoku import generator
from models.tasks.sudoku.task import SUDOKU
from models.trajectory import Trajectory
from probes.metrics import bootstrap_mean
from probes.saes.files import save_sae
from probes.saes.recipe import SaeRecipe
from probes.saes.training import ROWS_A_LATENT

PROBED = ("candidates", "digit", "units", "technique")
"""The concepts whose transfer is measured."""


@dataclass(frozen=True)
class DemoSizes:
    """How much of everything the demo does."""

    evaluated: int = 100
    fitted: int = 300
    tested: int = 120
    traced: int = 24
    pushed: int = 60
    shown: int = 6
    sae_steps: int = 300


def _evaluations(twins: Twins, n: int, seed: int, on_batch: Callable[[int, int], None]) -> Iterator[EvaluationEntry]:
    for rung in generator.RUNGS:
        puzzles = generator.generate(n, rung, seed=seed)
        for model in (twins.ar, twins.diffusion):
            result = evaluate(model, puzzles, Decoding("threshold", seed=seed), on_batch=on_batch)
            shares = {
                name: estimate(bootstrap_mean(torch.from_numpy(values), seed=seed)) for name, values in asdict(result.verdicts).items()
            }
            yield EvaluationEntry(
                model=model.name,
                boards=rung,
                policy=result.policy,
                n=n,
                steps=float(result.calls.mean()),
                seconds=round(result.seconds, 2),
                **shares,
            )


def _accounts(
    twins: Twins, trajectory: Trajectory, readers: dict[str, Reader], controls: dict[str, Reader], on_step: Callable[[int, int], None]
) -> tuple[BoardAccount, list[Statement]]:
    """Returns the account by the readers, and what the controls would have had it say; one pass over the trajectory serves both."""
    both = read(twins.diffusion, trajectory, readers | {f"control {name}": reader for name, reader in controls.items()}, on_step)
    solutions = solutions_of(trajectory)
    own, control = (
        Reading(trajectory, chosen, {name: both.scores[prefix + name] for name in chosen})
        for prefix, chosen in (("", readers), ("control ", controls))
    )
    return BoardAccount(own, solutions, narrate(own)), narrate(control)


def run_demo(
    out: Path, *, seed: int = 0, sizes: DemoSizes = DemoSizes(), tell: Progress = lambda stage, done, total: None
) -> tuple[Report, list[Statement]]:
    """Runs the road on the bundled pair.

    Writes ``report.json``, ``reading.jsonl``, ``trace.zarr``, ``readers/``, ``sae/`` and ``index.html``. Every board is
    of the test stream, which no training saw; fit, test, traced and pushed boards are disjoint.

    Args:
        out: An existing folder.
        seed: Of boards, masks, draws and intervals.
        sizes: How much of everything.
        tell: Told (stage, done, total).

    Returns:
        The report, and the statements on the traced boards.
    """
    clock = Clock(tell)
    started = time.monotonic()
    with clock.stage("load"):
        twins = Twins(load("sudoku-ar"), load("sudoku-diffusion"))
    with clock.stage("evaluate") as on_batch:
        evaluation = list(_evaluations(twins, sizes.evaluated, seed + 1, on_batch))
    pool = mixed_boards(sizes.fitted + sizes.tested + sizes.traced + sizes.pushed, seed)
    cuts = np.cumsum([0, sizes.fitted, sizes.tested, sizes.traced, sizes.pushed])
    fitted, tested, traced, pushed = (pool[slice(*cuts[index : index + 2])] for index in range(4))
    points = [resid_post(layer) for layer in range(twins.ar.n_layers)]
    middle = resid_post(twins.ar.n_layers // 2)
    with clock.stage("harvest") as on_model:
        fit, test = (puzzle_corpus(twins.ar.task, part) for part in (fitted, tested))
        data = collect(twins, fit, test, points, seed=seed, on_model=on_model)
    with clock.stage("probes") as on_entry:
        table: list[ProbeEntry] = []
        for done, entries in enumerate(transfer_entries(data, [CONCEPTS[name] for name in PROBED], points, seed=seed), start=1):
            table += entries
            on_entry(done, len(points))
    with clock.stage("sae"):
        rows = min(len(part.fit.sites) for part in (data.ar, data.diffusion))
        recipe = SaeRecipe(d_sae=min(1024, rows // ROWS_A_LATENT), steps=sizes.sae_steps, seed=seed)
        sae, saes = transfer_saes(data, middle, recipe)
        save_sae(sae, out / "sae")
    with clock.stage("read") as on_step:
        held_out = harvest_runs(twins.diffusion, test, points, CALIBRATED_ON, seed=seed)
        concepts = [CONCEPTS[name] for name in NARRATED]
        sets = reader_sets(data, concepts, points, held_out=held_out, sources=("ar", "random"), seed=seed)
        readers, controls = sets["ar"], sets["random"]
        save_readers(readers, out / "readers")
        trajectory = denoise(twins.diffusion, SUDOKU.prompt(traced), Decoding("low_confidence", seed=seed))
        trajectory.save(out / "trace.zarr")
        account, control = _accounts(twins, trajectory, readers, controls, on_step)
        (out / "reading.jsonl").write_text(to_jsonl(account.statements), encoding="utf-8")
    with clock.stage("faithfulness") as on_step:
        trial = make_trial(twins.diffusion, puzzle_corpus(twins.diffusion.task, pushed), Decoding("threshold", seed=seed))
        causal = list(causal_test(twins.diffusion, data, CONCEPTS["candidates"], points[1:-1:2], trial, seed=seed, on_step=on_step))
    report = Report(
        task="sudoku",
        seed=seed,
        models=[model_entry(twins.ar), model_entry(twins.diffusion)],
        evaluation=evaluation,
        probes=table,
        saes=saes,
        reading=judge(account.reading, account.statements, control, seed=seed),
        faithfulness=causal,
        seconds={**clock.seconds, "total": round(time.monotonic() - started, 2)},
        findings=[],
    )
    report = report.model_copy(update={"findings": findings(report)})
    _write_page(report, account, sizes.shown, out / "index.html")
    write_report(report, out / "report.json")
    return report, account.statements


def _write_page(report: Report, account: BoardAccount, shown: int, path: Path) -> None:
    samples = range(min(shown, len(account.solutions)))
    traces = board_traces(account.reading, account.solutions, account.statements, samples)
    html = render_page(
        title="What a diffusion model was thinking while it solved sudoku",
        traces=traces,
        figures=[*(draw(report) for draw in REPORT_FIGURES.values()), confidence_figure(traces[0])],
        findings=report.findings,
        tables=report_tables(report),
    )
    write_page(html, path)

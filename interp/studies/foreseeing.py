"""Whether what a policy takes back is foreseen by readers of doubt, by the model's own confidence, or by the rules."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float

from interp.backtracking.doubters import DOUBT, Doubter, doubts
from interp.backtracking.fates import ASKED, FALSE_ALARMS, Fates, alarms, doubt_at_writing, fates, foresight
from interp.scoring import estimate
from interp.statistics import Coordinate, Measured, Statistic
from interp.studies.base import Request
from interp.studies.doubting import CLASH
from models.decoding import Decoding
from models.denoise import denoise
from models.language_model import LanguageModel
from models.tasks.sudoku.board import N_CELLS, conflicts
from models.tasks.sudoku.generator import Puzzles
from models.tasks.sudoku.task import SOLUTION, SUDOKU
from probes.metrics import Interval, bootstrap_mean

REVISING = ("mgdm", "token_editing", "remdm_cap", "remdm_rescale", "remdm_conf", "remdm_loop", "uniform_renoise")
AT_WRITING, BY_CHANCE = "doubt when written", "chance"


def watched(
    model: LanguageModel, decoding: Decoding, puzzles: Puzzles, readers: Mapping[str, Doubter], seed: int
) -> tuple[Fates, dict[str, Float[np.ndarray, "batch step cell"]]]:
    """Returns what becomes of the cells that a policy writes, and all that is said of them call by call."""
    run = denoise(model, SUDOKU.prompt(puzzles), decoding)
    whole = fates(run)
    shape = (run.n_samples, run.n_steps + 1, N_CELLS)
    canvases, place = np.unique(whole.token.reshape(-1, whole.token.shape[2]), axis=0, return_inverse=True)
    *said, own = doubts(model, torch.from_numpy(canvases), list(readers.values()))
    clash = torch.from_numpy(conflicts(SUDOKU.boards(canvases))).float()
    names, values = (*readers, DOUBT, CLASH), (*said, own, clash)
    scores = {name: one.double().numpy()[place.ravel()].reshape(shape) for name, one in zip(names, values, strict=True)}
    scores[AT_WRITING] = doubt_at_writing(run)[:, :, SOLUTION]
    scores[BY_CHANCE] = np.random.default_rng(seed).random(shape)
    return whole.only(SOLUTION), scores


def traced(model: LanguageModel, puzzles: Puzzles, readers: Mapping[str, Doubter], calls: int, request: Request) -> list[Statistic]:
    """Returns what each policy takes back on these boards, and how well it is foreseen."""
    told: dict[str, list[Measured]] = {"foresight": [], "alarms": [], "lead": [], "taken": []}
    truth = puzzles.solutions.astype(np.int64)
    with request.clock.stage("denoise") as tell:
        for done, policy in enumerate(REVISING):
            tell(done, len(REVISING))
            options = {"calls": calls} if policy.startswith("remdm") else {}
            found, scores = watched(model, Decoding(policy, options, seed=request.seed), puzzles, readers, request.seed)
            count = (found.standing & (found.end == found.step)).sum((1, 2))
            told["taken"].append(_one({"policy": policy, "what": "tokens"}, bootstrap_mean(torch.from_numpy(count), seed=request.seed)))
            for name, values in scores.items():
                for asked in ASKED:
                    area = foresight(found, truth, values, asked, request.seed)
                    if area is not None:
                        told["foresight"].append(_one({"asked": asked, "told by": name, "policy": policy}, area))
                rung = alarms(found, values, request.seed)
                if rung is not None:
                    at = {"told by": name, "policy": policy}
                    told["alarms"].append(_one({"measure": "seen coming", **at}, rung.coming))
                    told["lead"].append(_one(at, rung.lead))
                    if rung.precision is not None:
                        told["alarms"].append(_one({"measure": "alarms that come true", **at}, rung.precision))
    return _trace_statistics(told)


def _one(at: Mapping[str, Coordinate], interval: Interval) -> Measured:
    return Measured(at=dict(at), estimate=estimate(interval))


def _trace_statistics(told: Mapping[str, list[Measured]]) -> list[Statistic]:
    how = (
        f"An alarm goes off in {FALSE_ALARMS:.0%} of the readings of tokens that stay to the end, at most. A revision is seen coming if it "
        "was on in the call before; a reading in the very call that takes the token back does not count. "
    )
    return [
        Statistic(
            name="foresight",
            title="Is it foreseen what a policy takes back?",
            about="Among the written cells that one call reads: the chance that one that is taken back (changed or masked) scores above "
            "one that is not. `This call` is the call that reads and decides; the other questions are asked of the cells that it leaves "
            "standing. Mends and spoilings are told from tokens that stay to the end. Policies that draw what they take back (`remdm_cap`, "
            "`remdm_rescale`, `remdm_loop`) cannot be foreseen: there, 0.5 is what an honest measure says.",
            unit="AUC within a call",
            panels=("asked",),
            lines=("told by",),
            x="policy",
            roles={BY_CHANCE: "floor"},
            values=told["foresight"],
        ),
        Statistic(
            name="alarms",
            title="Alarms at a fixed rate of false ones",
            about=how + "Alarms that come true are followed by the token's being taken back later.",
            unit="share",
            panels=("measure",),
            lines=("told by",),
            x="policy",
            roles={BY_CHANCE: "floor"},
            values=told["alarms"],
        ),
        Statistic(
            name="lead",
            title="How long before a revision the alarm was on",
            about=how + "Calls without a break, 0 where it was not seen coming.",
            unit="calls",
            panels=(),
            lines=("told by",),
            x="policy",
            roles={BY_CHANCE: "floor"},
            values=told["lead"],
        ),
        Statistic(
            name="taken",
            title="Tokens taken back",
            about="Times a written token was changed or masked.",
            unit="a board",
            panels=(),
            lines=("what",),
            x="policy",
            values=told["taken"],
        ),
    ]

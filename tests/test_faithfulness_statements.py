"""The causal test of statements on planted networks: claims that are used, that decide their own cell only, that are only readable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from interp.concepts import CONCEPTS
from interp.faithfulness.aftermath import pushed_on, written_on
from interp.faithfulness.base import Case, FaithfulnessError
from interp.faithfulness.claims import Claims, claims_of, middle_calls
from interp.faithfulness.doses import (
    OTHER_CONCEPT,
    RANDOM,
    Directions,
    Nudge,
    controls,
    length_statistic,
    patterns_of,
    pushed,
    swap,
    unembedding,
    written,
)
from interp.faithfulness.statements import statement_statistics
from interp.faithfulness.support import STATEMENTS, arms_of, readable_statistic, statement_findings, support
from interp.faithfulness.trials import How
from interp.narration import Evidence, Statement
from interp.reading import Reader, read
from models.decoding import Decoding
from models.denoise import denoise
from models.hookpoints import HookPoint, resid_post
from models.language_model import LanguageModel, wrap
from models.tasks.sudoku.board import PEERS, UNITS_OF
from models.tasks.sudoku.generator import generate
from models.tasks.sudoku.task import SOLUTION, SUDOKU
from models.trajectory import Trajectory
from probes.linear import LinearProbe

BOARDS = 12
PUZZLES = generate(BOARDS, "naked_singles", seed=5)
FIRST, LAST = resid_post(0), resid_post(1)
CODE, MOVED, IDLE, UNIT, CONSTANT = slice(0, 9), slice(9, 18), slice(18, 27), slice(27, 54), slice(62, 64)
"""Parts of the planted residual stream: the digit a cell holds, what attention brought, digits nobody reads, units, and a constant."""


def planted(attended: slice) -> LanguageModel:
    """Returns a network that writes in each cell the digit of its position, less what it attends to in cells of the same units.

    A written digit stands in both parts of the stream that can be attended to.
    The constant is so great that the layer norms scale every canvas alike.
    """
    from models.architectures import ARCHITECTURES
    from models.architectures.base import set_attention
    from models.facts import CONFIG_KEY, ModelFacts

    family = ARCHITECTURES["gpt2"]
    module = family.build(vocab_size=12, n_positions=163, d_model=64, n_layers=2, n_heads=1, seed=0)
    set_attention(family, module.config, "full")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.fill_(1.0 if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")) else 0.0)
        body = module.transformer
        grid = torch.from_numpy(generate(1, "naked_singles", seed=9).solutions[0]).long()
        cells = torch.arange(81)
        at = cells + SOLUTION.start
        body.wpe.weight[at, grid - 1] = 1.0
        for kind in range(3):
            body.wpe.weight[at, UNIT.start + torch.from_numpy(UNITS_OF)[:, kind]] = 1.0
        body.wpe.weight[:, CONSTANT] = torch.tensor([200.0, -200.0])
        for digit in range(9):
            body.wte.weight[digit + 1, [digit, IDLE.start + digit]] = 4.0
        scale = 200.0 * (2 / 64) ** 0.5
        attention = body.h[1].attn
        query, key, value = (slice(64 * part, 64 * part + 64) for part in range(3))
        index, digits = torch.arange(UNIT.start, UNIT.stop), torch.arange(9)
        attention.c_attn.weight[index, query.start + index] = 2.0 * scale
        attention.c_attn.weight[index, key.start + index] = 8.0 * scale
        attention.c_attn.weight[attended.start + digits, value.start + digits] = scale
        attention.c_proj.weight[digits, MOVED.start + digits] = 20.0
        module.lm_head.weight[[0, 10, 11], CONSTANT.start] = -20.0
        for digit in range(9):
            module.lm_head.weight[digit + 1, digit] = 3.0 * scale
            module.lm_head.weight[digit + 1, MOVED.start + digit] = -1.0 * scale
    facts = ModelFacts(objective="masked", attention="full", logit_shift=0, mask_token_id=11, task="sudoku")
    setattr(module.config, CONFIG_KEY, facts.to_config())
    return wrap("planted", module.eval(), facts)


def along(part: slice) -> Directions:
    """Returns directions of nine digits in a part of the residual stream, twice as long as what is there."""
    return Directions(4.0 * torch.eye(64)[part], 1.0)


def ran(model: LanguageModel) -> Trajectory:
    return denoise(model, SUDOKU.prompt(PUZZLES), Decoding("low_confidence", steps=8))


def said_of(run: Trajectory, kind: str = "decided") -> list[Statement]:
    """Returns a statement about every cell that each middle call finds unwritten."""
    final, found = run.tokens(-1), []
    for step in middle_calls(run):
        for sample, position in np.argwhere(run.tokens(step - 1) == 11).tolist():
            near = [SOLUTION.start + int(cell) for cell in PEERS[position - SOLUTION.start]]
            digit = str(final[sample, position])
            evidence = tuple(Evidence("planted", str(FIRST), step, one, digit, 0.0) for one in near)
            found.append(Statement(sample, step, kind, "planted", (position,), digit, evidence))
    return found


@dataclass(frozen=True)
class _Case:
    model: LanguageModel
    run: Trajectory
    claims: Claims


@pytest.fixture(scope="module")
def case() -> Callable[..., _Case]:
    made: dict[int, _Case] = {}

    def make(attended: slice = CODE) -> _Case:
        if attended.start not in made:
            model = planted(attended)
            run = ran(model)
            made[attended.start] = _Case(model, run, claims_of(model, run, said_of(run), ["decided"], seed=1)["decided"])
        return made[attended.start]

    return make


@pytest.mark.parametrize(("attended", "part", "earned"), [(CODE, CODE, "used"), (IDLE, CODE, "decisive"), (CODE, IDLE, "readable")])
def test_a_claim_earns_what_was_planted(case: Callable[..., _Case], attended: slice, part: slice, earned: str) -> None:
    one = case(attended)
    arms = {"planted": {("digit", FIRST): along(part), ("digit", LAST): along(part)}}
    found = statement_statistics(one.model, one.run, {"decided": one.claims}, arms, How(doses=(0.01, 1.0)))
    assert support(found) == {"decided": earned}
    (sentence,) = statement_findings(found)
    assert sentence.endswith(f"Earned: {earned}.")


def test_a_push_grows_with_its_dose_and_no_dose_does_nothing(case: Callable[..., _Case]) -> None:
    one = case()
    nudge = Nudge(swap(along(CODE).vectors, one.claims), one.claims.cell)
    none, some, much = (pushed(one.model, one.claims, FIRST, nudge, dose) for dose in (0.0, 0.1, 0.5))
    assert none.use.abs().max() < 1e-4
    assert not none.flipped.any()
    assert float(some.use.mean()) < float(much.use.mean())
    assert (much.peers > much.elsewhere).all()


def test_after_the_last_layer_nothing_reaches_another_cell(case: Callable[..., _Case]) -> None:
    one = case()
    effect = pushed(one.model, one.claims, LAST, Nudge(swap(along(CODE).vectors, one.claims), one.claims.cell))
    assert effect.flipped.all()
    assert effect.use.abs().max() < 1e-5


def test_controls_are_as_long_as_the_push(case: Callable[..., _Case]) -> None:
    claims = case().claims
    directions, rival = along(CODE), Directions(9.0 * torch.eye(64)[IDLE], 1.0)
    length = swap(directions.vectors, claims).norm(dim=1)
    found = controls(directions, rival, unembedding(case().model), claims, draws=3, seed=0)
    assert len(found[RANDOM]) == 3
    for several in found.values():
        for one in several:
            torch.testing.assert_close(one.vectors.norm(dim=1), length)
    (other,) = found[OTHER_CONCEPT]
    assert not other.vectors[:, CODE].any()
    assert OTHER_CONCEPT not in controls(directions, None, unembedding(case().model), claims, draws=1, seed=0)


def test_what_the_output_reads_is_the_head_through_the_norm(case: Callable[..., _Case]) -> None:
    model = case().model
    torch.testing.assert_close(unembedding(model), model.module.lm_head.weight[1:10])


def test_claims_are_about_unwritten_cells_one_a_board_and_call(case: Callable[..., _Case]) -> None:
    one = case()
    claims, rows = one.claims, torch.arange(len(one.claims))
    assert (claims.tokens[rows, SOLUTION.start + claims.cell] == 11).all()
    assert (claims.tokens[rows, SOLUTION.start + claims.far] == 11).all()
    assert (claims.own != claims.other).all()
    places = list(zip(claims.sample.tolist(), claims.step.tolist(), strict=True))
    assert len(set(places)) == len(places)
    peers = torch.from_numpy(PEERS)[claims.cell]
    assert not (peers == claims.far[:, None]).any()
    weighted = claims.expected.abs().sum(2) > 0
    assert not weighted[rows, claims.cell].any()
    assert all(set(np.flatnonzero(weighted[row]).tolist()) <= set(peers[row].tolist()) for row in range(len(claims)))
    assert not (weighted & (claims.elsewhere.abs().sum(2) > 0)).any()
    torch.testing.assert_close(claims.expected.sum((1, 2)), torch.zeros(len(claims)), atol=1e-6, rtol=0)


def test_a_reason_is_put_in_question_at_its_evidence(case: Callable[..., _Case]) -> None:
    """The named cell, which holds the digit, must lose it where another cell of its units is pushed towards it."""
    one = case()
    claims = claims_of(one.model, one.run, said_of(one.run, "only_place"), ["decided", "only_place"], seed=2)["only_place"]
    named = claims.expected.abs().sum(2).argmax(1)
    assert (named != claims.cell).all()
    torch.testing.assert_close(claims.expected[torch.arange(len(claims)), named, claims.other - 1], -torch.ones(len(claims)))
    effect = pushed(one.model, claims, FIRST, Nudge(swap(along(CODE).vectors, claims), claims.cell))
    for found in (effect, written(one.model, claims)):
        assert (found.use > -1e-4).all()
        assert float((found.use > 0.1).float().mean()) > 0.5


def test_what_a_call_does_not_write_is_forgotten(case: Callable[..., _Case]) -> None:
    """Between calls there are only tokens: a push that changes none of those that its call writes leaves the rest of the run as it was."""
    one = case()
    claims = one.claims.rows(one.claims.part == 0)
    found = pushed_on(one.model, one.run, claims, FIRST, torch.zeros(len(claims), 64))
    assert found.same.all()
    pushed_far = pushed_on(one.model, one.run, claims, FIRST, swap(along(IDLE).vectors, claims))
    for aftermath in (found, pushed_far):
        assert not (aftermath.same & aftermath.later).any()
        assert not aftermath.others[aftermath.same].any()


def test_a_digit_written_by_hand_stays_and_a_push_leaves_tokens_or_nothing(case: Callable[..., _Case]) -> None:
    one = case()
    claims = one.claims.rows(one.claims.part == 1)
    assert written_on(one.model, one.run, claims).own.all()
    found = pushed_on(one.model, one.run, claims, FIRST, swap(along(CODE).vectors, claims))
    assert not (found.own.bool() & found.same).any()


def test_kinds_that_nobody_stated_are_named(case: Callable[..., _Case]) -> None:
    one = case()
    with pytest.raises(FaithfulnessError, match="no statement of the kinds elimination can be tested"):
        claims_of(one.model, one.run, said_of(one.run), ["elimination"])


def test_the_battery_names_the_readers_that_are_missing(case: Callable[..., _Case]) -> None:
    one = case()
    with pytest.raises(FaithfulnessError, match="readers are none; statements are tested with boards and readers of candidates, digit"):
        STATEMENTS.measure(Case(one.model, one.run, PUZZLES))


def reader_at(model: LanguageModel, point: HookPoint, part: slice = CODE, concept: str = "digit") -> Reader:
    """Returns a reader of digits in a part of the residual stream."""
    heads = CONCEPTS[concept].heads
    probe = LinearProbe(torch.eye(64)[part], torch.full((9,), -1.0), heads, "planted", "planted")
    return Reader(CONCEPTS[concept], point, probe, model.fingerprint, 1.0)


def test_arms_reach_every_layer_and_readers_their_own(case: Callable[..., _Case]) -> None:
    one = case()
    arms = arms_of(Case(one.model, one.run, PUZZLES), PUZZLES, {"digit": reader_at(one.model, FIRST)}, fits=("mass_mean", "ridge"))
    assert list(arms) == ["AR-trained patterns", "AR-trained weights", "native mass_mean", "native ridge"]
    assert set(arms["native mass_mean"]) == {("digit", FIRST), ("digit", LAST)}
    assert set(arms["AR-trained patterns"]) == set(arms["AR-trained weights"]) == {("digit", FIRST)}
    for arm in arms.values():
        assert torch.isfinite(arm["digit", FIRST].vectors).all()


def test_a_kind_is_judged_by_the_readers_and_not_by_a_better_arm(case: Callable[..., _Case]) -> None:
    """What the network's own directions do is reported beside, each arm at a layer of its own."""
    one = case()
    arms = {"readers": {("digit", FIRST): along(IDLE)}, "native": {("digit", FIRST): along(IDLE), ("digit", LAST): along(CODE)}}
    found = {one.name: one for one in statement_statistics(one.model, one.run, {"decided": one.claims}, arms, How(doses=(0.01, 1.0)))}
    assert support(list(found.values())) == {"decided": "readable"}
    doses = found["statement_doses"]
    assert doses.at(directions="readers", push="along the claim", dose=100).value == 0.0
    assert doses.at(directions="native", push="along the claim", dose=100, layer=1).value == 1.0
    (sentence,) = statement_findings(list(found.values()))
    assert "readers: the cell says the other digit: 0.00" in sentence
    assert "native: the cell says the other digit: 1.00" in sentence
    assert doses.at(directions="native", push=RANDOM, dose=100).value > 0.02
    assert "from dose" not in sentence, "a dose at which random directions flip cells too does not count"
    assert sentence.endswith("Judged by readers. Earned: readable.")


def test_another_concept_that_does_as_much_is_named(case: Callable[..., _Case]) -> None:
    one = case()
    arms = {"readers": {("digit", LAST): along(CODE), ("candidates", LAST): along(CODE)}}
    (sentence,) = statement_findings(statement_statistics(one.model, one.run, {"decided": one.claims}, arms, How(doses=(1.0,))))
    assert "the same digits of the other concept do as much: 1.00" in sentence


def test_no_move_at_all_is_known_exactly_but_no_flip_is_not(case: Callable[..., _Case]) -> None:
    """Nothing is downstream of the last layer, so the use is 0 by depth; a share of 0 of some boards is an estimate."""
    one = case()
    arms = {"readers": {("digit", LAST): along(IDLE)}}
    found = {one.name: one for one in statement_statistics(one.model, one.run, {"decided": one.claims}, arms, How(doses=(1.0,)))}
    use = found["statement_use"].at(push="along the claim", layer=1)
    assert max(abs(use.low), abs(use.high)) < 1e-5
    assert found["statement_flips"].at(push="along the claim", layer=1).high > 0.05


def test_a_pattern_moves_its_score_as_far_as_the_classes_are_apart() -> None:
    """And it is the class means' difference where the score tells the classes without error, whatever the weights cancel."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(400) % 2 == 0
    noise = torch.randn(400, generator=generator)
    noise -= torch.where(label, noise[label].mean(), noise[~label].mean())
    x = torch.stack([label.float() + noise, noise, torch.zeros(400)], 1)
    probe = LinearProbe(torch.tensor([[1.0, -1.0, 0.0]]), torch.zeros(1), ("head",), "planted", "planted")
    pattern = patterns_of(probe, x, label[:, None]).vectors
    torch.testing.assert_close(pattern, torch.tensor([[1.0, 0.0, 0.0]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(pattern @ probe.weight.T, torch.ones(1, 1), atol=1e-5, rtol=0)


def test_lengths_are_told_beside_the_layers_own_scale(case: Callable[..., _Case]) -> None:
    one = case()
    found = length_statistic({"decided": one.claims}, {"readers": {("digit", FIRST): Directions(2.0 * torch.eye(64)[CODE], 4.0)}}, 0)
    assert found.at(layer=0).value == pytest.approx(2.0 * 2**0.5 / 4.0)


def test_what_is_read_is_told_beside_false_alarms(case: Callable[..., _Case]) -> None:
    """The first layer holds the digit that the cell's position stands for, whatever the run ends with, at every cell."""
    one = case()
    reading = read(one.model, one.run, {"digit": reader_at(one.model, FIRST)})
    found = readable_statistic(reading, {"decided": one.claims}, seed=0)
    read_there, end = reading.readable("digit").values, one.run.tokens(-1)[:, SOLUTION]
    for part, name in enumerate(("early", "middle", "late")):
        some = one.claims.rows(one.claims.part == part)
        said = [read_there[sample, step, cell, digit - 1] for sample, step, cell, digit in _columns(some)]
        assert found.at(claim="read where it is stated", part=name).value == pytest.approx(np.mean(said))
        step = int(some.step[0])
        free = one.run.tokens(step - 1)[:, SOLUTION] == 11
        wrong = [
            np.mean(
                [(np.flatnonzero(read_there[sample, step, cell]) + 1 != end[sample, cell]).any() for cell in np.flatnonzero(free[sample])]
            )
            for sample in range(BOARDS)
            if free[sample].any()
        ]
        assert found.at(claim="read where it is false", part=name).value == pytest.approx(np.mean(wrong))


def _columns(claims: Claims) -> list[list[int]]:
    columns: list[list[int]] = torch.stack([claims.sample, claims.step, claims.cell, claims.stated], 1).tolist()
    return columns

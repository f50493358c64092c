"""Noise, losses, methods and the objective they make: against plain re-computations and what the papers say of them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from models.adapt import ANNEALED_UNTIL, METHODS, Adaptation, AdaptationError, annealed, misalignment
from models.architectures import ARCHITECTURES
from models.facts import ModelFacts
from models.losses import LOSSES, Noise, draw_noise
from models.network import Network
from models.objective import TrainingObjective, token_nll
from models.schedule import SCHEDULES
from models.tasks import Batch

POS, VOCAB, MASK = 20, 12, 11


def batch(rows: int = 3, seed: int = 1) -> Batch:
    target = torch.zeros(rows, POS, dtype=torch.bool)
    target[:, 8:] = True
    return Batch(torch.randint(0, MASK, (rows, POS), generator=torch.Generator().manual_seed(seed)), target)


class Table(PreTrainedModel):
    """A network whose logits at position i depend on the token there and on i."""

    def __init__(self) -> None:
        super().__init__(PreTrainedConfig(vocab_size=VOCAB, max_position_embeddings=POS))
        self.head = nn.Identity()
        self.table = nn.Parameter(torch.randn(POS, VOCAB, VOCAB, generator=torch.Generator().manual_seed(0)))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: bool) -> SimpleNamespace:
        hidden = self.table[torch.arange(input_ids.shape[1])[None], input_ids]
        self.visible = attention_mask
        return SimpleNamespace(logits=self.head(hidden), hidden_states=(hidden, hidden))

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def by_hand(tokens: Tensor, seen: Tensor, scored: Tensor, shift: int) -> list[float]:
    table, losses = Table().table.detach(), []
    for row, position in torch.nonzero(scored).tolist():
        said = table[position - shift, seen[row, position - shift]]
        losses.append(float(torch.logsumexp(said, 0) - said[tokens[row, position]]))
    return losses


def facts(shift: int = 1, masked: bool = True) -> ModelFacts:
    return ModelFacts(
        objective="masked" if masked else "causal",
        attention="full" if masked else "causal",
        logit_shift=shift,
        mask_token_id=MASK if masked else None,
        task="sudoku",
    )


def network(module: PreTrainedModel, shift: int = 1, masked: bool = True) -> Network:
    return Network(module, facts(shift, masked), ARCHITECTURES["gpt2"])


# ---------------------------------------------------------------- what is scored, and where


@pytest.mark.parametrize("shift", [0, 1])
def test_a_token_is_scored_at_the_position_that_predicts_it(shift: int) -> None:
    one = batch()
    scored = torch.rand(3, POS, generator=torch.Generator().manual_seed(3)) < 0.4
    scored[:, :1] = False
    seen = one.tokens.masked_fill(scored, MASK)
    nll, hidden = token_nll(network(Table(), shift), seen, one.tokens, scored)
    assert nll.tolist() == pytest.approx(by_hand(one.tokens, seen, scored, shift), rel=1e-5)
    assert len(hidden) == 0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_of_every_architecture_the_score_is_that_of_its_own_logits(name: str) -> None:
    architecture, one = ARCHITECTURES[name], batch()
    module = architecture.build(vocab_size=VOCAB, n_positions=POS, d_model=16, n_layers=1, n_heads=2).eval()
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim > 1:
                weight.normal_(generator=torch.Generator().manual_seed(5))  # so that logits reach a cap where there is one
    module.config.is_causal = False
    scored = torch.rand(3, POS, generator=torch.Generator().manual_seed(3)) < 0.4
    scored[:, :1] = False
    for shift in (0, 1):
        whole = Network(module, facts(shift), architecture)
        nll, _ = token_nll(whole, one.tokens, one.tokens, scored)
        logits = whole.raw(one.tokens)[:, : POS - shift][scored[:, shift:]]
        expected = nn.functional.cross_entropy(logits, one.tokens[scored], reduction="none")
        assert torch.allclose(nll, expected, rtol=1e-4, atol=1e-4)
    assert whole.raw(one.tokens).shape == (3, POS, VOCAB)  # the network is left as it was


@pytest.mark.parametrize("shift", [0, 1])
def test_the_masked_objective_is_the_mean_over_masked_tokens(shift: int) -> None:
    one, objective = batch(), TrainingObjective(network(Table(), shift), Adaptation("switch", logit_shift=shift), None)
    noise = objective.draw(one, torch.Generator().manual_seed(2))
    loss = objective(one, noise, 0.5, torch.Generator())
    expected = by_hand(one.tokens, one.tokens.masked_fill(noise.masked, MASK), noise.masked, shift)
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_causal_objective_is_over_the_target_given_all_before() -> None:
    one, objective = batch(), TrainingObjective(network(Table(), masked=False), None, None)
    assert objective.draw(one, torch.Generator()) is None
    loss = objective(one, None, 0.0, torch.Generator())
    assert loss.item() == pytest.approx(np.mean(by_hand(one.tokens, one.tokens, one.target, 1)), rel=1e-5)


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_rises_from_nothing_to_all_and_its_slope_is_its_derivative(name: str) -> None:
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    rate, slope = SCHEDULES[name](t)
    assert (rate[0].item(), rate[-1].item()) == pytest.approx((0.0, 1.0), abs=1e-12)
    assert (rate.diff() > 0).all()
    middle = SCHEDULES[name]((t[1:] + t[:-1]) / 2)[1]
    assert torch.allclose(middle, rate.diff() / t.diff(), atol=1e-5)
    assert (slope >= 0).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_masks_lie_in_the_target_at_the_stated_rates(name: str) -> None:
    target = torch.zeros(4000, 60, dtype=torch.bool)
    target[:, 10:] = True
    noise = draw_noise(target, name, torch.Generator().manual_seed(0))
    assert not noise.masked[:, :10].any()
    share = noise.masked[:, 10:].double().mean(1)
    assert (share - noise.rate).mean().abs() < 0.005
    assert ((share - noise.rate) / (noise.rate * (1 - noise.rate) / 50 + 1e-4).sqrt()).std().item() == pytest.approx(1.0, abs=0.1)
    spread = noise.rate.sort().values
    times = torch.linspace(0.02, 1, 4000)
    assert torch.allclose(spread, SCHEDULES[name](times)[0], atol=2e-3)  # evenly over time, not only on average


# ---------------------------------------------------------------- losses


def noise_of(masked: list[list[int]], rate: list[float], slope: list[float]) -> Noise:
    where = torch.tensor(masked, dtype=torch.bool)
    target = torch.ones_like(where)
    target[1, 3:] = False
    return Noise(where, target, torch.tensor(rate), torch.tensor(slope))


def test_each_loss_is_its_formula() -> None:
    noise = noise_of([[1, 0, 1, 0], [0, 1, 0, 0]], [0.5, 0.25], [1.0, 0.8])
    nll = torch.tensor([1.0, 2.0, 3.0])
    focal = [0.25 * (1 - math.exp(-u)) * u for u in (1.0, 2.0, 3.0)]
    expected = {
        "ce": (1 + 2 + 3) / 3,
        "mdlm": (1.0 / 0.5 * (1 + 2) + 0.8 / 0.25 * 3) / 7,
        "llada": ((1 + 2) / (0.5 * 4) + 3 / (0.25 * 3)) / 2,
        "mgdm": (11 * (focal[0] + focal[1]) + 16 * focal[2]) / 3,
    }
    assert {name: loss(nll, noise).item() for name, loss in LOSSES.items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_masked_costs_nothing(name: str) -> None:
    assert LOSSES[name](torch.zeros(0), noise_of([[0] * 4, [0] * 4], [0.1, 0.2], [1.0, 1.0])).item() == 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_bound_of_a_uniform_guess_is_the_log_of_the_vocabulary(schedule: str) -> None:
    """With the same nll u everywhere, E over t of rate'/rate times the masked share is u (1 - what lies before the earliest time)."""
    target = torch.ones(20_000, 40, dtype=torch.bool)
    noise = draw_noise(target, schedule, torch.Generator().manual_seed(1))
    loss = LOSSES["mdlm"](torch.full((int(noise.masked.sum()),), math.log(9)), noise)
    lost = SCHEDULES[schedule](torch.tensor([0.02]))[0].item()
    assert loss.item() == pytest.approx(math.log(9) * (1 - lost) / 0.98, rel=0.02)


# ---------------------------------------------------------------- methods


def test_annealing_opens_the_future_little_by_little_and_never_the_past() -> None:
    generator = torch.Generator().manual_seed(0)
    causal = torch.ones(200, 200, dtype=torch.bool).tril()
    for progress, share in ((0.0, 0.0), (0.1, 0.1 / ANNEALED_UNTIL), (ANNEALED_UNTIL, 1.0), (0.9, 1.0)):
        visible = annealed(200, progress, generator)
        assert visible[causal].all()
        assert visible[~causal].double().mean().item() == pytest.approx(share, abs=0.01)


def test_the_annealed_mask_reaches_the_network() -> None:
    one, table = batch(), Table()
    objective = TrainingObjective(network(table), Adaptation("anneal"), None)
    objective(one, objective.draw(one, torch.Generator()), 0.0, torch.Generator())
    assert torch.equal(table.visible[0, 0] == 0, torch.ones(POS, POS, dtype=torch.bool).tril())
    assert (table.visible[0, 0][table.visible[0, 0] != 0] < -1e30).all()


def test_alignment_is_nothing_between_equals_and_two_between_opposites() -> None:
    states = [torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(layer)) for layer in range(3)]
    assert misalignment(states, states).item() == pytest.approx(0.0, abs=1e-6)
    assert misalignment(states, [3 * state for state in states]).item() == pytest.approx(0.0, abs=1e-6)
    assert misalignment(states, [-state for state in states]).item() == pytest.approx(2.0, abs=1e-6)


def test_alignment_adds_its_penalty_and_leaves_the_twin_alone() -> None:
    one, twin = batch(), Table()
    ours = Table()
    with torch.no_grad():
        ours.table.mul_(-1)
    plain = TrainingObjective(network(ours), Adaptation("switch"), None)
    aligned = TrainingObjective(network(ours), Adaptation("align"), twin)
    noise = plain.draw(one, torch.Generator().manual_seed(4))
    difference = aligned(one, noise, 0.5, torch.Generator()) - plain(one, noise, 0.5, torch.Generator())
    seen = ours(one.tokens.masked_fill(noise.masked, MASK)).hidden_states[1:]
    expected = misalignment(seen, twin(one.tokens).hidden_states[1:])
    assert difference.item() == pytest.approx(expected.item(), abs=1e-5)
    aligned(one, noise, 0.5, torch.Generator()).backward()
    assert twin.table.grad is None
    assert ours.table.grad is not None


def test_every_method_says_what_it_is_and_only_scratch_needs_no_twin() -> None:
    assert [name for name, method in METHODS.items() if not method.from_twin] == ["scratch"]
    assert all(len(method.about) > 20 for method in METHODS.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "jump"}, "unknown method 'jump'; choose from switch, anneal, align, scratch"),
        ({"loss": "mse"}, "unknown loss 'mse'; choose from ce, mdlm, llada, mgdm"),
        ({"schedule": "sigmoid"}, "unknown schedule 'sigmoid'; choose from linear, cosine"),
        ({"logit_shift": 2}, "unknown logit_shift 2; choose from 0, 1"),
    ],
)
def test_an_unknown_part_is_named(changes: dict, message: str) -> None:
    with pytest.raises(AdaptationError, match=message):
        Adaptation(**changes)

"""Pushes: where they act, how far, what they must and cannot bring about, and that their controls go as far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from interp.steering import (
    Axes,
    Push,
    SteeringError,
    Watch,
    adding,
    axes_of,
    context_of,
    edits_of,
    erasing,
    removing,
    steering_effect,
    swapping,
)
from models.decoding import Decoding
from models.denoise import StepContext, denoise
from models.hookpoints import resid_post
from models.language_model import LanguageModel
from probes.erase import ERASERS
from probes.linear import LinearProbe, fit_logistic, fit_mass_mean
from probes.metrics import auc

MASK, LENGTH, D, BATCH = 11, 20, 32, 4
FIRST, LAST = resid_post(0), resid_post(1)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., LanguageModel]) -> LanguageModel:
    return tiny_model()


def canvases(seed: int = 0) -> Tensor:
    """Returns canvases whose last 12 tokens are unwritten."""
    tokens = torch.randint(0, MASK, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))
    tokens[:, 8:] = MASK
    return tokens


def at(*tokens: int) -> Tensor:
    """Returns the same tokens in every sample."""
    where = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    where[:, list(tokens)] = True
    return where


def vectors(length: float = 1.0, seed: int = 0) -> Tensor:
    return length * normalize(torch.randn(BATCH, D, generator=torch.Generator().manual_seed(seed)), dim=1)


def planted(heads: int = 3, rows: int = 400) -> tuple[Tensor, Tensor]:
    """Returns activations clustered by one of some heads, and which."""
    generator = torch.Generator().manual_seed(0)
    y = one_hot(torch.randint(heads, (rows,), generator=generator), heads).bool()
    return torch.randn(rows, D, generator=generator) + y.float() @ torch.randn(heads, D, generator=generator), y


def axes(heads: int = 3) -> Axes:
    x, y = planted(heads)
    return axes_of(fit_mass_mean(x, y, heads=[str(head) for head in range(heads)], fitted_on="here"), x, y)


def unembedding(model: LanguageModel, token: int) -> Tensor:
    """Returns the direction of the residual stream, read through the last norm, that speaks most for a token."""
    weight = model.module.lm_head.weight * model.module.transformer.ln_f.weight
    return normalize(weight[token] - weight.mean(0), dim=0)


def moved(model: LanguageModel, tokens: Tensor, *pushes: Push) -> Tensor:
    """Returns by how much the pushes change the activations of one call at the hook point of the first."""
    _, before = model.run_with_cache(tokens, [pushes[0].point])
    with model.hooks(edits_of(model, *pushes)(context_of(model, tokens))):
        _, after = model.run_with_cache(tokens, [pushes[0].point])
    return after[pushes[0].point] - before[pushes[0].point]


# ---------------------------------------------------------------- moves


def test_axes_are_where_the_class_means_lie() -> None:
    x, y = planted()
    found = axes()
    for head in range(3):
        apart = x[y[:, head]].mean(0) - x[~y[:, head]].mean(0)
        torch.testing.assert_close(found.natural[head], apart, atol=1e-4, rtol=0)  # mass-mean directions point from mean to mean
    probe = fit_logistic(x, y, heads=["0", "1", "2"], fitted_on="here")
    along = axes_of(probe, x, y)
    torch.testing.assert_close(along.natural.norm(dim=1), along.present - along.absent)
    assert (along.natural.norm(dim=1) <= found.natural.norm(dim=1) + 1e-4).all()  # no direction holds the means further apart


def test_removing_sets_one_coordinate_and_leaves_the_rest() -> None:
    x, head, sample = torch.randn(BATCH, D), torch.tensor([0, 1, 2, 1]), torch.arange(BATCH)
    found = axes()
    delta = removing(found, head)(x, sample)
    along = ((x + delta) * found.unit[head]).sum(1)
    torch.testing.assert_close(along, found.absent[head])
    torch.testing.assert_close(delta, (delta * found.unit[head]).sum(1, keepdim=True) * found.unit[head], atol=1e-5, rtol=0)
    torch.testing.assert_close(removing(found, head)(x + delta, sample), torch.zeros(BATCH, D), atol=1e-5, rtol=0)


def test_swapping_is_the_shortest_way_from_one_class_to_another() -> None:
    x, sample = torch.randn(BATCH, D), torch.arange(BATCH)
    source, target = torch.tensor([0, 1, 2, 1]), torch.tensor([1, 2, 0, 0])
    found = axes()
    delta = swapping(found, source, target)(x, sample)
    torch.testing.assert_close(((x + delta) * found.unit[source]).sum(1), found.absent[source], atol=1e-4, rtol=0)
    torch.testing.assert_close(((x + delta) * found.unit[target]).sum(1), found.present[target], atol=1e-4, rtol=0)
    for row in range(BATCH):
        plane = torch.linalg.qr(found.unit[[int(source[row]), int(target[row])]].T).Q
        torch.testing.assert_close(plane @ plane.T @ delta[row], delta[row], atol=1e-4, rtol=0)
    with pytest.raises(SteeringError, match="sample 1 swaps head 1 with itself"):
        swapping(found, source, source.clone().fill_(1))


def test_swapped_activations_are_read_as_the_other_head() -> None:
    x, y = planted()
    found = axes()
    probe = fit_mass_mean(x, y, heads=["0", "1", "2"], fitted_on="here")
    source = y.int().argmax(1)
    target = (source + 1) % 3
    swapped = x + swapping(found, source, target)(x, torch.arange(len(x)))
    assert (probe.scores(swapped).argmax(1) == target).float().mean() > 0.95


def test_an_eraser_as_a_move_blinds_the_reader() -> None:
    x, y = planted()
    eraser = ERASERS["leace"](x, y, heads=["0", "1", "2"], fitted_on="here")
    erased = x + erasing(eraser)(x, torch.arange(len(x)))
    torch.testing.assert_close(erased, eraser(x))
    probe = fit_mass_mean(x, y, heads=["0", "1", "2"], fitted_on="here")
    assert (auc(probe.scores(erased), y) - 0.5).abs().max() < 0.1 < auc(probe.scores(x), y).min() - 0.5


# ---------------------------------------------------------------- places


@pytest.mark.parametrize("shift", [0, 1])
def test_a_push_acts_where_its_tokens_are_predicted_and_nowhere_else(tiny_model: Callable[..., LanguageModel], shift: int) -> None:
    model, tokens = tiny_model(logit_shift=shift), canvases()
    found = moved(model, tokens, Push(FIRST, adding(vectors()), at(9, 12), dose=0.5))
    for token in range(LENGTH):
        expected = 0.5 * vectors() if token + shift in (9, 12) else torch.zeros(BATCH, D)
        torch.testing.assert_close(found[:, token], expected, atol=1e-5, rtol=0)


def test_a_sample_is_pushed_along_its_own_vector_whatever_its_place_in_the_call(model: LanguageModel) -> None:
    """Samples that are finished leave the batch: what is a sample's goes by its number."""
    push = Push(FIRST, adding(vectors()), at(9))
    rows, tokens = torch.tensor([2, 0]), canvases()[[2, 0]]
    edit = edits_of(model, push)(StepContext(5, rows, tokens, tokens == MASK))[FIRST]
    edited = edit(torch.zeros(2, LENGTH, D))
    assert edited is not None
    torch.testing.assert_close(edited[:, 8], vectors()[[2, 0]])


def test_a_control_goes_as_far_at_every_place_in_a_random_direction(model: LanguageModel) -> None:
    tokens = canvases()
    push = Push(LAST, removing(axes(), torch.zeros(BATCH, dtype=torch.long)), at(9, 10, 15), dose=1.5)
    own, control, other = (moved(model, tokens, one) for one in (push, push.control(0), push.control(1)))
    assert own.norm(dim=2)[:, [8, 9, 14]].min() > 0.01
    torch.testing.assert_close(control.norm(dim=2), own.norm(dim=2), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(control, other, atol=1e-2)
    assert torch.cosine_similarity(own[:, 8], control[:, 8]).abs().max() < 0.6


def test_pushes_at_one_point_follow_each_other_and_those_at_others_stand_beside(model: LanguageModel) -> None:
    tokens = canvases()
    push = Push(FIRST, adding(vectors(seed=0)), at(9))
    remove = Push(FIRST, removing(axes(), torch.ones(BATCH, dtype=torch.long)), at(9))
    both = moved(model, tokens, push, remove)
    _, cache = model.run_with_cache(tokens, [FIRST])
    torch.testing.assert_close(((cache[FIRST] + both)[:, 8] @ axes().unit[1]), axes().absent[1].expand(BATCH), atol=1e-4, rtol=0)
    elsewhere = replace(push, point=LAST, where=at(12))
    assert set(edits_of(model, push, elsewhere)(context_of(model, tokens))) == {FIRST, LAST}


def test_steps_and_written_tokens_are_left_alone(model: LanguageModel) -> None:
    tokens = canvases()
    late = edits_of(model, Push(FIRST, adding(vectors()), at(9), steps=range(3, 5)))
    context = context_of(model, tokens)
    assert [bool(late(replace(context, step=step))) for step in (1, 2, 3, 4, 5)] == [False, False, True, True, False]
    push = Push(FIRST, adding(vectors()), at(3, 9), while_masked=True)
    found = moved(model, tokens, push).norm(dim=2)[0]
    assert torch.nonzero(found > 1e-4).flatten().tolist() == [8]
    assert edits_of(model, push)(replace(context, masked=torch.zeros_like(context.masked))) == {}


def test_a_causal_twin_is_pushed_in_one_call(tiny_model: Callable[..., LanguageModel]) -> None:
    model = tiny_model("causal")
    found = moved(model, canvases().clamp(max=10), Push(FIRST, adding(vectors()), at(9)))
    torch.testing.assert_close(found[:, 8], vectors(), atol=1e-5, rtol=0)


# ---------------------------------------------------------------- effects


def test_no_dose_has_no_effect(model: LanguageModel) -> None:
    effect = steering_effect(model, canvases(), Push(FIRST, adding(vectors()), at(9), dose=0.0), Decoding("threshold"), n_random=1)
    for figure in (effect.changed, effect.elsewhere):
        assert figure is not None
        assert (figure.push.value, figure.random.value, figure.gain.value) == (0.0, 0.0, 0.0)
    assert effect.wanted is effect.read is None


def test_pushed_along_its_unembedding_a_token_is_written_and_nothing_else_moves(model: LanguageModel) -> None:
    """After the last block nothing reaches another position, so with one call nothing else can change."""
    token = 7
    push = Push(LAST, adding(unembedding(model, token).expand(BATCH, D)), at(9, 12), dose=300.0)
    effect = steering_effect(model, canvases(), push, Decoding(steps=1), wanted=torch.full((BATCH,), token))
    assert effect.wanted is not None
    assert effect.wanted.push.value == 1.0
    assert effect.wanted.random.value < 0.5 < effect.wanted.gain.value
    assert effect.wanted.undisturbed is not None
    assert effect.changed.push.value == pytest.approx(1.0 - effect.wanted.undisturbed)
    assert effect.elsewhere is not None
    assert effect.elsewhere.push.value == effect.elsewhere.random.value == 0.0
    assert effect.changed.push.n == BATCH


def test_going_on_other_tokens_follow(model: LanguageModel) -> None:
    """The same push, one token a call: what was pushed is read by the calls that follow."""
    push = Push(LAST, adding(unembedding(model, 7).expand(BATCH, D)), at(9, 10, 11), dose=300.0)
    effect = steering_effect(model, canvases(), push, Decoding("sequential"), n_random=1)
    assert effect.elsewhere is not None
    assert effect.elsewhere.push.value > 0.0


def test_figures_are_those_of_the_runs(model: LanguageModel) -> None:
    tokens, push = canvases(), Push(FIRST, adding(vectors(20.0)), at(9, 3), steps=(1, 2))
    probe = LinearProbe(vectors(0.3, seed=5), torch.zeros(BATCH), ("a", "b", "c", "d"), "logistic", "here")
    head = torch.tensor([3, 0, 1, 2])
    watch = Watch(probe, LAST, head)
    effect = steering_effect(model, tokens, push, Decoding(steps=4), wanted=torch.arange(BATCH), watch=watch, n_random=2, seed=3)
    before = denoise(model, tokens, Decoding(steps=4))
    after = denoise(model, tokens, Decoding(steps=4), edits=edits_of(model, push))
    controls = [denoise(model, tokens, Decoding(steps=4), edits=edits_of(model, push.control(seed))) for seed in (3, 4)]
    others = [position for position in range(8, LENGTH) if position != 9]
    assert effect.changed.push.value == pytest.approx((after.tokens(-1) != before.tokens(-1))[:, 9].mean())
    assert effect.elsewhere is not None
    randomly = [(run.tokens(-1) != before.tokens(-1))[:, others].mean() for run in controls]
    assert effect.elsewhere.random.value == pytest.approx(sum(randomly) / 2)
    assert effect.wanted is not None
    assert effect.wanted.undisturbed == pytest.approx((before.tokens(-1)[:, 9] == range(BATCH)).mean())
    read = []
    for sample, step in enumerate(after.data["commit_step"].values[:, 9].tolist()):
        seen = torch.from_numpy(after.tokens(step - 1))
        context = StepContext(step, torch.arange(BATCH), seen, seen == MASK)
        with model.hooks(edits_of(model, push)(context)):
            _, cache = model.run_with_cache(seen, [LAST])
        read.append(float(probe.probabilities(cache[LAST][sample, 8])[head[sample]]))
    assert effect.read is not None
    assert effect.read.push.value == pytest.approx(sum(read) / BATCH, abs=1e-3)


def test_groups_are_resampled_and_a_push_everywhere_has_no_elsewhere(model: LanguageModel) -> None:
    push = Push(FIRST, adding(vectors(5.0)), at(*range(1, LENGTH)), while_masked=True)
    effect = steering_effect(model, canvases(), push, Decoding(steps=2), n_random=1, groups=torch.tensor([0, 0, 1, 1]))
    assert effect.elsewhere is None
    assert effect.changed.gain.n == 2


def test_pushes_that_cannot_be_are_refused(model: LanguageModel) -> None:
    tokens, decoding = canvases(), Decoding("threshold")
    push = Push(FIRST, adding(vectors()), at(9))
    with pytest.raises(SteeringError, match="a push at token 0; tiny predicts from the token before"):
        edits_of(model, replace(push, where=at(0)))
    with pytest.raises(SteeringError, match="sample 0 has no pushed token to be written"):
        steering_effect(model, tokens, replace(push, where=at(3)), decoding)
    with pytest.raises(SteeringError, match="n_random is 0"):
        steering_effect(model, tokens, push, decoding, n_random=0)
    with pytest.raises(SteeringError, match=r"canvases \(4, 19\)"):
        steering_effect(model, tokens, replace(push, where=at(9)[:, 1:]), decoding)
    with pytest.raises(SteeringError, match=r"canvases \(2, 20\); the run has a sample 3 of 20 positions"):
        edits_of(model, replace(push, where=at(9)[:2]))(context_of(model, tokens))
    with pytest.raises((SteeringError, TypeCheckError)):
        Push(FIRST, adding(vectors()), at(9)[0])

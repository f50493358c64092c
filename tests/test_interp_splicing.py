"""SAEs inside the forward pass: splices that must change nothing, everything, or only some tokens, and what their scores must come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from interp.canvases import Masked, canvases_of, causal_canvases, masked_canvases
from interp.concepts import Kind
from interp.corpus import Corpus
from interp.latents.moves import LatentError, ablating, adding_latent, clamping
from interp.splice_scores import splice_scores, splice_statistic
from interp.splicing import SplicingError, spliced
from interp.steering import Push, context_of, edits_of
from models.decoding import Decoding
from models.denoise import denoise
from models.hookpoints import HookPointError, resid_post
from models.language_model import LanguageModel
from models.load import load
from probes.saes.recipe import SaeRecipe
from probes.saes.training import train_sae

MASK, LENGTH, D, PROMPT = 11, 20, 32, 8
FIRST, LAST = resid_post(0), resid_post(1)
RATES = (0.25, 0.75)


def trained(x: Tensor, d_sae: int = 24, k: int = 4, steps: int = 30) -> Any:
    return train_sae(x, SaeRecipe(d_sae=d_sae, k=k, steps=steps, batch=256))


def linear_sae(decoder: Tensor) -> Any:
    """Returns an SAE with latents relu(x) and relu(-x), an identity where its decoder is."""
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=D, d_sae=2 * D, apply_b_dec_to_input=False))
    eye = torch.eye(D)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([eye, -eye], 1))
        sae.W_dec.copy_(decoder)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def identity() -> Any:
    return linear_sae(torch.cat([torch.eye(D), -torch.eye(D)]))


@pytest.fixture(scope="module")
def nothing() -> Any:
    return linear_sae(torch.zeros(2 * D, D))


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., LanguageModel]) -> LanguageModel:
    return tiny_model()


@pytest.fixture(scope="module")
def causal(tiny_model: Callable[..., LanguageModel]) -> LanguageModel:
    return tiny_model("causal")


def corpus(n: int = 6, seed: int = 0) -> Corpus:
    """Returns random sequences, two a group, of which all but the first tokens are asked for."""
    sequences = torch.randint(0, MASK, (n, LENGTH), generator=torch.Generator().manual_seed(seed))
    asked = (torch.arange(LENGTH) >= PROMPT).expand(n, LENGTH).clone()
    return Corpus(sequences, asked, torch.arange(n) // 2)


def canvases(n: int = 6) -> Any:
    return masked_canvases(corpus(n), Masked(RATES), MASK, seed=0)


@pytest.fixture(scope="module")
def sae(model: LanguageModel) -> Any:
    _, cache = model.run_with_cache(canvases(40).tokens, [FIRST])
    return trained(cache[FIRST].flatten(0, 1))


# ---------------------------------------------------------------- splices


def test_with_its_error_an_sae_changes_nothing(model: LanguageModel, causal: LanguageModel, sae: Any) -> None:
    tokens = canvases().truth
    for twin in (model, causal):
        clean = twin.logits(tokens)
        with spliced(twin, {FIRST: sae, LAST: sae}, error_term=True):
            assert (twin.logits(tokens) - clean).abs().max() < 1e-4
        with spliced(twin, {FIRST: sae}):
            assert (twin.logits(tokens) - clean).abs().max() > 0.1


@pytest.mark.parametrize("name", ["sudoku-ar", "sudoku-diffusion"])
def test_with_its_error_an_sae_changes_nothing_in_the_bundled_pair(name: str) -> None:
    bundled, point = load(name), resid_post(3)
    tokens = torch.randint(0, MASK, (8, 163), generator=torch.Generator().manual_seed(0))
    logits, cache = bundled.run_with_cache(tokens, [point])
    with spliced(bundled, {point: trained(cache[point].flatten(0, 1))}, error_term=True):
        assert (bundled.logits(tokens) - logits).abs().max() < 1e-5 * logits.abs().max()


def test_a_splice_is_the_reconstruction(model: LanguageModel, sae: Any) -> None:
    tokens = canvases().tokens
    _, before = model.run_with_cache(tokens, [FIRST])
    with spliced(model, {FIRST: sae}):
        _, after = model.run_with_cache(tokens, [FIRST])
    torch.testing.assert_close(after[FIRST], sae(before[FIRST]))


def test_only_the_activations_that_predict_the_tokens_are_replaced(tiny_model: Callable[..., LanguageModel], sae: Any) -> None:
    tokens = canvases().tokens
    for shift in (0, 1):
        one = tiny_model(logit_shift=shift)
        _, before = one.run_with_cache(tokens, [FIRST])
        with spliced(one, {FIRST: sae}, where=tokens == MASK):
            _, after = one.run_with_cache(tokens, [FIRST])
        moved = (after[FIRST] != before[FIRST]).any(2)
        assert torch.equal(moved[:, : LENGTH - shift], (tokens == MASK)[:, shift:])


def test_after_the_last_block_a_splice_moves_only_its_own_tokens(model: LanguageModel, sae: Any) -> None:
    tokens = canvases().tokens
    clean = model.logits(tokens)
    with spliced(model, {LAST: sae}, where=tokens == MASK):
        moved = (model.logits(tokens) - clean).abs().amax(2)
    assert (moved[tokens == MASK] > 1e-3).all()
    assert (moved[tokens != MASK] < 1e-4).all()


def test_splices_that_cannot_be_are_refused(model: LanguageModel, sae: Any, identity: Any) -> None:
    tokens = canvases().tokens
    with (
        pytest.raises(SplicingError, match="a splice at token 0; tiny predicts from the token before"),
        spliced(model, {FIRST: sae}, where=torch.ones_like(tokens, dtype=torch.bool)),
    ):
        pass
    with (
        pytest.raises(SplicingError, match=r"canvases \(12, 20\); the pass reads \(3, 20\)"),
        spliced(model, {FIRST: sae}, where=tokens == MASK),
    ):
        model.logits(tokens[:3])
    narrow = trained(torch.randn(300, 16))
    with pytest.raises(SplicingError, match="an SAE of width 16 for activations of width 32"), spliced(model, {FIRST: narrow}):
        model.logits(tokens)
    with pytest.raises(HookPointError, match="never reached"), spliced(model, {FIRST: sae}):
        pass
    with pytest.raises(SplicingError, match="6 canvases without a masked position"):
        splice_scores(model, {FIRST: sae}, replace(causal_canvases(corpus()), kind=torch.zeros(6, LENGTH, dtype=torch.uint8)))


# ---------------------------------------------------------------- scores


def test_an_identity_recovers_all_and_zeros_recover_nothing(model: LanguageModel, identity: Any, nothing: Any) -> None:
    for score in splice_scores(model, {FIRST: identity}, canvases()):
        assert score.recovered.value == score.recovered.low == score.recovered.high == pytest.approx(1, abs=1e-4)
        assert score.recovered_over_mean.value == pytest.approx(1, abs=1e-3)
        assert (score.delta.value, score.kl.value) == (pytest.approx(0, abs=1e-4), pytest.approx(0, abs=1e-4))
    for score in splice_scores(model, {FIRST: nothing}, canvases()):
        assert score.recovered.value == score.recovered.low == score.recovered.high == 0.0
        assert score.spliced == score.zero


def by_hand(model: LanguageModel, sae: Any, some: Any) -> dict[str, Tensor]:
    """Returns the cross-entropies of masked tokens, one canvas at a time."""
    _, cache = model.run_with_cache(some.tokens, [FIRST])
    mean = cache[FIRST].flatten(0, 1).mean(0)
    edits: Mapping[str, Any] = {
        "clean": lambda x: x,
        "spliced": lambda x: sae(x),
        "zero": torch.zeros_like,
        "mean": lambda x: mean.expand_as(x),
    }
    found = {}
    for name, edit in edits.items():
        losses = []
        for tokens, truth, kind in zip(some.tokens, some.truth, some.kind, strict=True):
            with model.hooks({FIRST: edit}):
                logits = model.logits(tokens[None])[0]
            losses.append(functional.cross_entropy(logits, truth, reduction="none")[kind == Kind.MASKED])
        found[name] = torch.cat(losses)
    return found


def test_scores_are_means_of_cross_entropies(model: LanguageModel, sae: Any) -> None:
    some = canvases()
    whole, quarter, threequarters, bound = splice_scores(model, {FIRST: sae}, some)
    found = by_hand(model, sae, some)
    for name, losses in found.items():
        assert getattr(whole, name).value == pytest.approx(float(losses.mean()), abs=1e-5)
    zero, clean, through = (float(found[name].mean()) for name in ("zero", "clean", "spliced"))
    assert whole.delta.value == pytest.approx(through - clean, abs=1e-4)
    assert whole.recovered.value == pytest.approx((zero - through) / (zero - clean), abs=1e-4)
    rate = some.mask_rate[torch.nonzero(some.kind == Kind.MASKED)[:, 0]]
    for score, nominal in ((quarter, 0.25), (threequarters, 0.75)):
        assert score.spliced.value == pytest.approx(float(found["spliced"][rate == nominal].mean()), abs=1e-5)
    assert (whole.mask_rate, quarter.mask_rate, threequarters.mask_rate, bound.mask_rate) == (None, 0.3, 0.7, None)
    assert (whole.tokens, quarter.tokens, threequarters.tokens) == (72, 18, 54)
    assert {score.delta.n for score in (whole, quarter, bound)} == {3}  # groups, not sequences


def test_the_bound_is_the_mean_over_rates_of_the_means_at_each(model: LanguageModel, sae: Any) -> None:
    """LLaDA's equation 6 a token, (1 / L) E_l [L / l sum of l cross-entropies], with l uniform: here with two l of equal weight."""
    *_, quarter, threequarters, bound = splice_scores(model, {FIRST: sae}, canvases())
    assert bound.weights == "bound"
    for name in ("clean", "spliced", "zero", "mean", "kl"):
        expected = (getattr(quarter, name).value + getattr(threequarters, name).value) / 2
        assert getattr(bound, name).value == pytest.approx(expected, rel=1e-6)


def test_uneven_rates_stand_for_the_rates_nearest_to_them(model: LanguageModel, sae: Any) -> None:
    some = masked_canvases(corpus(), Masked((0.25, 0.5)), MASK, seed=0)
    *_, quarter, half, bound = splice_scores(model, {FIRST: sae}, some)
    assert (quarter.mask_rate, half.mask_rate) == (0.3, 0.5)
    assert bound.clean.value == pytest.approx(0.375 * quarter.clean.value + 0.625 * half.clean.value, rel=1e-6)


def test_the_bound_agrees_with_the_likelihood_bound(tiny_model: Callable[..., LanguageModel], identity: Any) -> None:
    """At every number of masked tokens the weights are those of ``models.likelihood``."""
    from models.likelihood import likelihood
    from models.tasks import Batch, Document

    model, sequences = tiny_model(), corpus(10)
    some = masked_canvases(sequences, Masked(tuple((number + 0.501) / 12 for number in range(12))), MASK, seed=0)
    ours = splice_scores(model, {FIRST: identity}, some)[-1].clean.value
    documents = [
        Document(Batch(tokens[None], asked[None]), tokens.numpy(), 1)
        for tokens, asked in zip(sequences.sequences, sequences.asked, strict=True)
    ]
    theirs = likelihood(model, documents, samples=100)
    assert ours == pytest.approx(theirs.nats.sum() / theirs.n_tokens.sum(), rel=0.05)


def test_kinds_say_where_to_splice(model: LanguageModel, sae: Any) -> None:
    some = canvases()
    at_masked = splice_scores(model, {FIRST: sae}, some, kinds=[Kind.MASKED])[0]
    everywhere = splice_scores(model, {FIRST: sae}, some)[0]
    assert (at_masked.spliced_at, everywhere.spliced_at) == ("masked", "everywhere")
    assert at_masked.clean == everywhere.clean
    with spliced(model, {FIRST: sae}, where=some.kind == Kind.MASKED):
        logits = model.logits(some.tokens)
    masked = some.kind == Kind.MASKED
    assert at_masked.spliced.value == pytest.approx(float(functional.cross_entropy(logits[masked], some.truth[masked])), abs=1e-5)
    assert at_masked.spliced.value != pytest.approx(everywhere.spliced.value, abs=1e-3)
    assert splice_scores(model, {FIRST: sae}, some, kinds=[Kind.PROMPT])[0].clean == everywhere.clean
    with pytest.raises(SplicingError, match="a splice at committed positions; the canvases have prompt, masked, settled"):
        splice_scores(model, {FIRST: sae}, some, kinds=[Kind.COMMITTED])


def test_the_divergence_is_that_of_the_predictions(model: LanguageModel, sae: Any) -> None:
    some = canvases()
    masked = some.kind == Kind.MASKED
    clean = model.logits(some.tokens)[masked].softmax(-1)
    with spliced(model, {FIRST: sae}):
        through = model.logits(some.tokens)[masked].softmax(-1)
    expected = (clean * (clean / through).log()).sum(-1).mean()
    assert splice_scores(model, {FIRST: sae}, some)[0].kl.value == pytest.approx(float(expected), abs=1e-5)


def test_a_causal_models_later_tokens_do_not_change_what_comes_before(causal: LanguageModel, sae: Any) -> None:
    some = causal_canvases(corpus())
    later = some.tokens.clone()
    later[:, -4:] = (later[:, -4:] + 1) % MASK
    asked = some.kind.clone()
    asked[:, -4:] = int(Kind.PROMPT)
    one = splice_scores(causal, {FIRST: sae}, replace(some, kind=asked))
    other = splice_scores(causal, {FIRST: sae}, replace(some, kind=asked, tokens=later, truth=later))
    for mine, theirs in zip(one, other, strict=True):
        assert mine.spliced.value == pytest.approx(theirs.spliced.value, abs=1e-6)
        assert mine.clean.value == pytest.approx(theirs.clean.value, abs=1e-6)


def test_a_causal_models_loss_is_that_of_what_is_asked_for(causal: LanguageModel, sae: Any) -> None:
    some = corpus()
    scores = splice_scores(causal, {FIRST: sae}, causal_canvases(some))
    logits = causal.logits(some.sequences)
    expected = functional.cross_entropy(logits[some.asked], some.sequences[some.asked])
    assert scores[0].clean.value == pytest.approx(float(expected), abs=1e-5)
    assert [score.mask_rate for score in scores] == [None, 0.1, 0.3, 0.5, 0.7, 0.9]
    assert sum(score.tokens for score in scores[1:]) == scores[0].tokens == 72
    assert {score.weights for score in scores} == {"tokens"}


def test_each_sae_is_spliced_in_alone_and_the_groups_decide_the_intervals(model: LanguageModel, sae: Any, identity: Any) -> None:
    both = splice_scores(model, {FIRST: sae, LAST: identity}, canvases(40))
    assert both == [*splice_scores(model, {FIRST: sae}, canvases(40)), *splice_scores(model, {LAST: identity}, canvases(40))]
    found = both[0].delta
    assert found.low < found.value < found.high
    many = splice_scores(model, {FIRST: sae}, canvases(160))[0].delta
    assert many.high - many.low < found.high - found.low
    statistic = splice_statistic({"ar": both, "native": both})
    assert statistic.at(tokens="denoising bound", sae="ar", layer=0) == both[3].delta
    assert statistic.at(tokens="mask rate 0.3", sae="native", layer=1).value == pytest.approx(0, abs=1e-4)


def test_the_canvases_of_a_run_are_scored_without_a_bound(model: LanguageModel, sae: Any) -> None:
    from interp.canvases import Decoded

    scores = splice_scores(model, {FIRST: sae}, canvases_of(model, corpus(), Decoded(Decoding(steps=3)), seed=0))
    assert {score.weights for score in scores} == {"tokens"}


# ---------------------------------------------------------------- moves of latents


def moved(model: LanguageModel, push: Push, tokens: Tensor) -> Tensor:
    """Returns by how much a push changes the activations of one call."""
    _, before = model.run_with_cache(tokens, [push.point])
    with model.hooks(edits_of(model, push)(context_of(model, tokens))):
        _, after = model.run_with_cache(tokens, [push.point])
    return after[push.point] - before[push.point]


def test_ablating_takes_out_what_the_latent_put_in(model: LanguageModel, sae: Any) -> None:
    tokens = canvases().tokens
    _, cache = model.run_with_cache(tokens, [FIRST])
    latents = sae.encode(cache[FIRST])
    latent = int((latents > 0).sum((0, 1)).argmax())
    where = tokens == MASK
    delta = moved(model, Push(FIRST, ablating(sae, latent), where), tokens)[:, :-1][where[:, 1:]]
    fired = latents[:, :-1][where[:, 1:]]
    torch.testing.assert_close(delta, -fired[:, [latent]] * sae.W_dec[latent], atol=1e-4, rtol=0)
    without = fired.clone()
    without[:, latent] = 0
    torch.testing.assert_close(delta, sae.decode(without) - sae.decode(fired), atol=1e-4, rtol=0)


def test_a_latent_that_does_not_fire_has_nothing_to_take_out(model: LanguageModel, sae: Any) -> None:
    x, sample = torch.randn(50, D), torch.zeros(50, dtype=torch.long)
    for latent in range(24):
        silent = sae.encode(x)[:, latent] == 0
        assert torch.equal(ablating(sae, latent)(x, sample)[silent], torch.zeros(int(silent.sum()), D))


def test_clamping_sets_the_latents_part_and_adding_adds_to_it(sae: Any) -> None:
    x, sample = torch.randn(5, D), torch.tensor([0, 1, 1, 0, 2])
    latent, value = torch.tensor([3, 7, 20]), torch.tensor([1.0, 2.0, -3.0])
    fired = sae.encode(x)[torch.arange(5), latent[sample]]
    rows = sae.W_dec[latent[sample]]
    torch.testing.assert_close(clamping(sae, latent, value)(x, sample), (value[sample] - fired)[:, None] * rows)
    torch.testing.assert_close(adding_latent(sae, latent, value)(x, sample), value[sample][:, None] * rows)
    torch.testing.assert_close(adding_latent(sae, 3, 2.0)(x, sample), 2 * sae.W_dec[3].expand(5, D))
    torch.testing.assert_close(ablating(sae, 3)(x, sample), clamping(sae, 3, 0.0)(x, sample))
    with pytest.raises(LatentError, match="there is no latent 24; the SAE has 0 to 23"):
        ablating(sae, torch.tensor([1, 24]))


def test_latents_are_moved_at_chosen_steps_of_a_run_only(model: LanguageModel, sae: Any) -> None:
    tokens = corpus(3).sequences.masked_fill(corpus(3).asked, MASK)
    push = Push(LAST, adding_latent(sae, 5, 300.0), tokens == MASK, steps=(3,))
    plain, pushed = (denoise(model, tokens, Decoding(steps=4), edits=edits) for edits in (None, edits_of(model, push)))
    same = [bool((plain.tokens(step) == pushed.tokens(step)).all()) for step in range(4)]
    assert same[:3] == [True, True, True]
    confidence = plain.data["confidence"].values[:, 3], pushed.data["confidence"].values[:, 3]
    assert not torch.allclose(*(torch.from_numpy(one) for one in confidence), equal_nan=True)
    control = push.control(0)
    x, sample = torch.randn(4, D), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(control.move(x, sample).norm(dim=1), push.move(x, sample).norm(dim=1), rtol=1e-4, atol=1e-4)

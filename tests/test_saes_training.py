"""Training of sparse autoencoders: a planted dictionary, weights folded into raw space, thresholds, fine-tuning, stopping and resuming."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from probes.errors import ProbeError
from probes.saes.folding import Scaling
from probes.saes.recipe import ARCHITECTURES, PENALISED, SaeRecipe
from probes.saes.trainer import SaeTrainer
from probes.saes.training import _order, train_sae, train_saes, within_norm

D_IN, FEATURES, ACTIVE = 64, 128, 4
BY_BATCH = ("batchtopk", "matryoshka")


def planted(rows: int = 20_000, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Returns sums of few unit features, far from the origin and not of unit scale, and the features."""
    generator = torch.Generator().manual_seed(0)
    features = normalize(torch.randn(FEATURES, D_IN, generator=generator), dim=1)
    offset = 3 * torch.randn(D_IN, generator=generator)
    generator.manual_seed(seed)
    on = torch.rand(rows, FEATURES, generator=generator).argsort(1) < ACTIVE
    strength = on * (0.5 + torch.rand(rows, FEATURES, generator=generator))
    return 5 * strength @ features + offset, features


def small(architecture: str = "topk", **changes: Any) -> SaeRecipe:
    return SaeRecipe(**{"architecture": architecture, "d_sae": 96, "k": ACTIVE, "steps": 50, "batch": 256, "seed": 3, **changes})


def fvu(sae: Any, x: Tensor) -> float:
    return float((sae(x) - x).square().sum() / (x - x.mean(0)).square().sum())


def l0(sae: Any, x: Tensor) -> float:
    return float((sae.encode(x) > 0).float().sum(1).mean())


def same(one: Any, two: Any) -> bool:
    """Whether two modules have equal weights, bit for bit."""
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return planted()[0]


@pytest.fixture(scope="module")
def held_out() -> Tensor:
    return planted(4000, seed=2)[0]


@pytest.fixture(scope="module")
def short(x: Tensor) -> dict[str, Any]:
    """A short training of every architecture."""
    return {name: train_sae(x, small(name)) for name in ARCHITECTURES}


def test_a_planted_dictionary_is_recovered(x: Tensor) -> None:
    _, features = planted()
    calls: list[tuple[int, float]] = []
    recipe = small(d_sae=192, steps=500, batch=512)
    sae = train_sae(x, recipe, hook_name="blocks.3.hook_resid_post", fitted_on="m", on_step=lambda step, lost: calls.append((step, lost)))
    assert float(((sae.W_dec @ features.T).amax(0) > 0.9).float().mean()) >= 0.9
    assert 2 < float(sae.encode(x[:500]).amax(1).mean()) < 8  # planted strengths are 2.5 to 7.5
    assert [step for step, _ in calls] == list(range(1, 501))
    assert calls[-1][1] == pytest.approx(fvu(sae, x), rel=0.2)
    assert (sae.cfg.metadata.hook_name, sae.cfg.metadata.fitted_on) == ("blocks.3.hook_resid_post", "m")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_raw_sae_does_what_the_trained_one_does(name: str, x: Tensor) -> None:
    trainer = SaeTrainer(small(name), Scaling.of(x))
    for step in range(20):
        trainer.step(x[256 * step : 256 * (step + 1)])
    rows = x[:300]
    raw, trained = trainer.finish(rows), trainer.sae
    with torch.no_grad():
        scaled = trained.decode(trained.encode(trainer.scaling(rows)))
    expected = scaled / trainer.scaling.factor + trainer.scaling.mean
    torch.testing.assert_close(raw.decode(raw.encode(rows)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_raw_sae_is_frozen_with_unit_decoder_rows(name: str, short: dict[str, Any]) -> None:
    sae = short[name]
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(96))
    assert not sae.training
    assert not any(parameter.requires_grad for parameter in sae.parameters())
    assert sae.cfg.normalize_activations == "none"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_learns_and_is_sparse(name: str, short: dict[str, Any], held_out: Tensor) -> None:
    assert fvu(short[name], held_out) < 0.9
    assert 1 < l0(short[name], held_out) < 48


@pytest.mark.parametrize("name", BY_BATCH)
def test_a_threshold_of_few_steps_gives_the_asked_l0(name: str, short: dict[str, Any], held_out: Tensor) -> None:
    assert l0(short[name], held_out) == pytest.approx(ACTIVE, rel=0.1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fine_tuning_begins_where_the_first_training_ended(name: str, short: dict[str, Any], held_out: Tensor) -> None:
    other = 2 * held_out + 1  # so that its scaling is another
    trainer = SaeTrainer(small(name), Scaling.of(other), start=short[name])
    torch.testing.assert_close(trainer.finish()(held_out), short[name](held_out), rtol=1e-3, atol=2e-3)
    before = fvu(short[name], other)
    assert fvu(train_sae(other, small(name), start=short[name]), other) < before


def test_a_frozen_decoder_stays(short: dict[str, Any], held_out: Tensor) -> None:
    start = short["topk"]
    tuned = train_sae(held_out + 1, small(), start=start, freeze_decoder=True)
    torch.testing.assert_close(tuned.W_dec, start.W_dec)
    torch.testing.assert_close(tuned.b_dec, start.b_dec)
    assert not torch.allclose(tuned.W_enc, start.W_enc)
    assert fvu(tuned, held_out + 1) < fvu(start, held_out + 1)


def test_an_sae_that_ignores_decoder_norms_is_fine_tuned_as_it_is(held_out: Tensor) -> None:
    from sae_lens import SAE

    config = {"architecture": "topk", "d_in": D_IN, "d_sae": 96, "k": ACTIVE, "apply_b_dec_to_input": False, "metadata": {}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = SAE.from_dict(config)
        torch.nn.init.normal_(start.W_dec)
        torch.nn.init.normal_(start.b_dec)
    trainer = SaeTrainer(small(), Scaling.of(held_out), start=start)
    torch.testing.assert_close(trainer.finish()(held_out), start(held_out), rtol=1e-3, atol=1e-3)


def test_a_start_of_another_shape_is_refused(short: dict[str, Any], x: Tensor) -> None:
    with pytest.raises(ProbeError, match=r"start has architecture 'gated'.*'topk'"):
        train_sae(x, small(), start=short["gated"])
    with pytest.raises(ProbeError, match=r"start has k 4; .* need 5"):
        train_sae(x, small(k=5), start=short["topk"])
    with pytest.raises(ProbeError, match=r"start has d_in 64; .* need 32"):
        train_sae(x[:, :32], small(), start=short["topk"])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_resumed_training_equals_an_uninterrupted_one(name: str, x: Tensor, tmp_path: Path) -> None:
    recipe = small(name, steps=60)
    whole = SaeTrainer(recipe, Scaling.of(x), hook_name="h", fitted_on="m")
    for step in range(40):
        if step == 25:
            whole.save(tmp_path)
        whole.step(x[256 * step : 256 * (step + 1)])
    resumed = SaeTrainer.resume(tmp_path, recipe, hook_name="h", fitted_on="m")
    assert resumed.done == 25
    for step in range(25, 40):
        resumed.step(x[256 * step : 256 * (step + 1)])
    assert same(resumed.sae, whole.sae)
    assert same(resumed.finish(x[:256]), whole.finish(x[:256]))


def test_a_frozen_decoder_is_still_frozen_when_resumed(short: dict[str, Any], x: Tensor, tmp_path: Path) -> None:
    trainer = SaeTrainer(small(), Scaling.of(x), start=short["topk"], freeze_decoder=True)
    trainer.step(x[:256])
    trainer.save(tmp_path)
    resumed = SaeTrainer.resume(tmp_path, small())
    for one in (trainer, resumed):
        one.step(x[256:512])
    assert same(resumed.sae, trainer.sae)
    torch.testing.assert_close(resumed.finish().W_dec, short["topk"].W_dec)


def test_a_state_that_is_cut_short_leaves_the_one_before(x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = SaeTrainer(small(), Scaling.of(x))
    trainer.step(x[:256])
    trainer.save(tmp_path)

    def killed(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("probes.saes.trainer.save_file", killed)
    trainer.step(x[256:512])
    with pytest.raises(KeyboardInterrupt):
        trainer.save(tmp_path)
    assert SaeTrainer.resume(tmp_path, small()).done == 1


def test_the_state_of_another_training_is_refused(x: Tensor, tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="holds no state of a training"):
        SaeTrainer.resume(tmp_path, small())
    SaeTrainer(small(), Scaling.of(x), fitted_on="m").save(tmp_path)
    with pytest.raises(ProbeError, match=r"'k': 4.*'k': 5"):
        SaeTrainer.resume(tmp_path, small(k=5), fitted_on="m")
    with pytest.raises(ProbeError, match="fitted_on 'm', not 'n'"):
        SaeTrainer.resume(tmp_path, small(), fitted_on="n")


def pool_of(number: int) -> dict[str, Tensor]:
    rows, _ = planted(1500, seed=10 + number)
    return {"a": rows, "b": 2 * rows.flip(1)}


RECIPES = {"a": small(), "b": small("batchtopk", seed=5)}


def test_several_hook_points_are_trained_in_one_pass(held_out: Tensor) -> None:
    asked: list[int] = []
    calls: list[tuple[int, int]] = []

    def pools(number: int) -> Mapping[str, Tensor]:
        asked.append(number)
        return pool_of(number)

    saes = train_saes(pools, RECIPES, fitted_on={"a": "m@a"}, on_step=lambda done, total: calls.append((done, total)))
    assert asked == list(range(10))  # 50 steps, 5 whole batches of 256 a pool
    assert calls == [(step, 50) for step in range(1, 51)]
    assert {point: sae.cfg.metadata.hook_name for point, sae in saes.items()} == {"a": "a", "b": "b"}
    assert (saes["a"].cfg.metadata.fitted_on, saes["b"].cfg.metadata.fitted_on) == ("m@a", "")
    assert fvu(saes["a"], held_out) < 0.9
    assert l0(saes["b"], 2 * held_out.flip(1)) == pytest.approx(ACTIVE, rel=0.1)
    alone = train_saes(pool_of, {"b": RECIPES["b"]})
    assert same(alone["b"], saes["b"])


def test_every_pass_shows_all_rows_of_a_pool_in_a_new_order() -> None:
    order = _order(100, 3, 7, 4).reshape(4, 100)
    assert torch.equal(order.sort(1).values, torch.arange(100).expand(4, 100))
    assert len(order.unique(dim=0)) == 4
    assert torch.equal(order[0], _order(100, 3, 7, 1))
    asked: list[int] = []
    train_saes(lambda number: (asked.append(number), pool_of(number))[1], RECIPES, passes=3)
    assert asked == [0, 1, 2]  # 17 whole batches of 256 in three times 1500 rows


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("killed_at", [3, 17, 49])
def test_a_killed_training_resumes_to_the_same_weights(killed_at: int, passes: int, tmp_path: Path) -> None:
    def kill(done: int, total: int) -> None:
        if done == killed_at:
            raise KeyboardInterrupt

    whole = train_saes(pool_of, RECIPES, passes=passes)
    with pytest.raises(KeyboardInterrupt):
        train_saes(pool_of, RECIPES, passes=passes, checkpoint=tmp_path, on_step=kill)
    asked: list[int] = []
    again = train_saes(lambda number: (asked.append(number), pool_of(number))[1], RECIPES, passes=passes, checkpoint=tmp_path)
    assert asked[0] == (killed_at - 1) // (passes * 1500 // 256)
    assert all(same(again[point], whole[point]) for point in RECIPES)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_a_pass_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="50 x 256, 60 x 256"):
        train_saes(pool_of, {"a": small(), "b": small(steps=60)})
    with pytest.raises(ProbeError, match="pool 0 lacks c; it has a, b"):
        train_saes(pool_of, {"c": small()})
    with pytest.raises(ProbeError, match="pool 0 has 100 rows, and a batch is 256; make the batch smaller"):
        train_saes(lambda number: {"a": pool_of(number)["a"][:100]}, {"a": small()})
    with pytest.raises(ProbeError, match="activations at a"):
        train_saes(lambda number: {"a": pool_of(number)["a"] * torch.nan}, {"a": small()})
    train_saes(pool_of, {"a": small()}, checkpoint=tmp_path)
    with pytest.raises(ProbeError, match="of a training at a, not b"):
        train_saes(pool_of, {"b": small()}, checkpoint=tmp_path)
    with pytest.raises(ProbeError, match="with 1 passes, not 2"):
        train_saes(pool_of, {"a": small()}, passes=2, checkpoint=tmp_path)
    with pytest.raises(ProbeError, match=r"passes is 0; .* at least 1"):
        train_saes(pool_of, {"a": small()}, passes=0)


def test_the_seed_decides_and_nothing_else(x: Tensor, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    one = train_sae(x[:900], small(steps=5))
    before = torch.get_rng_state()
    two = train_sae(x[:900], small(steps=5))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, two)
    assert not same(one, train_sae(x[:900], small(steps=5, seed=4)))
    assert capfd.readouterr().out == ""


def test_too_few_activations_are_warned_of(x: Tensor) -> None:
    with pytest.warns(UserWarning, match="100 activations for 96 latents"):
        train_sae(x[:100], small(steps=1))
    with pytest.warns(UserWarning, match="256 activations for 96 latents"):
        train_saes(pool_of, {"a": small(steps=1)})
    with pytest.warns(UserWarning, match="512 activations for 96 latents"):
        train_saes(pool_of, {"a": small(steps=4)}, passes=2)


def test_rows_of_extreme_norm_are_told_apart() -> None:
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    x[7] *= 100
    kept = within_norm(x)
    assert not kept[7]
    assert kept.sum() == 199
    assert within_norm(x, most=1.0).sum() == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "relu"}, "unknown architecture 'relu'; choose from standard, gated, topk, batchtopk, jumprelu, matryoshka"),
        ({"k": 97}, "k is 97; it must be at most d_sae, 96"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"lr": 0.0}, "lr is 0.0; it must be greater than 0"),
        ({"sparsity": 1.0}, "sparsity is 1.0 for topk; .* standard, gated, jumprelu"),
    ],
)
def test_a_recipe_that_makes_no_sae_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        small(**changes)


@pytest.mark.parametrize("name", PENALISED)
def test_a_greater_penalty_makes_it_sparser(name: str, x: Tensor, held_out: Tensor) -> None:
    little, much = (train_sae(x, small(name, sparsity=weight)) for weight in (0.02, 2.0))
    assert l0(much, held_out) < l0(little, held_out)


def test_unusable_activations_are_refused(x: Tensor) -> None:
    with pytest.raises(ProbeError, match="must be finite"):
        train_sae(x * torch.inf, small())
    with pytest.raises(ProbeError, match="rows that vary"):
        train_sae(torch.ones(900, 8), small())

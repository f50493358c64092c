"""Scores of readers: slices, the heads that are asked, links, and entries that cannot lack a control."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.canvases import MASK_RATES
from interp.concepts import Concept, Kind, Sites
from interp.report import CEILING, CONTROLS, Estimate, ProbeEntry, Scores
from interp.scoring import (
    FEWEST,
    FEWEST_GROUPS,
    Asked,
    Penalties,
    Question,
    Said,
    ScoringError,
    Slice,
    entries,
    fit_readers,
    question_of,
    rate_bin,
    score,
    slices,
)
from models.hookpoints import resid_post
from probes.linear import LinearProbe

N = 400


def sites_of(n: int = N, *, groups: int = 20, rates: tuple[float, ...] = MASK_RATES, seed: int = 0) -> Sites:
    generator = torch.Generator().manual_seed(seed)
    token = torch.randint(9, (n, 1), generator=generator)
    place = torch.zeros(n, dtype=torch.long)
    rate = torch.tensor(rates)[torch.randint(len(rates), (n,), generator=generator)]
    group = torch.arange(n) % groups
    return Sites(token, token, place, group, group, rate, torch.full_like(place, Kind.MASKED), place, place.bool())


def concept_of(*heads: str, exclusive: bool = False, truth: torch.Tensor | None = None) -> Concept:
    """Whether the token is each head's number, or the truth that is given, by position."""

    def labels(sites: Sites) -> np.ndarray:
        if truth is not None:
            return truth[sites.position].numpy()
        return (sites.seen[:, 0].numpy()[:, None] == np.arange(len(heads))) & True

    return Concept("planted", "sudoku", heads, labels, "planted", exclusive=exclusive)


def test_mask_rates_fall_into_the_fifths_that_they_are_written_in() -> None:
    rates = torch.tensor([0.0, 0.1, 0.1999, 0.2, 0.39, 0.4, 0.6, 0.8, 0.9, 1.0])
    assert rate_bin(rates).tolist() == [0, 0, 0, 1, 1, 2, 3, 4, 4, 4]
    assert [rate_bin(torch.tensor([rate])).item() for rate in MASK_RATES] == [0, 1, 2, 3, 4]


def test_slices_part_the_sites_along_what_varies_and_nothing_else() -> None:
    sites = sites_of()
    assert slices(sites) == [Slice(), *(Slice(mask_rate=rate) for rate in MASK_RATES)]
    assert slices(sites.rows(sites.mask_rate == 0.5)) == [Slice()]
    mixed = replace(sites, kind=torch.arange(N) % 2 + 1, step=torch.arange(N) % 3 + 1)
    found = slices(mixed)
    assert [one.kind for one in found if one.kind] == ["masked", "committed"]
    assert [one.step for one in found if one.step] == [1, 2, 3]
    for axis in ("mask_rate", "kind", "step"):
        kept = torch.stack([one.keeps(mixed) for one in found if getattr(one, axis) is not None])
        assert (kept.sum(0) == 1).all(), axis
    assert Slice(mask_rate=0.1, kind="masked", step=1).keeps(mixed).sum() < Slice(mask_rate=0.1).keeps(mixed).sum()


def test_only_heads_that_vary_in_every_set_of_sites_are_asked() -> None:
    """9 tokens; of the second set only the tokens 0 to 3 are left, so that the other heads are never true there."""
    concept = concept_of(*"abcdef")
    fit, test = sites_of(seed=1), sites_of(seed=2)
    test = test.rows(test.seen[:, 0] < 4)
    question = question_of(concept, fit, test)
    assert question.heads == ("a", "b", "c", "d")
    assert question.left_out == ("e", "f")
    assert [tuple(part.shape) for part in question.truth] == [(len(fit), 4), (len(test), 4)]
    assert torch.equal(question.truth[1][:, 2], test.seen[:, 0] == 2)


@pytest.mark.parametrize(("true", "asked"), [(FEWEST - 1, False), (FEWEST, True), (N - FEWEST, True), (N - FEWEST + 1, False)])
def test_a_head_needs_ten_sites_of_either_class(true: int, asked: bool) -> None:
    sites = replace(sites_of(), position=torch.arange(N))
    concept = concept_of("rare", truth=torch.arange(N)[:, None] < true)
    if asked:
        assert question_of(concept, sites).heads == ("rare",)
        return
    with pytest.raises(ScoringError, match=rf"concept 'planted' is true at 10 sites and false at 10.*: rare \({true} of {N}\)"):
        question_of(concept, sites)


def test_a_perfect_a_useless_and_an_inverted_reader() -> None:
    sites = sites_of()
    labels = sites.seen[:, 0] < 4
    perfect = torch.where(labels, 4.0, -4.0)[:, None]
    noise = torch.randn(N, 1, generator=torch.Generator().manual_seed(0))
    for logits, value in ((perfect, 1.0), (noise, 0.5), (-perfect, 0.0), (torch.zeros(N, 1), 0.5)):
        scores = score(Said(logits, labels[:, None], sites))
        assert scores.auc.value == pytest.approx(value, abs=0.07)
        assert scores.matched.value == pytest.approx(value, abs=0.08)
        assert scores.auc.low <= scores.auc.value <= scores.auc.high
        assert scores.auc.n == 20
    assert score(Said(perfect, labels[:, None], sites)).accuracy.value == 1
    assert score(Said(-perfect, labels[:, None], sites)).exact.value == 0
    assert score(Said(perfect, labels[:, None], sites)).calibration == pytest.approx(1 - torch.tensor(4.0).sigmoid().item(), abs=1e-6)


def test_a_reader_of_the_mask_rate_alone_is_found_out() -> None:
    """Labels that the mask rate foretells: a reader that says the rate scores, and not where rates are matched."""
    sites = sites_of(4000)
    generator = torch.Generator().manual_seed(1)
    labels = torch.rand(4000, generator=generator) < sites.mask_rate
    scores = score(Said(sites.mask_rate[:, None], labels[:, None], sites))
    assert scores.auc.value > 0.8
    assert scores.matched.value == pytest.approx(0.5, abs=1e-6)


def test_exact_is_every_head_or_for_classes_the_likeliest() -> None:
    sites = sites_of(4, groups=4)
    logits = torch.tensor([[-1.0, -2.0], [3.0, 2.0], [-1.0, 1.0], [1.0, -1.0]])
    labels = torch.tensor([[True, False], [True, False], [False, True], [False, True]])
    every, likeliest = (score(Said(logits, labels, sites), exclusive=exclusive) for exclusive in (False, True))
    assert (every.exact.value, likeliest.exact.value) == (0.25, 0.75)
    assert every.accuracy.value == likeliest.accuracy.value == 0.5


def test_a_softmax_gives_probabilities_of_classes_and_ranks_by_them() -> None:
    sites = sites_of()
    labels = sites.seen[:, :1] % 3 == torch.arange(3)
    generator = torch.Generator().manual_seed(0)
    logits = labels.float() + torch.randn(N, 3, generator=generator)
    said = Said(logits + 50 * torch.randn(N, 1, generator=generator), labels, sites, "softmax")
    assert torch.allclose(said.probabilities.sum(1), torch.ones(N))
    assert torch.allclose(said.probabilities, logits.softmax(1), atol=1e-4)
    shifted, plain = score(said, exclusive=True), score(Said(logits, labels, sites, "softmax"), exclusive=True)
    assert shifted.auc.value == pytest.approx(plain.auc.value, abs=1e-6)
    assert score(replace(said, link="sigmoid"), exclusive=True).auc.value < plain.auc.value - 0.1
    probe = LinearProbe(torch.eye(3), torch.zeros(3), ("a", "b", "c"), "multinomial", "x", "softmax")
    assert Said.by(probe, logits, labels, sites).link == "softmax"


def test_classes_that_are_left_out_do_not_stop_a_reader_of_classes() -> None:
    """Rows of no class that is asked are not fitted on; the rest are told apart as before."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.randint(4, (600,), generator=generator)
    x = torch.nn.functional.one_hot(kind, 4).float() + 0.2 * torch.randn(600, 4, generator=generator)
    asked = kind[:, None] == torch.arange(3)
    both = fit_readers(["multinomial", "logistic"], x, {"planted": asked}, torch.arange(len(x)), fitted_on="x")
    probe = both["multinomial"]["planted"]
    assert (probe.heads, probe.link) == (("0", "1", "2"), "softmax")
    known = kind < 3
    assert (probe.scores(x[known]).argmax(1) == kind[known]).double().mean() > 0.99
    assert torch.equal(
        probe.weight,
        fit_readers(["multinomial"], x[known], {"p": asked[known]}, torch.arange(int(known.sum())), fitted_on="x")["multinomial"][
            "p"
        ].weight,
    )


def test_heads_fitted_together_are_those_fitted_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, generator=generator)
    labels = {name: x[:, at : at + 2] + torch.randn(300, 2, generator=generator) > 0 for name, at in (("a", 0), ("b", 2))}
    together = fit_readers(["logistic", "mass_mean"], x, labels, torch.arange(len(x)), fitted_on="x")
    for reader, probes in together.items():
        for name, probe in probes.items():
            alone = fit_readers([reader], x, {name: labels[name]}, torch.arange(len(x)), fitted_on="x")[reader][name]
            assert torch.allclose(probe.scores(x), alone.scores(x), atol=1e-4), (reader, name)
            assert probe.heads == ("0", "1")


def test_each_head_takes_the_penalty_that_serves_it_on_groups_set_apart() -> None:
    """A head of noise wants a strong one, a planted head a weak one; and with one penalty there is nothing to choose."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 40, generator=generator)
    y = torch.stack([x[:, 0] > 0, torch.rand(400, generator=generator) > 0.5, torch.zeros(400, dtype=torch.bool)], dim=1)
    chosen = Penalties((1e-4, 1.0)).of_heads(x, y, torch.arange(400) // 4)
    assert chosen.tolist() == pytest.approx([1e-4, 1.0, 1.0])
    assert Penalties((0.01,)).of_heads(x, y, torch.arange(400)).tolist() == pytest.approx([0.01] * 3)


def said_of(names: tuple[str, ...], sites: Sites, seed: int = 0) -> dict[str, Said]:
    generator = torch.Generator().manual_seed(seed)
    labels = sites.seen < 4
    return {name: Said(labels.float() + torch.randn(len(sites), 1, generator=generator), labels, sites) for name in names}


ASKED = Asked(Question(concept_of("a"), ("a",), ()), resid_post(1), "logistic", 3)
TRAINED = ("source", *CONTROLS)


def test_every_slice_that_can_be_scored_has_its_entry() -> None:
    sites = sites_of()
    found = entries(ASKED, said_of(TRAINED, sites))
    assert [one.mask_rate for one in found] == [None, *MASK_RATES]
    assert all(set(one.scores) == set(TRAINED) for one in found)
    assert sum(one.sites for one in found[1:]) == found[0].sites == N
    few = replace(sites, group=torch.where(sites.mask_rate == 0.5, sites.group % (FEWEST_GROUPS - 1), sites.group))
    assert [one.mask_rate for one in entries(ASKED, said_of(TRAINED, few))] == [None, 0.1, 0.3, 0.7, 0.9]


def test_a_slice_of_one_class_has_no_entry() -> None:
    sites = sites_of()
    one_class = replace(sites, seen=torch.where((sites.mask_rate == 0.9)[:, None], 0, sites.seen))
    found = entries(ASKED, said_of(TRAINED, one_class))
    assert [one.mask_rate for one in found] == [None, 0.1, 0.3, 0.5, 0.7]
    figures = [getattr(scores, name).value for one in found for scores in one.scores.values() for name in ("auc", "matched")]
    assert np.isfinite(figures).all()


def test_a_probe_of_one_mask_rate_says_so() -> None:
    sites = sites_of(rates=(0.3,))
    (found,) = entries(replace(ASKED, fitted_at=0.3), said_of(TRAINED, sites))
    assert (found.fitted_at, found.mask_rate) == (0.3, 0.3)


def test_an_entry_cannot_be_made_without_its_controls() -> None:
    estimate = Estimate(value=0.5, low=0.4, high=0.6, n=9)
    one = Scores(auc=estimate, matched=estimate, accuracy=estimate, calibration=0.1, exact=estimate)
    place = {"concept": "a", "reader": "logistic", "hook_point": "x", "layer": 0, "heads": ("a",), "seed": 0, "sites": 9}

    def entry(*names: str) -> ProbeEntry:
        return ProbeEntry(**place, scores=dict.fromkeys(names, one))

    entry(*TRAINED)
    entry("source", "zero_shot", CEILING, *CONTROLS)
    for control in CONTROLS:
        with pytest.raises(ValueError, match=f"lacks {control}; a probe's score comes with its controls"):
            entry(*(name for name in TRAINED if name != control))
    for moved in ("zero_shot", "procrustes", "refit 1.0%"):
        with pytest.raises(ValueError, match=f"lacks {CEILING}"):
            entry(*TRAINED, moved)

"""Calibration: planted log odds are recovered, and under planted drift thresholds by band keep the rate that one for all leaves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from sklearn.calibration import _sigmoid_calibration

from interp.concepts import Sites
from interp.reading import UNCALIBRATED, CalibrationError, fit_calibration, measured
from interp.reading.calibration import BANDS, LEAST, platt
from interp.scoring import Said
from probes.metrics import calibration_error

ROWS = 20_000


def sites(share: torch.Tensor) -> Sites:
    """Places in some hundred boards, with these shares unwritten."""
    empty, board = torch.zeros(len(share), 1, dtype=torch.long), torch.arange(len(share)) % 300
    return Sites.unwritten(empty, empty, board, board, share)


def drifting(seed: int, heads: int = 2, drift: float = 6.0) -> Said:
    """Log odds from N(0, 3) and truths drawn from them; what the reader says is them, moved by how much is unwritten."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(ROWS, generator=generator)
    odds = 3 * torch.randn(ROWS, heads, generator=generator)
    truth = torch.rand(ROWS, heads, generator=generator) < odds.sigmoid()
    return Said(odds + drift * (share - 0.5)[:, None].mul(5).floor().div(5), truth, sites(share))


def exclusive_said(seed: int, rows: int = ROWS) -> Said:
    """Three classes, scores that rise with how much is unwritten."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(rows, generator=generator)
    scores = 2 * torch.randn(rows, 3, generator=generator)
    classes = torch.multinomial(scores.softmax(1), 1, generator=generator)
    return Said(scores + 4 * share[:, None], torch.arange(3) == classes, sites(share))


def test_platt_recovers_planted_log_odds() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(50_000, 2, generator=generator) * 5
    planted = torch.tensor([0.7, -0.2]), torch.tensor([-1.0, 0.5])
    truth = torch.rand(scores.shape, generator=generator) < (scores * planted[0] + planted[1]).sigmoid()
    for found, expected in zip(platt(scores, truth), planted, strict=True):
        torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("spread", [0.1, 1.0, 20.0])
def test_platt_is_scikit_learns(spread: float) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(400, 1, generator=generator, dtype=torch.float64) * spread
    truth = torch.rand(400, 1, generator=generator) < (2 * scores / spread - 1).sigmoid()
    slope, intercept = _sigmoid_calibration(scores[:, 0].numpy(), truth[:, 0].numpy())
    scale, offset = platt(scores, truth)
    assert (scale.item() * spread, offset.item()) == pytest.approx((-slope * spread, -intercept), abs=1e-3)


def test_separable_scores_give_finite_log_odds() -> None:
    scores = torch.cat([torch.linspace(-5, -4, 40), torch.linspace(4, 5, 10)])[:, None]
    scale, offset = platt(scores, scores > 0)
    said = (scores * scale + offset).sigmoid()
    assert ((said > 0.5) == (scores > 0)).all()
    assert said[:40].mean().item() == pytest.approx(1 / 42, abs=0.01)
    assert said[40:].mean().item() == pytest.approx(11 / 12, abs=0.01)


def test_one_threshold_leaves_the_asked_rate_where_scores_drift_and_thresholds_by_band_keep_it() -> None:
    said, unseen = drifting(0), drifting(1)
    everywhere = fit_calibration(said, exclusive=False, alpha=0.05, bands=(1.0,))
    banded = fit_calibration(said, exclusive=False, alpha=0.05)
    in_bands = {
        name: measured(
            replace(banded, scale=one.scale.expand(5, -1), offset=one.offset.expand(5, -1), threshold=one.threshold.expand(5, -1)),
            unseen,
            exclusive=False,
        )
        for name, one in (("global", everywhere), ("banded", banded))
    }
    assert in_bands["global"].false_alarm.max() > 0.12
    assert in_bands["global"].false_alarm.min() < 0.01
    torch.testing.assert_close(in_bands["banded"].false_alarm, torch.full((5, 2), 0.05), atol=0.015, rtol=0)
    share = unseen.sites.mask_rate
    for one, least, most in ((everywhere, 0.03, 1.0), (banded, 0.0, 0.02)):
        lowest = share < 0.2
        error = calibration_error(one.logits(unseen.logits, share).sigmoid()[lowest], unseen.labels[lowest])
        assert least < error.mean() < most


def test_a_claim_of_an_exclusive_head_is_the_likeliest_and_false_as_rarely_as_asked() -> None:
    calibration = measured(fit_calibration(exclusive_said(0), exclusive=True, alpha=0.02), unseen := exclusive_said(1), exclusive=True)
    probabilities = calibration.logits(unseen.logits, unseen.sites.mask_rate).sigmoid()
    claims = calibration.claims(probabilities, unseen.sites.mask_rate, exclusive=True)
    assert claims.sum(1).max() == 1
    assert (probabilities.argmax(1)[claims.any(1)] == claims.long().argmax(1)[claims.any(1)]).all()
    torch.testing.assert_close(calibration.false_alarm, torch.full((5, 3), 0.02), atol=0.008, rtol=0)
    wrong = (claims & ~unseen.labels).any(1)
    lowest = unseen.sites.mask_rate < 0.2
    assert calibration.false_alarm[0, 0].item() == pytest.approx(wrong[lowest].double().mean().item())
    assert calibration.boards == 300


def test_nothing_is_claimed_below_one_half_or_where_nothing_was_read() -> None:
    share = torch.tensor([0.1, 0.9])
    claims = UNCALIBRATED.claims(torch.tensor([[0.49, 0.51], [math.nan, math.nan]]), share, exclusive=False)
    assert claims.tolist() == [[False, True], [False, False]]
    assert (fit_calibration(drifting(0), exclusive=False, alpha=0.9).threshold == LEAST).all()


def test_a_head_with_few_sites_takes_what_all_heads_have_together() -> None:
    said = drifting(2)
    rare = said.labels.clone()
    rare[:, 1] = False
    rare[:8, 1] = True
    found = fit_calibration(Said(said.logits, rare, said.sites), exclusive=False, alpha=0.05)
    assert found.pooled.tolist() == [[False, True]] * 5
    assert torch.isfinite(found.scale).all()
    few = said.rows(torch.arange(ROWS) < 60)
    cautious = fit_calibration(few, exclusive=False, alpha=0.01, bands=(1.0,))
    assert cautious.pooled.all()
    false = cautious.logits(few.logits, few.sites.mask_rate).sigmoid()[~few.labels]
    assert cautious.threshold[0, 0].item() == pytest.approx(max(LEAST, false.max().item()))


def test_bands_hold_their_lower_end_and_must_rise_to_one() -> None:
    assert replace(UNCALIBRATED, bands=BANDS).band(torch.tensor([0.0, 0.2, 0.39, 0.4, 1.0])).tolist() == [0, 1, 1, 2, 4]
    for bands, alpha in (((0.5, 0.4, 1.0), 0.01), ((0.5,), 0.01), ((), 0.01), ((1.0,), 0.0)):
        with pytest.raises(CalibrationError, match="bands must rise from above 0 to 1, and alpha lie between 0 and 1"):
            fit_calibration(drifting(0), exclusive=False, alpha=alpha, bands=bands)


def test_a_band_without_sites_is_named() -> None:
    said = drifting(0)
    with pytest.raises(CalibrationError, match="canvases up to 20% unwritten have 0 sites with 0 true and 0 false heads; a band needs 10"):
        fit_calibration(said.rows(said.sites.mask_rate > 0.2), exclusive=False)

"""Unmasking policies that follow a clock: positions are written, and masked again, with probabilities that depend on the time.

Time runs from 1 to 0 in T equal steps; T is the step budget or, without one, the option ``calls`` (for each block, if the run has blocks).
Step k of T goes from time t = (T - k + 1) / T to s = (T - k) / T. At time t a share alpha_t of the positions is written on average: 1 - t,
unless told. The tokens are the run's proposals, so that at temperature 1 a run is an exact ancestral sample in T steps.

The published code ends just short of time 0 and writes what is still masked with the best tokens of one more call; here the last step ends
at 0 and writes everything left. It draws in double precision, and ReMDM from a nucleus; here these are the run's own temperature and top-p.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.turn import Move, Option, PolicyError, Turn

Share = Float[Tensor, "batch 1"]
"""A time, or a share of positions, of each row."""


def check(name: str, value: Option, fits: bool, rule: str) -> None:
    """Returns nothing; raises PolicyError where an option's value does not fit its rule."""
    if not fits:
        raise PolicyError(f"{name} is {value}; it must {rule}")


def check_share(name: str, value: float) -> None:
    """Returns nothing; raises PolicyError where an option is no share or probability."""
    check(name, value, 0 <= value <= 1, "lie in 0 to 1")


def steps_left(turn: Turn, calls: int) -> Int[Tensor, " batch"]:
    """Returns how many steps come after this one: of the budget or, without one, of ``calls``."""
    check("calls", calls, calls >= 1, "be at least 1")
    return (turn.total(calls) - turn.step).clamp(min=0)


def ddpm(turn: Turn, *, calls: int = 128) -> Move:
    """Returns each masked position with probability (alpha_s - alpha_t) / (1 - alpha_t), 1 / (T - k + 1): ancestral sampling.

    MDLM (2406.07524), ``_ddpm_update`` of its code; Dream's ``origin``. A step may write nothing. Without a budget T is ``calls``.
    """
    left = steps_left(turn, calls)
    return Move(turn.masked & (turn.uniform() < 1 / (left + 1)[:, None]))


def ddpm_cache(turn: Turn, *, calls: int = 128) -> Move:
    """Returns what ``ddpm`` writes at the first coming step that writes anything, and uses up the steps until then.

    MDLM (2406.07524), ``_ddpm_caching_update``: a network that does not read the time says the same of a canvas that did not change, so no
    call is spent on it. Samples are distributed as those of ``ddpm``. The published code saves a call only where nothing changed in the
    whole batch; here every row has its own clock.
    """
    left = steps_left(turn, calls)
    write, used, waiting = torch.zeros_like(turn.masked), torch.zeros_like(left), turn.masked.any(1)
    while waiting.any():
        hit = turn.masked & waiting[:, None] & (turn.uniform() < 1 / (left - used + 1)[:, None])
        write |= hit
        used += waiting
        waiting &= ~hit.any(1)
    return Move(write, steps=used.clamp(min=1))


def _times(turn: Turn, calls: int) -> tuple[Share, Share]:
    """Returns the time before and after each row's step."""
    left = steps_left(turn, calls)
    total = turn.total(calls)
    return ((left + 1) / total)[:, None], (left / total)[:, None]


def _most(alpha_t: Share, alpha_s: Share) -> Share:
    """Returns the greatest probability of masking again for which alpha can hold: min(1, (1 - alpha_s) / alpha_t)."""
    return ((1 - alpha_s) / alpha_t.clamp(min=1e-30)).clamp(max=1)


def _remasking(turn: Turn, calls: int, alpha_t: Share, alpha_s: Share, sigma: Share | Float[Tensor, "batch pos"]) -> Move:
    """Returns written positions to mask again with probability ``sigma``, and so many masked ones to write that alpha holds."""
    drawn = turn.uniform()
    unmasking = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    remask = turn.writable & ~turn.masked & (drawn < sigma)
    return Move(turn.masked & (drawn < unmasking), remask, more=steps_left(turn, calls) > 0)


def remdm_cap(turn: Turn, *, calls: int = 128, eta: float = 0.008) -> Move:
    """Returns written positions to mask again with probability sigma = min(eta, (1 - alpha_s) / alpha_t), and masked ones to write.

    ReMDM-cap (2503.00307, section 4.1; ``remdm-cap`` of its code). Masked positions are written with probability
    (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t). It goes on to its last step even where nothing is masked. The published run has 1024
    steps, this ``eta`` and top-p 0.9.
    """
    check_share("eta", eta)
    before, after = _times(turn, calls)
    return _remasking(turn, calls, 1 - before, 1 - after, _most(1 - before, 1 - after).clamp(max=eta))


def remdm_rescale(turn: Turn, *, calls: int = 128, eta: float = 0.015) -> Move:
    """Returns written positions to mask again with probability sigma = eta min(1, (1 - alpha_s) / alpha_t), and masked ones to write.

    ReMDM-rescale (2503.00307, section 4.1; ``remdm-rescale`` of its code). Otherwise as ``remdm_cap``.
    """
    check_share("eta", eta)
    before, after = _times(turn, calls)
    return _remasking(turn, calls, 1 - before, 1 - after, eta * _most(1 - before, 1 - after))


def remdm_conf(turn: Turn, *, calls: int = 128, eta: float = 1.0) -> Move:
    """Returns written positions to mask again, rather those written with little confidence, and masked ones to write.

    ReMDM-conf (2503.00307, section 4.1; ``remdm-conf`` of its code). Sigma is that of ``remdm_rescale`` times a weight:
    the softmax, over the row's written positions, of minus the confidence each was written with. It is 0 at masked positions, which are
    written with probability (alpha_s - alpha_t) / (1 - alpha_t). The published code has ``eta`` 1. A token that this run did not write
    counts as written with confidence 0. Otherwise as ``remdm_cap``.
    """
    check_share("eta", eta)
    before, after = _times(turn, calls)
    doubt = (-turn.written_with.nan_to_num(0.0)).masked_fill(turn.masked | ~turn.writable, -torch.inf)
    weight = doubt.softmax(1).nan_to_num(0.0)
    return _remasking(turn, calls, 1 - before, 1 - after, weight * eta * _most(1 - before, 1 - after))


def _looped(time: Share, t_on: float, t_off: float, alpha_on: float) -> Share:
    """Returns alpha of a time: up to ``alpha_on`` until ``t_on``, level until ``t_off``, then up to 1."""
    early = ((1 - time) * alpha_on / (1 - t_on)).clamp(max=alpha_on)
    return torch.where(time > t_off, early, 1 - time * (1 - alpha_on) / t_off)


def remdm_loop(turn: Turn, *, calls: int = 128, eta: float = 0.02, t_on: float = 0.55, t_off: float = 0.05, alpha_on: float = 0.9) -> Move:
    """Returns ``ddpm``'s positions, but from time ``t_on`` to ``t_off`` written ones to mask again and masked ones to write.

    ReMDM-loop (2503.00307, section 4.2; ``remdm-loop`` of its code). Until ``t_on`` it writes a share ``alpha_on``; then alpha stands
    still and sigma is min(eta, (1 - alpha_s) / alpha_t), uncapped in the published code; after ``t_off`` it writes the rest. Otherwise as
    ``remdm_cap``. Where ``t_on`` or ``t_off`` lies between the times of two steps, the published code lets alpha jump; here alpha is one
    function of time.
    """
    check_share("eta", eta)
    check("t_on", t_on, 0 < t_on < 1, "be above 0 and below 1")
    check("t_off", t_off, 0 < t_off < t_on, f"be above 0 and below t_on, {t_on}")
    check("alpha_on", alpha_on, 0 < alpha_on < 1, "be above 0 and below 1")
    before, after = _times(turn, calls)
    alpha_t, alpha_s = (_looped(time, t_on, t_off, alpha_on) for time in (before, after))
    looping = (before <= t_on) & (before > t_off)
    return _remasking(turn, calls, alpha_t, alpha_s, torch.where(looping, _most(alpha_t, alpha_s).clamp(max=eta), 0.0))

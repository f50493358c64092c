"""Unmasking policies: what a denoising step writes, and what it masks again.

A policy is a function of a ``Turn``: what the network just said, and how far the run is. It returns a ``Move``. Its keyword-only
arguments are its options. To add one: write the function, add its line to ``POLICIES``; those with a clock are in ``models.ancestral``.

Wherever a policy writes as many as it is sure of, a step budget may make it write more, the surest first, so as to keep to it. Confidence,
margin and entropy are those of the untempered prediction; the published code of Dream, SDAR, LLaDA2.1 and DiffusionGemma has them after
temperature and top-p.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.ancestral import check, check_share, ddpm, ddpm_cache, remdm_cap, remdm_conf, remdm_loop, remdm_rescale, steps_left
from models.numerals import GREATEST, number, whole
from models.turn import Move, Option, PolicyError, Turn, UnmaskingPolicy, first_by, gumbel


def random(turn: Turn) -> Move:
    """Returns uniformly drawn positions (LLaDA ``random``, 2502.09992): so many a step, where ``ddpm`` draws how many."""
    return Move(first_by(turn.uniform(), turn.masked, turn.quota))


def low_confidence(turn: Turn) -> Move:
    """Returns the most probable proposals (LLaDA, 2502.09992, algorithm 5; "top probability" in Kim et al., 2502.06768).

    SDAR's ``low_confidence_static`` (2510.06303) is the same rule within a block.
    """
    return Move(first_by(turn.scores.confidence, turn.masked, turn.quota))


def _best(turn: Turn, score: Float[Tensor, "batch pos"], alg_temp: float) -> Move:
    """Returns the positions of highest score or, above temperature 0, some drawn without replacement from softmax(score / alg_temp)."""
    check("alg_temp", alg_temp, 0 <= alg_temp < math.inf, "be 0 (the best) or greater, and finite")
    if alg_temp:
        score = score + alg_temp * gumbel(turn.uniform())
    return Move(first_by(score, turn.masked, turn.quota))


def maskgit_plus(turn: Turn, *, alg_temp: float = 0.0) -> Move:
    """Returns the most probable proposals, or with ``alg_temp`` a draw that prefers them (Dream ``maskgit_plus``, 2508.15487).

    Dream rounds a step's share of the masked positions down and leaves the rest to the last step; here it is rounded up.
    """
    return _best(turn, turn.scores.confidence, alg_temp)


def topk_margin(turn: Turn, *, alg_temp: float = 0.0) -> Move:
    """Returns the positions whose best token leads the second by most (Kim et al., 2502.06768, section 4.1; Dream ``topk_margin``).

    ``alg_temp`` is that of ``maskgit_plus``.
    """
    return _best(turn, turn.scores.margin, alg_temp)


def entropy(turn: Turn, *, alg_temp: float = 0.0) -> Move:
    """Returns the positions of lowest predictive entropy (Dream ``entropy``, 2508.15487). ``alg_temp`` is that of ``maskgit_plus``."""
    return _best(turn, -turn.scores.entropy, alg_temp)


def sequential(turn: Turn) -> Move:
    """Returns the leftmost masked positions: an autoregressive model's order (SDAR ``sequential``, 2510.06303)."""
    positions = torch.arange(turn.masked.shape[1], device=turn.masked.device, dtype=torch.float)
    return Move(first_by(-positions.expand(turn.masked.shape), turn.masked, turn.quota))


def threshold(turn: Turn, *, threshold: float = 0.9999) -> Move:
    """Returns every proposal at least as probable as ``threshold``, and always the best one (Fast-dLLM, 2505.22618, algorithm 1)."""
    check_share("threshold", threshold)
    sure = (turn.scores.confidence >= threshold) & turn.masked
    return Move(sure | first_by(turn.scores.confidence, turn.masked, turn.quota))


def low_confidence_dynamic(turn: Turn, *, threshold: float = 0.85) -> Move:
    """Returns every proposal more probable than ``threshold``, and as many as ``low_confidence`` at least (SDAR, 2510.06303).

    After a call that wrote more than its share, what is left is spread evenly over the steps left; SDAR's code keeps its first schedule.
    """
    check_share("threshold", threshold)
    sure = (turn.scores.confidence > threshold) & turn.masked
    return Move(sure | first_by(turn.scores.confidence, turn.masked, turn.quota))


def factor(turn: Turn, *, factor: float = 1.0) -> Move:
    """Returns the n most probable proposals for the largest n with (n + 1) (1 - c_n) < ``factor``, c_n the n-th, and one at least.

    Fast-dLLM (2505.22618), factor-based parallel decoding. Its code admits equality, and writes all where only the last of them fails.
    """
    check("factor", factor, 0 <= factor < math.inf, "be 0 (one at a time) or greater, and finite")
    confidence = turn.scores.confidence.masked_fill(~turn.masked, -torch.inf).sort(1, descending=True).values
    rank = torch.arange(1, confidence.shape[1] + 1, device=confidence.device)
    n = ((rank + 1) * (1 - confidence) < factor).sum(1)
    return Move(first_by(turn.scores.confidence, turn.masked, torch.maximum(n, turn.quota)))


def _jointly_sure(turn: Turn, among: Bool[Tensor, "batch pos"], entropy_bound: float) -> Bool[Tensor, "batch pos"]:
    """Returns the positions of lowest entropy, as many that the sum of their entropies less the largest is at most the bound."""
    check("entropy_bound", entropy_bound, 0 <= entropy_bound < math.inf, "be 0 nats or greater, and finite")
    ordered = turn.scores.entropy.masked_fill(~among, torch.inf).sort(1).values
    before = ordered.cumsum(1) - ordered
    return first_by(-turn.scores.entropy, among, (before <= entropy_bound).sum(1))


def entropy_bounded(turn: Turn, *, entropy_bound: float = 0.1) -> Move:
    """Returns the positions of lowest entropy whose sum less the largest is at most ``entropy_bound`` nats (EB-Sampler, 2505.24857).

    The sum less the largest bounds what the positions tell of each other, which writing them at once ignores. Others bound the whole sum.
    """
    sure = _jointly_sure(turn, turn.masked, entropy_bound)
    return Move(sure | first_by(-turn.scores.entropy, turn.masked, turn.quota))


def mgdm(turn: Turn, *, calls: int = 20, noise: float = 0.0) -> Move:
    """Returns every position, predicted anew, but the least probable: these are masked again, fewer each call (MGDM, 2410.14157).

    Its ``topk_decoding`` with the linear schedule: of N writable positions, call s of T leaves N (T - s) / T masked, rounded down, so
    that a written token can be changed or taken back. T is the step budget or, without one, ``calls``. ``noise`` adds Gumbel noise of
    scale ``noise`` (T - s) / T to the log-probabilities compared; the published runs have 0.5, and 0 draws nothing. Of positions equally
    probable, the rightmost are masked (the published code may then mask fewer).
    """
    check("noise", noise, 0 <= noise < math.inf, "be 0 (none) or greater, and finite")
    left, total = steps_left(turn, calls), turn.total(calls)
    priority = turn.scores.confidence
    if noise:
        priority = priority.log() + (noise * left / total)[:, None] * gumbel(turn.uniform())
    n = turn.writable.sum(1)
    kept = first_by(priority, turn.writable, n - n * left // total)
    return Move(kept, turn.writable & ~kept, more=left > 0)


def token_editing(turn: Turn, *, threshold: float = 0.7, editing_threshold: float = 0.5, max_post_steps: int = 16) -> Move:
    """Returns every proposal more probable than ``threshold``, one at least, and every change more probable than ``editing_threshold``.

    LLaDA2.1 (2602.08676), in its quality mode; 0.5 and 0 are its speed mode. A change is a proposal other than the token that stands. It
    ends with the first turn that finds nothing masked and changes nothing, or ``max_post_steps`` turns after the last masked position is
    written. For these turns the clock jumps as that position is written: to the end of the budget less ``max_post_steps``; without a
    budget, writing has as many steps as there are positions.
    """
    check_share("threshold", threshold)
    check_share("editing_threshold", editing_threshold)
    check("max_post_steps", max_post_steps, max_post_steps >= 0, "be 0 (no turn after) or greater")
    confidence, masked = turn.scores.confidence, turn.masked
    written = (confidence > threshold) & masked | first_by(confidence, masked, turn.quota)
    changed = (confidence > editing_threshold) & (turn.scores.proposal != turn.tokens) & turn.writable & ~masked
    end = turn.writable.sum(1) + max_post_steps if turn.steps is None else turn.steps
    completed = masked.any(1) & ~(masked & ~written).any(1)
    used = torch.where(completed, end - max_post_steps - turn.step + 1, 1).clamp(min=1)
    wanted = masked.any(1) | changed.any(1)
    return Move(written | changed, more=wanted & (turn.step + used <= end), steps=used)


def uniform_renoise(turn: Turn, *, calls: int = 48, entropy_bound: float = 0.1) -> Move:
    """Returns the proposals of lowest entropy, bounded as in ``entropy_bounded``, and random tokens at all other positions.

    DiffusionGemma's ``EntropyBoundSampler``: every position is decided anew, written or not, up to the last step of the budget or, without
    one, of ``calls``. That step writes all proposals (the published one their best tokens). It is made for models of uniform noise. A
    masked model runs too, but meets masks in the first call only; after it, random tokens look to it like given ones, and it never learned
    to doubt those.
    """
    last = steps_left(turn, calls) == 0
    write = _jointly_sure(turn, turn.writable, entropy_bound) | turn.writable & last[:, None]
    return Move(write, redraw=turn.writable & ~write, more=~last)


POLICIES: dict[str, UnmaskingPolicy] = {
    "random": random,
    "low_confidence": low_confidence,
    "maskgit_plus": maskgit_plus,
    "topk_margin": topk_margin,
    "entropy": entropy,
    "sequential": sequential,
    "threshold": threshold,
    "factor": factor,
    "low_confidence_static": low_confidence,
    "low_confidence_dynamic": low_confidence_dynamic,
    "entropy_bounded": entropy_bounded,
    "ddpm": ddpm,
    "ddpm_cache": ddpm_cache,
    "mgdm": mgdm,
    "remdm_cap": remdm_cap,
    "remdm_rescale": remdm_rescale,
    "remdm_conf": remdm_conf,
    "remdm_loop": remdm_loop,
    "token_editing": token_editing,
    "uniform_renoise": uniform_renoise,
}


def policy_options(name: str) -> dict[str, Option]:
    """Returns the options of a policy with their defaults."""
    parameters = inspect.signature(POLICIES[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def _like(option: str, value: object, default: Option) -> Option:
    """Returns the value as a number of its default's kind."""
    if isinstance(default, float):
        return number(option, value, PolicyError)
    return whole(option, value, PolicyError, least=-GREATEST)


def resolve_policy(name: object, options: Mapping[str, object]) -> dict[str, Option]:
    """Returns all options of a policy, defaults filled in.

    Raises:
        PolicyError: On an unknown policy or option, naming the choices, on what is no number, or no whole one where one is due.
    """
    if not isinstance(name, str) or name not in POLICIES:
        raise PolicyError(f"unknown policy {name!r}; choose from {', '.join(POLICIES)}")
    known = policy_options(name)
    for option in options:
        if option not in known:
            raise PolicyError(f"policy {name!r} has no option {option!r}; it has {', '.join(known) or 'none'}")
    return known | {option: _like(option, value, known[option]) for option, value in options.items()}

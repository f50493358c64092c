"""The published ancestral samplers, MDLM and ReMDM, against ``denoise``.

The exact distribution over canvases after every step is enumerated and the run is held against it by chi-square; a wrong rate must be
rejected by the same test. Where a source and ``denoise`` differ on purpose, the reason stands beside the comparison.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from enumerated import MASK, SMALL, Canvas, Kernel, Law, State, chi_square, independent, laws, sampled
from fake_networks import FakeNetwork

# ---------------------------------------------------------------- MDLM and ReMDM


def subs(network: FakeNetwork, x: Canvas) -> np.ndarray:
    """MDLM ``_subs_parameterization``: the prediction where masked, what is written where written."""
    return np.where(np.asarray(x)[:, None] == MASK, network.predict(x), np.eye(SMALL)[list(x)])


Update = Callable[[np.ndarray, np.ndarray, float, float, tuple[float, ...]], np.ndarray]
"""``update(p_x0, x, t, dt, conf)``: the unnormalised ``q_xs`` of its sampler. What comes out negative is never drawn."""


def ancestral(network: FakeNetwork, steps: int, update: Update) -> Kernel:
    """kuleshov-group/mdlm and remdm ``_sample``. Its grid ends at 1e-5, which leaves a mask once in 1e5, to ``noise_removal``."""
    timesteps, dt = np.linspace(1, 1e-5, steps + 1), (1 - 1e-5) / steps

    def kernel(state: State, i: int) -> Iterator[tuple[State, float]]:
        x, conf = state
        p_x0 = subs(network, x)
        for xs, probability in independent(np.maximum(update(p_x0, np.asarray(x), timesteps[i], dt, conf), 0)):
            after = xs
            if i == steps - 1:
                after = tuple(subs(network, xs).argmax(-1).tolist())
            yield (after, tuple(remembered(conf, x, xs, p_x0))), probability

    return kernel


def remembered(conf: tuple[float, ...], x: Canvas, xs: Canvas, p_x0: np.ndarray) -> Iterator[float]:
    """ReMDM's ``conf``, kept as bfloat16: less the probability a token was written with."""
    for place, value in enumerate(conf):
        if x[place] == MASK and xs[place] != MASK:
            yield float(torch.tensor(-p_x0[place, xs[place]], dtype=torch.bfloat16))
        else:
            yield -inf if xs[place] == MASK else value


def mdlm(rate: float) -> Update:
    """``_ddpm_update``, and ``_ddpm_caching_update``, which is the same but for the calls it saves."""

    def update(p_x0: np.ndarray, x: np.ndarray, t: float, dt: float, conf: tuple[float, ...]) -> np.ndarray:
        q_xs = rate * p_x0 * dt
        q_xs[:, MASK] = t - dt
        return np.where(x[:, None] == MASK, q_xs, p_x0)

    return update


def cached(kernel: Kernel, steps: int) -> Kernel:
    """The calls that ``ddpm_cache`` makes: while ``xs`` is ``x`` it keeps ``p_x0``. Remembers the clock, 0 again at the end."""

    def next_call(state: State, j: int) -> Iterator[tuple[State, float]]:
        canvas, (clock,) = state
        waiting = 1.0 if MASK in canvas else 0.0
        yield state, 1 - waiting
        for i in range(int(clock), steps):
            same = 0.0
            for (after, _), probability in kernel((canvas, ()), i):
                if after == canvas:
                    same += probability
                else:
                    yield (after, (i + 1 if MASK in after else 0,)), waiting * probability
            waiting *= same

    return next_call


def remasking(p_x0: np.ndarray, x: np.ndarray, alpha_t: float, alpha_s: float, sigma: Any) -> np.ndarray:
    """``q_xs`` of the remdm samplers."""
    sigma = np.broadcast_to(sigma, x.shape)
    q_xs = p_x0 * (1 - sigma[:, None])
    q_xs[:, MASK] = sigma
    q_xs_2 = p_x0 * ((alpha_s - (1 - sigma[:, None]) * alpha_t) / (1 - alpha_t))
    q_xs_2[:, MASK] = (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t)
    return np.where(x[:, None] != MASK, q_xs, q_xs_2)


def remdm(sampler: str, eta: float) -> Update:
    """``remdm-cap``, ``remdm-rescale`` and ``remdm-conf`` (whose eta is 1: another one sharpens its softmax, to be found out)."""

    def update(p_x0: np.ndarray, x: np.ndarray, t: float, dt: float, conf: tuple[float, ...]) -> np.ndarray:
        alpha_t, alpha_s = 1 - t, 1 - (t - dt)
        most = (1 - alpha_s) / alpha_t if alpha_t > 0 else inf
        if sampler == "cap":
            return remasking(p_x0, x, alpha_t, alpha_s, min(eta, most))
        if sampler == "rescale":
            return remasking(p_x0, x, alpha_t, alpha_s, eta * min(1, most))
        exponents = np.exp(eta * np.where(x == MASK, 0.0, conf)) * (x != MASK)
        return remasking(p_x0, x, alpha_t, alpha_s, exponents / max(exponents.sum(), 1e-300) * min(1, most))

    return update


def remdm_loop(eta: float, t_on: float, t_off: float, alpha_on: float) -> Update:
    """``remdm-loop``."""

    def update(p_x0: np.ndarray, x: np.ndarray, t: float, dt: float, conf: tuple[float, ...]) -> np.ndarray:
        if t_off < t <= t_on:
            return remasking(p_x0, x, alpha_on, alpha_on, eta)
        if t > t_on:
            move_t, move_s = (1 - (1 - at) * alpha_on / (1 - t_on) for at in (t, t - dt))
        else:
            move_t, move_s = (at * (1 - alpha_on) / t_off for at in (t, t - dt))
        q_xs = p_x0 * (move_t - move_s)
        q_xs[:, MASK] = move_s
        return np.where(x[:, None] == MASK, q_xs, p_x0)

    return update


# ---------------------------------------------------------------- comparison of distributions


@dataclass(frozen=True)
class Case:
    """A policy that draws, and the kernel of its source at a rate: the right one, and a wrong one that must be told from it."""

    policy: str
    kernel: Callable[[FakeNetwork, float], Kernel]
    right: float
    wrong: float
    options: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    length: int = 3
    steps: int = 3
    """So many are compared."""
    scale: float = 1.5
    n: int = 3000

    def network(self) -> FakeNetwork:
        return FakeNetwork(seed=1, scale=self.scale, length=self.length, vocab=SMALL)

    def expected(self, rate: float) -> list[Law]:
        memory = {"remdm_conf": (-inf,) * self.length, "ddpm_cache": (0,)}.get(self.policy, ())
        return laws(self.kernel(self.network(), rate), (MASK,) * self.length, self.steps, memory, hidden=self.policy != "ddpm_cache")


def mdlm_case(policy: str, right: float, wrong: float, sampler: Callable[[float], Update], steps: int = 5, **more: Any) -> Case:
    asked = {"temperature": 1.0, "steps": steps}
    return Case(
        policy, lambda net, rate: ancestral(net, steps, sampler(rate)), right, wrong, asked=asked, steps=steps, **{"length": 2} | more
    )


LOOP = {"t_on": 0.6001, "t_off": 0.2001, "alpha_on": 0.7}
"""Off the grid of ten steps by a hair, so that no step straddles a change of phase: there the source overshoots ``alpha_on``."""


CASES = {
    "MDLM ddpm": mdlm_case("ddpm", 1.0, 0.8, mdlm, length=3),
    "MDLM ddpm_cache": Case(
        *("ddpm_cache", lambda net, rate: cached(ancestral(net, 5, mdlm(rate)), 5), 1.0, 0.7),
        asked={"temperature": 1.0, "steps": 5},
    ),
    "ReMDM cap": mdlm_case("remdm_cap", 0.3, 0.15, partial(remdm, "cap"), options={"eta": 0.3}),
    "ReMDM rescale": mdlm_case("remdm_rescale", 0.4, 0.2, partial(remdm, "rescale"), options={"eta": 0.4}),
    "ReMDM conf": mdlm_case("remdm_conf", 1.0, 0.0, partial(remdm, "conf"), steps=4, scale=4.0, n=12000),
    "ReMDM loop": mdlm_case("remdm_loop", 0.25, 0.1, lambda eta: remdm_loop(eta, **LOOP), steps=10, options={"eta": 0.25, **LOOP}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_distribution_is_the_published_ancestral_samplers(name: str) -> None:
    case = CASES[name]
    run = sampled(case.network(), (MASK,) * case.length, case.policy, case.options, case.n, **case.asked)
    clocks = case.policy == "ddpm_cache"
    assert chi_square(run, case.expected(case.right), clocks) > 1e-3
    assert chi_square(run, case.expected(case.wrong), clocks) < 1e-6

"""The conformance table of a model: all that ``models.checks`` proves at load, and whether it can be denoised, traced and read."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.backends import BACKENDS
from models.checks import TOLERANCES, Check, ModelCheckError, apart, check_backend, check_network, check_ragged, probe_tokens
from models.denoise import denoise
from models.hookpoints import HookPoint, resid_post
from models.recorder import Channel, Record
from models.tasks import PuzzleTask, TaskError, text_task
from models.trajectory import Trajectory

if TYPE_CHECKING:
    from models.language_model import LanguageModel

PASSAGE = (
    "The sun had not yet risen. The sea was indistinguishable from the sky, except that the sea was slightly creased as if a cloth had "
    "wrinkles in it. Gradually as the sky whitened a dark line lay on the horizon dividing the sea from the sky and the grey cloth "
    "became barred with thick strokes moving, one after another, beneath the surface, following each other, pursuing each other, "
    "perpetually. As they neared the shore each bar rose, heaped itself, broke and swept a thin veil of white water across the sand."
)
"""What a model of running text is read on: Virginia Woolf, The Waves (1931)."""
SIGMAS = 4.0
"""How many standard errors apart two shifts must be for the weights to tell them apart."""


def _natural(model: LanguageModel) -> Int[Tensor, "batch pos"] | None:
    """Returns sequences of the kind that the model was trained on; None where there is no way to make any."""
    if isinstance(model.task, PuzzleTask):
        return model.task.encode(model.task.generate(4, model.task.levels[0], seed=0)).to(model.device)
    try:
        ids = text_task(model.task).encode(PASSAGE)
    except TaskError:
        return None
    whole = all(token < int(model.module.config.vocab_size) for token in ids)
    return torch.tensor([ids[: model.longest]], device=model.device) if whole else None


def check_shift(model: LanguageModel) -> Check:
    """Returns the check that position i scores the token that the facts say: true tokens must be likelier so than with the other shift.

    A causal model reads natural sequences; a masked one has every seventh token masked, in turn. Weights that know nothing of such
    sequences, as random ones, tell neither shift from the other: then the check passes, and says so.
    """
    stated = model.facts.logit_shift
    name = f"position i scores token i{'+1' if stated else ''}"
    natural = _natural(model)
    remedy = "make logit_shift in the facts what the weights were trained with"
    if natural is None:
        return Check(f"{name} (not decided: no tokenizer, so no text)", True, 0.0, "text is needed", remedy)
    gains = torch.cat([_gains(model, natural, start) for start in range(7)])
    if stated == 0:
        gains = -gains
    error = gains.std() / len(gains) ** 0.5
    z = float(gains.mean() / error.clamp_min(1e-12))
    if abs(z) < SIGMAS:
        return Check(f"{name} (not decided: the weights tell neither shift)", True, z, "random weights know no text", remedy)
    rule = f"true tokens must be likelier so than with the other shift, by {SIGMAS:g} standard errors"
    return Check(name, z > 0, z, rule, remedy)


def _gains(model: LanguageModel, tokens: Int[Tensor, "batch pos"], start: int) -> Float[Tensor, " scored"]:
    """Returns how much likelier, in nats, shift 1 makes the true tokens than shift 0 does, at every seventh position from one on."""
    asked = torch.arange(tokens.shape[1], device=tokens.device) % 7 == start
    asked[0] = False
    mask = model.facts.mask_token_id
    seen = tokens if mask is None else tokens.masked_fill(asked, mask)
    scores = model.network.raw(seen).float().log_softmax(-1)
    own, before = (part.gather(-1, tokens[:, 1:, None])[..., 0] for part in (scores[:, 1:], scores[:, :-1]))
    return (before - own)[:, asked[1:]].flatten()


def check_readout(model: LanguageModel) -> tuple[Check, ...]:
    """Returns the checks of the residual streams: each leaves a block as it enters the next, and the last makes the logits."""
    tokens, layers = probe_tokens(model, 12), range(model.n_layers)
    before = [HookPoint(layer, "hook_resid_pre") for layer in layers if HookPoint(layer, "hook_resid_pre") in model.plain_points]
    after = [resid_post(layer) for layer in layers]
    raw, cache = BACKENDS["hooks"](model.network).run(tokens, {}, [*before, *after])
    most = TOLERANCES[model.module.dtype]
    steps = [apart(cache[one], cache[resid_post(one.layer - 1)]) for one in before if one.layer]
    rule, remedy = f"they may differ by {most:g} of the largest", "correct the sites or the readout of its architecture"
    chain = Check("each block's residual stream enters the next", max(steps, default=0.0) <= most, max(steps, default=0.0), rule, remedy)
    try:
        last = apart(raw, model.unembed(cache[after[-1]]))
    except ValueError as error:
        return chain, Check(f"the last residual stream makes the logits (not decided: {error})", True, 0.0, rule, remedy)
    return chain, Check("the last residual stream makes the logits", last <= most, last, rule, remedy)


def _denoising(model: LanguageModel, policy: str) -> Check:
    """A short canvas is written under a policy with a residual stream recorded, saved, and read again the same."""
    mask = model.facts.mask_token_id
    assert mask is not None
    tokens = probe_tokens(model, 16)
    tokens = tokens.masked_fill(tokens == mask, (mask + 1) % int(model.module.config.vocab_size))
    tokens[:, tokens.shape[1] // 2 :] = mask
    channel = Channel(resid_post(model.n_layers - 1))
    run = denoise(model, tokens, policy, record=Record(channels={"residual": channel}))
    left = int((run.tokens(-1) == mask).sum())
    with tempfile.TemporaryDirectory() as folder:
        run.save(Path(folder) / "run.zarr")
        same = Trajectory.load(Path(folder) / "run.zarr").data.identical(run.data)
    name = f"denoised under {policy}, its trace saved and read"
    return Check(name, left == 0 and same, float(left), "every mask must be written, and the trace come back the same", "report it")


def _backend_checks(model: LanguageModel, name: str) -> tuple[Check, ...]:
    """Returns the checks of a backend at each of its points, or the one that it cannot be made or run, and why."""
    points: list[HookPoint] = [*model.plain_points]
    if name == "bridge":
        points = [*points, *(HookPoint(layer, "attn.hook_pattern") for layer in range(model.n_layers))]
    try:
        backend = BACKENDS[name](model.network)
        found = check_backend(model, backend, [point for point in points if point in backend.hook_points])
        return (*found, *check_readout(model)) if name == "hooks" else found
    except Exception as error:  # whatever a library raises on a site that is none
        why = " ".join(str(error).split())[:200]
        return (Check(f"{name} can be made", False, 0.0, why, "correct the sites or the bridge of its architecture"),)


def conformance(model: LanguageModel, on_check: Callable[[Check], None] = lambda check: None) -> list[Check]:
    """Returns every check of a model, passed or not, told one by one: network, each backend at each of its points, batches, runs."""
    found: list[Check] = []

    def tell(checks: tuple[Check, ...]) -> None:
        for check in checks:
            found.append(check)
            on_check(check)

    tell(check_network(model))
    inside = found[1].passed
    if inside:
        tell((check_shift(model),))
    for name in BACKENDS:
        if name != "bridge" or model.network.architecture.bridge is not None:
            tell(_backend_checks(model, name))
    tell(check_ragged(model))
    if model.facts.objective == "masked" and inside:
        with suppress(ModelCheckError):  # what it names has been told
            tell(tuple(_denoising(model, policy) for policy in ("low_confidence", "random")))
    return found

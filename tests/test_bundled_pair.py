"""The shipped twins: what their cards promise, on boards that no training saw."""

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from models.checks import TOLERANCES
from models.evaluate import evaluate
from models.hookpoints import resid_post
from models.load import PRETRAINED, bundled_names, load
from models.tasks.sudoku.generator import generate

TOKENS = torch.randint(0, 12, (4, 163), generator=torch.Generator().manual_seed(5))


def test_the_models_are_bundled_with_cards_and_stay_small() -> None:
    assert bundled_names() == ["stories-ar", "stories-diffusion", "sudoku-ar", "sudoku-diffusion"]
    for name in bundled_names():
        card = (PRETRAINED / name / "README.md").read_text()
        assert all(f"## {part}" in card for part in ("Recipe", "Figures", "Limits", "Licence"))
        with safe_open(PRETRAINED / name / "model.safetensors", framework="pt") as weights:
            assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*")) < 40e6


@pytest.mark.parametrize("name", bundled_names())
def test_the_bridge_gives_the_bare_networks_logits(name: str) -> None:
    model = load(name)
    logits, _ = model.run_with_cache(TOKENS, [resid_post(0)])
    assert (logits - model.logits(TOKENS)).abs().max() <= TOLERANCES[torch.float32] * logits.abs().max()


@pytest.mark.parametrize("name", bundled_names())
def test_transformers_alone_opens_them_in_their_own_regime(name: str) -> None:
    module = AutoModelForCausalLM.from_pretrained(PRETRAINED / name, dtype=torch.float32, attn_implementation="eager").eval()
    other = TOKENS.clone()
    other[:, -1] = (other[:, -1] + 1) % 12
    with torch.no_grad():
        moved = (module(input_ids=TOKENS).logits[:, 0] - module(input_ids=other).logits[:, 0]).abs().max()
        assert torch.equal(module(input_ids=TOKENS, use_cache=False).logits, load(name).module(input_ids=TOKENS, use_cache=False).logits)
    assert (moved > 1e-3) == name.endswith("-diffusion")


def test_the_diffusion_twin_solves_what_the_causal_twin_does_not() -> None:
    boards = generate(40, "naked_singles", seed=77)
    diffusion, causal = (evaluate(load(name), boards, "threshold").verdicts for name in ("sudoku-diffusion", "sudoku-ar"))
    assert diffusion.exact.mean() >= 0.85
    assert diffusion.valid.mean() >= diffusion.exact.mean()
    assert causal.exact.mean() <= 0.2
    assert 0.3 <= causal.cells.mean() <= 0.7


@pytest.mark.slow
def test_the_diffusion_twin_solves_95_percent_of_a_thousand_naked_single_boards() -> None:
    assert evaluate(load("sudoku-diffusion"), generate(1000, "naked_singles", seed=1)).verdicts.exact.mean() >= 0.95

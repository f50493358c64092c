"""What holds for every test: one thread, nothing fetched, and shapes checked."""

import inspect
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import numba
import pytest
import torch
from command_line import Ended, Run
from hypothesis import settings

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits "ignored", and Ctrl-C is tested
settings.register_profile("denoscope", deadline=None, derandomize=True)
settings.load_profile("denoscope")

_njit = numba.njit


def _njit_unwrapped(*args: Any, **options: Any) -> Any:
    """Compiles the function inside the shape check that --jaxtyping-packages wraps around it; numba cannot compile the check."""
    if args and inspect.isfunction(args[0]):
        return _njit(inspect.unwrap(args[0]), *args[1:], **options)
    decorate: Callable[[Any], Any] = _njit(*args, **options)
    return lambda function: decorate(inspect.unwrap(function))


numba.njit = _njit_unwrapped


@pytest.fixture(scope="session")
def tiny_module() -> Callable[..., Any]:
    """``tiny_module(attention="full", seed=0, **facts)``: a random GPT-2 of the sudoku vocabulary with its facts in its configuration.

    ``build`` starts branches and head at zero; here they are random, so that every part matters.
    """
    from models.architectures import ARCHITECTURES
    from models.architectures.base import set_attention
    from models.facts import CONFIG_KEY, ModelFacts

    def make(attention: str = "full", seed: int = 0, vocab_size: int = 12, **changes: Any) -> Any:
        family = ARCHITECTURES["gpt2"]
        module = family.build(vocab_size=vocab_size, n_positions=163, d_model=32, n_layers=2, n_heads=2, seed=seed)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed + 1)
            for name, parameter in module.named_parameters():
                if name.endswith("c_proj.weight") or name == "lm_head.weight":
                    parameter.normal_(std=0.3)
        set_attention(family, module.config, attention)
        masked = attention == "full"
        stated = {"objective": "masked" if masked else "causal", "attention": attention, "logit_shift": 1, "task": "sudoku"}
        facts = ModelFacts(**{**stated, "mask_token_id": 11 if masked else None, **changes})
        setattr(module.config, CONFIG_KEY, facts.to_config())
        return module.eval()

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_module: Callable[..., Any]) -> Callable[..., Any]:
    """``tiny_model(...)``: the same as a ``LanguageModel``, not proved."""
    from models.facts import CONFIG_KEY, ModelFacts
    from models.language_model import wrap

    def make(attention: str = "full", seed: int = 0, **changes: Any) -> Any:
        module = tiny_module(attention, seed, **changes)
        return wrap("tiny", module, ModelFacts.from_config(getattr(module.config, CONFIG_KEY)))

    return make


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory, tiny_module: Callable[..., Any]) -> dict[str, Path]:
    """Folders of a random causal and a random masked model, in a folder with a space."""
    folders = {}
    for name, regime in (("causal", "causal"), ("masked", "full")):
        folders[name] = tmp_path_factory.mktemp("two models") / name
        tiny_module(regime).save_pretrained(folders[name])
    return folders


@pytest.fixture
def denoscope(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``denoscope("models", "--json")`` in this process, through the real entry point."""

    def run(*arguments: object) -> Ended:
        from interp.cli import main

        monkeypatch.setattr(sys, "argv", ["denoscope", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return Ended(end.value.code or 0, said.out, said.err)

    return run

"""One training of a sparse autoencoder, step by step, that can be stopped and resumed: SAELens' trainer on scaled activations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from probes.errors import ProbeError
from probes.saes.folding import Scaling, adopt, calibrated, unfolded
from probes.saes.recipe import ARCHITECTURES, SaeRecipe

if TYPE_CHECKING:
    from sae_lens import SAE, TrainingSAE
    from sae_lens.config import SAETrainerConfig

STATE_NAME = "trainer.safetensors"
COUNTS = ("n_training_steps", "n_training_samples", "n_frac_active_samples")
COUNTERS = ("act_freq_scores", "n_forward_passes_since_fired")


def bfloat16_is_fast(device: torch.device) -> bool:
    """Returns whether the device multiplies bfloat16 matrices in hardware (training is then 2 to 3 times faster; elsewhere slower)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(found.get(name, False) for name in ("amx_bf16", "avx512_bf16", "sve_bf16"))


def untrained(recipe: SaeRecipe, d_in: int, metadata: Mapping[str, Any]) -> TrainingSAE[Any]:
    """Returns an untrained SAE on the CPU, whose weights depend on the recipe's seed alone."""
    from sae_lens.registry import get_sae_training_class
    from sae_lens.saes.sae import SAEMetadata

    config = ARCHITECTURES[recipe.architecture](recipe, d_in=d_in, d_sae=recipe.d_sae, metadata=SAEMetadata(**metadata))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return get_sae_training_class(config.architecture())[0](config)


def trainer_config(recipe: SaeRecipe, device: torch.device) -> SAETrainerConfig:
    """Returns what SAELens' trainer is told.

    Latents that have been silent for 5 % of the steps count as dead (SAELens: 1000 steps), so that short trainings revive some too. TopK,
    BatchTopK and Matryoshka SAEs then also reconstruct what is left over with their dead latents (Gao et al. 2024, appendix A.2), which
    takes up to two thirds more time and leaves far fewer dead: .31 in place of .84 of 1024 after 390 steps (BatchTopK), with equal FVU.
    """
    from sae_lens.config import LoggingConfig, SAETrainerConfig

    return SAETrainerConfig(
        total_training_samples=recipe.steps * recipe.batch,
        train_batch_size_samples=recipe.batch,
        lr=recipe.lr,
        lr_end=recipe.lr / 10,
        lr_warm_up_steps=recipe.warm_up,
        lr_decay_steps=3 * recipe.steps // 10,
        dead_feature_window=max(20, min(1000, recipe.steps // 20)),
        device=str(device),
        autocast=bfloat16_is_fast(device),
        logger=LoggingConfig(log_to_wandb=False),
    )


class SaeTrainer:
    """One training in progress: SAELens' trainer on centred and scaled rows, silent. Its state can be saved and resumed exactly."""

    def __init__(
        self,
        recipe: SaeRecipe,
        scaling: Scaling,
        *,
        hook_name: str = "",
        fitted_on: str = "",
        device: torch.device | str = "cpu",
        start: SAE[Any] | None = None,
        freeze_decoder: bool = False,
    ) -> None:
        from sae_lens import SAETrainer

        self.recipe = recipe
        self.scaling = scaling.to(device)
        self.stated = {"hook_name": hook_name, "fitted_on": fitted_on}
        self.freeze_decoder = freeze_decoder
        sae = untrained(recipe, len(scaling.mean), self.stated).to(device)
        if start is not None:
            adopt(sae, start, self.scaling)
        for parameter in (sae.W_dec, sae.b_dec):
            parameter.requires_grad_(not freeze_decoder)
        self._trainer: Any = SAETrainer(cfg=trainer_config(recipe, torch.device(device)), sae=sae, data_provider=iter(()))

    @property
    def sae(self) -> TrainingSAE[Any]:
        """SAELens' training SAE, of scaled activations."""
        return self._trainer.sae

    @property
    def done(self) -> int:
        """Steps taken."""
        return self._trainer.n_training_steps

    def step(self, rows: Float[Tensor, "row d_model"]) -> float:
        """Takes an optimiser step on raw rows, and returns their fraction of variance unexplained before it.

        Raises:
            ProbeError: Where the loss is not a number.
        """
        scaled = self.scaling(rows)
        lost = self._trainer.step(scaled).losses["mse_loss"].detach()
        self._trainer.n_training_steps += 1
        fvu = float(lost / scaled.square().sum(1).mean())
        if fvu != fvu:
            raise ProbeError(f"the loss is not a number at step {self.done}; a lower lr than {self.recipe.lr} may help")
        return fvu

    def finish(self, calibration: Float[Tensor, "row d_model"] | None = None) -> SAE[Any]:
        """Returns the inference SAE of raw activations, with unit decoder rows and frozen weights.

        Args:
            calibration: Raw rows on which an SAE that is trained by batch gets a threshold of k active latents on average, and that others
                have no use for; None leaves SAELens' moving average, which is far off after few steps.
        """
        sae = unfolded(self.sae, self.scaling)
        if calibration is None or "topk_threshold" not in self.sae.state_dict():
            return sae
        return calibrated(sae, calibration, self.recipe.k)

    def save(self, folder: Path) -> None:
        """Writes the state to ``trainer.safetensors``, making the folder; a state that is there stays until the new one is whole."""
        trainer, optimizer = self._trainer, self._trainer.optimizer.state_dict()
        names = [name for name, _ in self.sae.named_parameters()]
        tensors = {f"sae.{name}": value for name, value in self.sae.state_dict().items()}
        for index, moments in optimizer["state"].items():
            tensors |= {f"adam.{names[index]}.{name}": value for name, value in moments.items()}
        tensors |= {name: getattr(trainer, name) for name in COUNTERS}
        state = {
            **self._description(),
            "factor": self.scaling.factor,
            "freeze_decoder": self.freeze_decoder,
            "rescale": getattr(self.sae.cfg, "rescale_acts_by_decoder_norm", None),
            "counts": {name: getattr(trainer, name) for name in COUNTS},
            "lr": [group["lr"] for group in optimizer["param_groups"]],
            "lr_scheduler": trainer.lr_scheduler.state_dict(),
            "coefficients": {name: scheduler.state_dict() for name, scheduler in trainer.coefficient_schedulers.items()},
        }
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{STATE_NAME}.partial"
        held = {name: value.detach().contiguous() for name, value in tensors.items()} | {"mean": self.scaling.mean}
        save_file(held, partial, {"state": json.dumps(state)})
        partial.replace(folder / STATE_NAME)

    def _description(self) -> dict[str, Any]:
        return {"recipe": asdict(self.recipe), **self.stated}

    @classmethod
    def resume(
        cls, folder: Path, recipe: SaeRecipe, *, hook_name: str = "", fitted_on: str = "", device: torch.device | str = "cpu"
    ) -> SaeTrainer:
        """Returns the trainer that ``save`` wrote; on the same machine it goes on as if it had never stopped.

        Raises:
            ProbeError: Where the folder holds no state, or that of another training.
        """
        try:
            with safe_open(folder / STATE_NAME, "pt", device=str(device)) as file:
                state = json.loads((file.metadata() or {})["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ProbeError(
                f"{folder} holds no state of a training ({type(error).__name__}: {error}); SaeTrainer.save writes one"
            ) from None
        trainer = cls(
            recipe,
            Scaling(tensors["mean"], state["factor"]),
            hook_name=hook_name,
            fitted_on=fitted_on,
            device=device,
            freeze_decoder=state["freeze_decoder"],
        )
        for name, asked in trainer._description().items():
            if state[name] != asked:
                raise ProbeError(f"{folder} is of a training with {name} {state[name]!r}, not {asked!r}; they must be the same")
        trainer._restore(state, tensors)
        return trainer

    def _restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        trainer, optimizer = self._trainer, self._trainer.optimizer
        self.sae.load_state_dict({name: tensors[f"sae.{name}"] for name in self.sae.state_dict()})
        if state["rescale"] is not None:
            self.sae.cfg.rescale_acts_by_decoder_norm = state["rescale"]
        moments: dict[int, dict[str, Tensor]] = {}
        for index, (parameter, _) in enumerate(self.sae.named_parameters()):
            prefix = f"adam.{parameter}."
            found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            moments |= {index: found} if found else {}
        groups = [{**group, "lr": lr} for group, lr in zip(optimizer.state_dict()["param_groups"], state["lr"], strict=True)]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
        trainer.lr_scheduler.load_state_dict(state["lr_scheduler"])
        for name, scheduler in trainer.coefficient_schedulers.items():
            scheduler.load_state_dict(state["coefficients"][name])
        for name, count in state["counts"].items():
            setattr(trainer, name, count)
        for name in COUNTERS:
            setattr(trainer, name, tensors[name])

"""Random networks none of whose parts is idle."""

from typing import Any

import torch


def stirred(module: Any, seed: int = 1) -> Any:
    """The network in evaluation mode, with random weights, wide embeddings, and norms about as they start."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if parameter.ndim == 1:
                parameter += 0.1 * noise
            else:
                parameter.copy_((0.3 if any(part in name for part in ("embed", "wte", "wpe")) else 0.2) * noise)
    return module.eval()

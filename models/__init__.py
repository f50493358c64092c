"""Causal and masked-diffusion language models: tokens in; logits, named activations and denoising trajectories out."""

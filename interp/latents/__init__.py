"""Latents of sparse autoencoders: what each tells, where it fires, when, and what comes of moving it."""

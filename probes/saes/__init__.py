"""Sparse autoencoders as SAELens makes, trains and stores them: raw activations in, raw reconstructions out."""

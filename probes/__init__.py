"""Readers of activations: tensors in; linear probes, alignment maps and sparse autoencoders out."""

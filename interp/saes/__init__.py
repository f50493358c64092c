"""Sparse autoencoders trained by the batch on one model, kept in a folder, and moved to another."""

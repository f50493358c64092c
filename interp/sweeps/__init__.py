"""Sweeps: many probes trained from one file, kept in a folder, and moved to another model."""

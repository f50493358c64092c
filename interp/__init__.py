"""What needs both models and probes: harvest, transfer, the pseudo chain of thought, its tests, pictures and commands."""

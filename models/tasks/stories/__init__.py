"""Short stories as tokens."""

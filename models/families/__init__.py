"""Model families: one file each, one line in ``FAMILIES``."""

from models.families import gpt2
from models.families.base import Family

FAMILIES: dict[str, Family] = {family.model_type: family for family in (gpt2.FAMILY,)}
"""By the ``model_type`` of a Hugging Face configuration."""

"""Concepts: one line each in the tuple of their task's file."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from interp.concepts.base import Concept, ConceptError, Kind, Sites, labels_of
from interp.concepts.stories import STORY_CONCEPTS, hashed_tokens, text_tokens
from interp.concepts.sudoku import SUDOKU_CONCEPTS, peer_tokens

CONCEPTS: dict[str, Concept] = {concept.name: concept for concept in (*SUDOKU_CONCEPTS, *STORY_CONCEPTS)}

INPUT_FEATURES: dict[str, Callable[[Sites], Float[np.ndarray, "row feature"]]] = {
    "sudoku": peer_tokens,
    "stories": text_tokens,
    "text": hashed_tokens,
}
"""By task: what a reader without any network is given, for the input-only baseline; see ``features_of``."""


def features_of(concept: Concept) -> Callable[[Sites], Float[np.ndarray, "row feature"]]:
    """Returns what a reader without any network is given to answer a concept: its own features, or those of its task."""
    return concept.features or INPUT_FEATURES[concept.task]


__all__ = ["CONCEPTS", "INPUT_FEATURES", "Concept", "ConceptError", "Kind", "Sites", "features_of", "labels_of"]

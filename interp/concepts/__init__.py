"""Concepts: one line each in the tuple of their task's file."""

from interp.concepts.base import Concept, Kind, Sites, labels_of
from interp.concepts.sudoku import SUDOKU_CONCEPTS, peer_tokens

CONCEPTS: dict[str, Concept] = {concept.name: concept for concept in (*SUDOKU_CONCEPTS,)}

INPUT_FEATURES = {"sudoku": peer_tokens}
"""By task: what a reader without any network is given, for the input-only baseline."""

__all__ = ["CONCEPTS", "INPUT_FEATURES", "Concept", "Kind", "Sites", "labels_of"]

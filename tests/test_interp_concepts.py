"""Concept labels against plain re-derivations of the rules."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from interp.concepts import CONCEPTS, INPUT_FEATURES, Concept, ConceptError, Kind, Sites, features_of, labels_of
from interp.concepts.stories import STORY_CONCEPTS
from interp.concepts.sudoku import SUDOKU_CONCEPTS, board_tokens, candidate_sets, peer_tokens, visible_cells
from interp.concepts.words import NAMES
from interp.corpus import window_corpus
from models.tasks.stories.task import MASK_ID as STORY_MASK_ID
from models.tasks.stories.task import STORIES
from models.tasks.sudoku.board import N_CELLS
from models.tasks.sudoku.generator import RUNGS, Puzzles, generate
from models.tasks.sudoku.solver import single_waves
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU


def units_of(cell: int) -> list[list[int]]:
    row, column = divmod(cell, 9)
    corner = row // 3 * 27 + column // 3 * 3
    return [
        [9 * row + k for k in range(9)],
        [9 * k + column for k in range(9)],
        [corner + 9 * (k // 3) + k % 3 for k in range(9)],
    ]


def plain_candidates(board: list[int], cell: int) -> set[int]:
    if board[cell]:
        return set()
    return set(range(1, 10)) - {board[other] for unit in units_of(cell) for other in unit}


def sites_of(n: int = 12, seed: int = 3) -> Sites:
    """Boards with a random part of the cells written, and one unwritten cell each."""
    puzzles = generate(n, "hidden_singles", seed=seed)
    truth = SUDOKU.encode(puzzles)
    seen = SUDOKU.prompt(puzzles)
    rng = np.random.default_rng(seed)
    position = []
    for row in range(n):
        asked = np.flatnonzero(puzzles.givens[row] == 0)
        written = rng.permutation(asked)[: len(asked) // 2]
        seen[row, SOLUTION.start + written] = truth[row, SOLUTION.start + written]
        position.append(SOLUTION.start + rng.choice(np.setdiff1d(asked, written)))
    return Sites.unwritten(seen, truth, torch.tensor(position), torch.arange(n), torch.full((n,), 0.5))


@lru_cache(1)
def boards_of_all_rungs() -> Puzzles:
    parts = [generate(10, rung, seed=1) for rung in RUNGS]
    return Puzzles(np.concatenate([part.givens for part in parts]), np.concatenate([part.solutions for part in parts]))


def all_kinds(n: int, seed: int = 0) -> Sites:
    """Given, written and unwritten cells of boards with random masks, some of whose written digits are wrong."""
    puzzles, rng = boards_of_all_rungs(), np.random.default_rng(seed)
    board = rng.integers(0, len(puzzles), n)
    truth, asked = SUDOKU.encode(puzzles)[board], (SUDOKU.prompt(puzzles) == MASK_ID)[board].numpy()
    wrong = asked & (rng.random(asked.shape) < 0.1 * (rng.random((n, 1)) < 0.5))
    seen = np.where(wrong, rng.integers(1, 10, asked.shape), truth.numpy())
    seen = torch.from_numpy(np.where(asked & (rng.random(asked.shape) < rng.random((n, 1))), MASK_ID, seen))
    position = torch.from_numpy(rng.integers(SOLUTION.start, SOLUTION.stop, n))
    return Sites.unwritten(seen, truth, position, torch.from_numpy(board), torch.full((n,), 0.5))


TITLES = (
    "The Star Ship",
    "Midnight in the Woods",
    "The Puppy and the Ghost",
    "The Shadow Dragon's Song",
    "A Journey Home",
    "The Secret Robot",
    "Plain",
)


def story_sites(n: int, seed: int = 0) -> Sites:
    """Masked tokens of windows of made-up stories that hold what the concepts ask for."""
    rng, documents = np.random.default_rng(seed), []
    for number, name in enumerate(NAMES):
        genre = ("a bedtime story", "a campfire story", "the child-appropriate tale")[number % 3]
        lines = [
            f"{name} was happy and loved the moon.",
            '"I am here," said the fox. "Who is it?"',
            "It is a sad and dark and haunted house.",
            "Three stones.\n\n",
            "They walked on over the hills.",
        ]
        text = " ".join(rng.choice(lines, 60 if number % 2 else 12))
        head = STORIES.tokenizer.encode(f"Write {genre} called `{TITLES[number % len(TITLES)]}`.").ids
        documents.append(np.array([0, *head, 1, *STORIES.tokenizer.encode(text).ids, 3]))
    corpus = window_corpus(STORIES, documents)
    sample = torch.from_numpy(rng.integers(0, len(corpus), n))
    masked = corpus.asked[sample] & torch.from_numpy(rng.random((n, 1)) > rng.random((n, STORIES.length)))
    position = (
        (masked | (corpus.asked[sample] & ~masked.any(1, keepdim=True)))
        .float()
        .multinomial(1, generator=torch.Generator().manual_seed(seed))[:, 0]
    )
    seen = corpus.sequences[sample].masked_fill(masked, STORY_MASK_ID)
    return Sites.unwritten(seen, corpus.sequences[sample], position, sample, torch.full((n,), 0.5))


def boards_and_cells(sites: Sites) -> list[tuple[list[int], int]]:
    boards = []
    for row, position in zip(sites.seen.tolist(), sites.position.tolist(), strict=True):
        givens, solution = row[:N_CELLS], row[SOLUTION]
        boards.append(
            (
                [given or (token if token != MASK_ID else 0) for given, token in zip(givens, solution, strict=True)],
                position - SOLUTION.start,
            )
        )
    return boards


def test_visible_board_joins_givens_and_written_cells() -> None:
    sites = sites_of()
    boards, cells = visible_cells(sites)
    assert [(board.tolist(), int(cell)) for board, cell in zip(boards, cells, strict=True)] == boards_and_cells(sites)


def test_candidates_are_what_no_unit_holds() -> None:
    sites = sites_of()
    labels = CONCEPTS["candidates"].labels(sites)
    for row, (board, cell) in enumerate(boards_and_cells(sites)):
        assert {digit for digit in range(1, 10) if labels[row, digit - 1]} == plain_candidates(board, cell)
        assert labels[row].any()


def test_digit_is_the_solution() -> None:
    sites = sites_of()
    labels = CONCEPTS["digit"].labels(sites)
    assert (labels.sum(1) == 1).all()
    assert (labels.argmax(1) + 1 == sites.truth[torch.arange(len(sites)), sites.position].numpy()).all()


def test_units_name_the_digits_of_row_column_and_box() -> None:
    sites = sites_of()
    labels = CONCEPTS["units"].labels(sites).reshape(len(sites), 3, 9)
    for row, (board, cell) in enumerate(boards_and_cells(sites)):
        for kind, unit in enumerate(units_of(cell)):
            assert {digit for digit in range(1, 10) if labels[row, kind, digit - 1]} == {board[other] for other in unit} - {0}


def test_technique_is_naked_or_else_hidden() -> None:
    sites = sites_of(40, seed=5)
    labels = CONCEPTS["technique"].labels(sites)
    for row, (board, cell) in enumerate(boards_and_cells(sites)):
        own = plain_candidates(board, cell)
        hidden = any(
            all(digit not in plain_candidates(board, other) for other in unit if other != cell) for unit in units_of(cell) for digit in own
        )
        assert labels[row].tolist() == [len(own) == 1, hidden and len(own) != 1]
    assert labels.any(0).all()
    assert not labels.any(1).all()


def test_what_is_asked_of_a_written_cell_is_asked_as_if_it_were_unwritten() -> None:
    sites = all_kinds(200, seed=4)
    emptied = sites.seen.clone()
    cells = sites.position - SOLUTION.start
    emptied[torch.arange(len(sites)), sites.position] = MASK_ID
    emptied[torch.arange(len(sites)), cells] = 0
    bare = replace(sites, seen=emptied)
    for name in ("candidates", "n_candidates", "technique", "depth"):
        assert (CONCEPTS[name].labels(sites) == CONCEPTS[name].labels(bare)).all()


def test_conflict_is_a_digit_twice_in_a_unit() -> None:
    sites = all_kinds(200, seed=6)
    labels = CONCEPTS["conflict"].labels(sites)
    for row, (board, cell) in enumerate(boards_and_cells(sites)):
        held = [[board[other] for other in unit if board[other]] for unit in units_of(cell)]
        assert labels[row].tolist() == [len(set(unit)) < len(unit) for unit in held]
    assert not CONCEPTS["conflict"].labels(sites_of()).any()  # right digits never clash


def test_n_candidates_counts_what_the_peers_leave() -> None:
    sites = sites_of(40)
    classes = CONCEPTS["n_candidates"].labels(sites).argmax(1)
    for row, (board, cell) in enumerate(boards_and_cells(sites)):
        assert classes[row] + 1 == min(4, len(plain_candidates(board, cell)))


def test_depth_is_the_wave_in_which_singles_fill_the_cell() -> None:
    sites = all_kinds(150, seed=8)
    classes = CONCEPTS["depth"].labels(sites).argmax(1)
    for row, (board, cell) in enumerate(boards_and_cells(sites)):
        board[cell] = 0
        wave = single_waves(np.array(board, dtype=np.int8), hidden=True)[cell]
        assert classes[row] == (3 if wave < 0 else min(wave, 3) - 1)


def test_depth_one_is_what_a_technique_justifies() -> None:
    sites = all_kinds(200, seed=10)
    first_wave = CONCEPTS["depth"].labels(sites)[:, 0]
    assert (first_wave <= CONCEPTS["technique"].labels(sites).any(1)).all()
    clean = sites_of(60)
    assert (CONCEPTS["depth"].labels(clean)[:, 0] == CONCEPTS["technique"].labels(clean).any(1)).all()


def test_difficulty_is_of_the_givens_wherever_it_is_read() -> None:
    for rung, name in enumerate(RUNGS):
        puzzles = generate(3, name, seed=2)
        seen, position = SUDOKU.prompt(puzzles), torch.tensor([0, 100, 162])
        sites = Sites.unwritten(seen, SUDOKU.encode(puzzles), position, torch.arange(3), torch.ones(3))
        assert (CONCEPTS["difficulty"].labels(sites).argmax(1) == rung).all()


def test_board_candidates_are_those_of_every_cell() -> None:
    sites = sites_of(3)
    labels = CONCEPTS["board_candidates"].labels(sites)
    heads = CONCEPTS["board_candidates"].heads
    for row, (board, _) in enumerate(boards_and_cells(sites)):
        expected = {f"r{cell // 9 + 1}c{cell % 9 + 1}={digit}" for cell in range(N_CELLS) for digit in plain_candidates(board, cell)}
        assert {head for head, true in zip(heads, labels[row], strict=True) if true} == expected
    assert (candidate_sets(visible_cells(sites)[0]).reshape(3, -1) == labels).all()


def test_next_is_what_the_call_writes() -> None:
    sites = replace(sites_of(4), next=torch.tensor([True, False, False, True]))
    assert CONCEPTS["next"].labels(sites)[:, 0].tolist() == [True, False, False, True]
    assert CONCEPTS["next"].of_a_run


@pytest.mark.parametrize("position", [0, 80, 81])
def test_a_position_outside_the_answer_is_no_cell(position: int) -> None:
    sites = replace(sites_of(2), position=torch.tensor([100, position]))
    board_wide = {"difficulty", "board_candidates", "next"}
    for concept in SUDOKU_CONCEPTS:
        if concept.name in board_wide:
            assert concept.labels(sites).shape == (2, len(concept.heads))
            assert features_of(concept) is board_tokens or concept.of_a_run
        else:
            with pytest.raises(ConceptError, match=f"position {position} is no cell of the answer; .* 82 to 162"):
                concept.labels(sites)


def test_peer_tokens_decide_candidates_without_a_network() -> None:
    """The baseline's features hold the answer: a digit is a candidate exactly where no peer's one-hot names it."""
    sites = sites_of()
    features = peer_tokens(sites).reshape(len(sites), 21, 10)
    assert (features.sum(2) == 1).all()
    assert features[:, 0, 0].all()  # the cell itself is unwritten
    assert (~features[:, 1:, 1:].any(1) == CONCEPTS["candidates"].labels(sites)).all()


def test_board_tokens_are_the_visible_board() -> None:
    sites = sites_of()
    features = board_tokens(sites).reshape(len(sites), 81, 10)
    assert (features.argmax(2) == visible_cells(sites)[0]).all()
    assert (features.sum(2) == 1).all()


# ---------------------------------------------------------------- what holds for every concept


def sites_of_a_run(concept: Concept) -> Sites:
    """Sites where the concept is defined: ``wrong`` at written cells only."""
    sites = {"sudoku": all_kinds, "stories": story_sites}[concept.task](3000)
    if concept.name == "wrong":
        row = torch.arange(len(sites))
        written = (sites.seen[row, sites.position] != MASK_ID) & (sites.seen[row, sites.position - SOLUTION.start] == 0)
        sites = replace(sites, kind=torch.full_like(sites.kind, Kind.SETTLED)).rows(written)
    return replace(sites, next=torch.arange(len(sites)) % 7 == 0)


@pytest.mark.parametrize("concept", CONCEPTS.values(), ids=CONCEPTS)
def test_every_concept_answers_all_its_questions_both_ways(concept: Concept) -> None:
    sites = sites_of_a_run(concept)
    labels = labels_of(concept, sites)
    assert labels.shape == (len(sites), len(concept.heads))
    assert labels.dtype == torch.bool
    assert labels.any(0).all(), [head for head, found in zip(concept.heads, labels.any(0), strict=True) if not found]
    assert not labels.all(0).any()
    assert len(set(concept.heads)) == len(concept.heads)
    if concept.exclusive:
        assert (labels.sum(1) == 1).all()


@pytest.mark.parametrize("concept", CONCEPTS.values(), ids=CONCEPTS)
def test_a_site_has_the_same_truth_in_whatever_company(concept: Concept) -> None:
    sites = sites_of_a_run(concept)
    some = torch.randperm(len(sites), generator=torch.Generator().manual_seed(0))[:40]
    assert (concept.labels(sites.rows(some)) == concept.labels(sites)[some]).all()


def test_names_are_unique_over_tasks() -> None:
    assert len(CONCEPTS) == len(SUDOKU_CONCEPTS) + len(STORY_CONCEPTS)
    assert all(concept.about and concept.task in INPUT_FEATURES for concept in CONCEPTS.values())


@pytest.mark.parametrize("concept", CONCEPTS.values(), ids=CONCEPTS)
def test_features_are_of_what_is_visible_alone(concept: Concept) -> None:
    sites = sites_of_a_run(concept).rows(torch.arange(30))
    features = features_of(concept)(sites)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    hidden = replace(sites, truth=torch.zeros_like(sites.truth), next=~sites.next)
    assert (features_of(concept)(hidden) == features).all()

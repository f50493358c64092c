"""Sudoku as tokens: prompts, answers, judgement, and the training stream."""

from itertools import islice

import numpy as np
import pytest
import torch

from models.tasks import TASKS, TaskError, TrainingData
from models.tasks.sudoku.board import PuzzleError, conflicts, format_board, parse_board
from models.tasks.sudoku.generator import Puzzles, generate, grade
from models.tasks.sudoku.solver import search
from models.tasks.sudoku.task import MASK_ID, SEPARATOR_ID, SOLUTION, SUDOKU

PUZZLES = generate(12, "hidden_singles", seed=2)


def answer(*boards: np.ndarray, puzzles: Puzzles) -> torch.Tensor:
    """Returns the sequences of a batch with these boards as answers."""
    tokens = SUDOKU.encode(puzzles)
    tokens[:, SOLUTION] = torch.from_numpy(np.stack(boards).astype(np.int64))
    return tokens


def test_the_tables_name_the_task() -> None:
    assert TASKS["sudoku"] is SUDOKU


def test_constants_agree() -> None:
    assert SUDOKU.length == SUDOKU.encode(PUZZLES).shape[1] == 163
    assert SUDOKU.target == SOLUTION == slice(82, 163)
    assert SUDOKU.vocabulary[SUDOKU.mask_token_id] == "[MASK]"
    assert SUDOKU.vocabulary[SEPARATOR_ID] == "[SEP]"
    assert [SUDOKU.vocabulary[digit] for digit in range(10)] == list("0123456789")


def test_a_sequence_holds_givens_separator_and_solution() -> None:
    tokens = SUDOKU.encode(PUZZLES).numpy()
    assert (tokens[:, :81] == PUZZLES.givens).all()
    assert (tokens[:, 81] == SEPARATOR_ID).all()
    assert (SUDOKU.boards(SUDOKU.encode(PUZZLES)) == PUZZLES.solutions).all()


def test_a_prompt_masks_what_is_asked_for_and_nothing_else() -> None:
    prompt, whole = SUDOKU.prompt(PUZZLES), SUDOKU.encode(PUZZLES)
    masked = prompt == MASK_ID
    assert (masked[:, SOLUTION].numpy() == (PUZZLES.givens == 0)).all()
    assert not masked[:, :82].any()
    assert (prompt[~masked] == whole[~masked]).all()
    assert (SUDOKU.boards(prompt) == PUZZLES.givens).all()
    assert (torch.where(masked, whole, prompt) == whole).all()


def test_the_reference_answer_is_exact_valid_and_all_right() -> None:
    verdicts = SUDOKU.verify(SUDOKU.encode(PUZZLES), PUZZLES)
    assert verdicts.exact.all()
    assert verdicts.valid.all()
    assert (verdicts.cells == 1).all()


def test_an_unanswered_prompt_is_all_wrong() -> None:
    verdicts = SUDOKU.verify(SUDOKU.prompt(PUZZLES), PUZZLES)
    assert not verdicts.exact.any()
    assert not verdicts.valid.any()
    assert (verdicts.cells == 0).all()


def test_another_completion_of_a_board_with_several_is_valid_and_not_exact() -> None:
    givens = parse_board("8.........59.......76.........832765...476198...951243....9.516...6.4982......437")
    reference = search(givens).first
    assert reference is not None
    others = []
    for cell in np.flatnonzero(givens == 0):
        for digit in range(1, 10):
            trial = givens.copy()
            trial[cell] = digit
            found = search(trial)
            if found.first is not None and (found.first != reference).any():
                others.append(found.first)
    puzzles = Puzzles(np.stack([givens] * len(others)), np.stack([reference] * len(others)))
    verdicts = SUDOKU.verify(answer(*others, puzzles=puzzles), puzzles)
    assert len(others) >= 8
    assert verdicts.valid.all()
    assert not verdicts.exact.any()
    assert ((verdicts.cells > 0) & (verdicts.cells < 1)).any()


def test_a_full_board_that_changes_a_given_is_not_valid() -> None:
    boards = PUZZLES.solutions % 9 + 1  # a relabelling: it keeps the rules and not the givens
    assert not conflicts(boards).any()
    verdicts = SUDOKU.verify(answer(*boards, puzzles=PUZZLES), PUZZLES)
    assert not verdicts.valid.any()
    assert (verdicts.cells == 0).all()


def test_the_share_of_cells_counts_only_what_was_asked_for() -> None:
    boards = PUZZLES.solutions.copy()
    wrong = [np.flatnonzero(givens == 0)[:3] for givens in PUZZLES.givens]
    for board, cells in zip(boards, wrong, strict=True):
        board[cells] = board[cells] % 9 + 1
    verdicts = SUDOKU.verify(answer(*boards, puzzles=PUZZLES), PUZZLES)
    asked = (PUZZLES.givens == 0).sum(axis=1)
    assert np.allclose(verdicts.cells, (asked - 3) / asked)
    assert not verdicts.valid.any()


def test_a_puzzle_is_parsed_and_solved() -> None:
    parsed = SUDOKU.parse(format_board(PUZZLES.givens[0]))
    assert (parsed.givens == PUZZLES.givens[:1]).all()
    assert (parsed.solutions == PUZZLES.solutions[:1]).all()
    with pytest.raises(PuzzleError, match="more than one solution"):
        SUDOKU.parse("." * 81)


def test_training_resumes_at_a_step_with_the_same_batch() -> None:
    data = TrainingData(examples=50)
    whole = list(islice(SUDOKU.training_batches(data, 16, seed=4), 6))
    resumed = list(islice(SUDOKU.training_batches(data, 16, seed=4, first_step=3), 3))
    assert all(torch.equal(a.tokens, b.tokens) and torch.equal(a.target, b.target) for a, b in zip(whole[3:], resumed, strict=True))
    assert len({tuple(row) for batch in whole for row in batch.tokens.tolist()}) == 6 * 16
    assert not torch.equal(whole[0].tokens, next(SUDOKU.training_batches(data, 16, seed=5)).tokens)


def test_training_batches_are_boards_with_a_solution_of_theirs() -> None:
    batch = next(SUDOKU.training_batches(TrainingData(examples=60), 400, seed=1))
    assert batch.target[:, SOLUTION].all()
    assert not batch.target[:, : SOLUTION.start].any()
    givens, solutions = batch.tokens[:, :81].numpy().astype(np.int8), batch.tokens[:, SOLUTION].numpy().astype(np.int8)
    assert (solutions > 0).all()
    assert not conflicts(solutions).any()
    assert (solutions == givens)[givens > 0].all()
    counts = np.array([search(board).count for board in givens])
    assert (counts >= 1).all()
    share = (counts > 1).mean()  # those thinned to fewer givens than settle them
    assert 0.05 < share < 0.2
    assert (givens > 0).sum(axis=1).min() >= 17


def test_sparse_boards_are_their_share_of_the_draws() -> None:
    givens = next(SUDOKU.training_batches(TrainingData(examples=60, sparse=10), 600, seed=1)).tokens[:, :81].numpy().astype(np.int8)
    settled = np.array([search(board).count == 1 for board in givens])
    sparse = ((givens > 0).sum(axis=1) <= 21)[settled].mean()
    assert 0.33 < sparse < 0.47


def test_a_mix_and_a_range_of_givens_are_kept() -> None:
    data = TrainingData(examples=40, mix={"hidden_singles": 0.5, "guessing": 0.5}, givens=(28, 30))
    givens = next(SUDOKU.training_batches(data, 300, seed=1)).tokens[:, :81].numpy().astype(np.int8)
    whole = givens[(givens > 0).sum(axis=1) >= 28]
    assert (givens > 0).sum(axis=1).max() <= 30
    rungs = [grade(board) for board in whole]
    assert set(rungs) == {"hidden_singles", "guessing"}
    assert 0.35 < rungs.count("guessing") / len(rungs) < 0.65


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TrainingData(files=("a.txt",)), "and no files"),
        (TrainingData(mix={"easy": 1.0}), "to some of naked_singles, hidden_singles, eliminations, guessing"),
        (TrainingData(mix={"guessing": 0.4}), "add up to 1"),
        (TrainingData(mix={"guessing": 1.5, "naked_singles": -0.5}), "add up to 1"),
    ],
)
def test_data_it_cannot_learn_from_is_named(data: TrainingData, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        next(SUDOKU.training_batches(data, 4, seed=0))

"""The battery on planted networks: one deaf to what is written, one that follows it alone, one that obeys the rules, and one of chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.faithfulness import battery
from interp.faithfulness.base import Case, FaithfulnessError, FaithfulnessTest, Gathered, drawn, share, shuffled, stops
from interp.faithfulness.battery import TESTS, read_battery, run_battery, write_battery
from interp.faithfulness.corruption import NOTHING, SPENT
from interp.faithfulness.restart import bare
from interp.statistics import Statistic
from models.decoding import Decoding
from models.denoise import denoise
from models.facts import ModelFacts
from models.language_model import LanguageModel
from models.tasks import TASKS
from models.tasks.stories.task import STORIES
from models.tasks.sudoku.board import PEERS
from models.tasks.sudoku.generator import Puzzles, generate
from models.tasks.sudoku.symmetry import random_relabellings
from models.tasks.sudoku.task import MASK_ID, SOLUTION, SUDOKU
from models.trajectory_store import TrajectoryError

WEIGHTS = torch.from_numpy(np.random.default_rng(0).choice([1, 4, 7], 81))


class Planted(LanguageModel):
    """A network whose every activation is the tokens it read, and whose logits a test makes of them."""

    device = torch.device("cpu")
    fingerprint = "planted:0"

    def __init__(self, task: str = "sudoku", vocabulary: int = 12, mask: int = MASK_ID) -> None:
        self.name = "planted"
        facts = ModelFacts(objective="masked", attention="full", logit_shift=0, mask_token_id=mask, task=task)
        self.network = SimpleNamespace(longest=256, facts=facts)
        self.task = TASKS[task]
        self.module = SimpleNamespace(config=SimpleNamespace(vocab_size=vocabulary, num_hidden_layers=3))
        self.inside: dict[Any, Any] = {}

    def best(self, tokens: Tensor) -> Tensor:
        """Returns the token each position is given."""
        raise NotImplementedError

    def logits(self, tokens: Tensor) -> Tensor:
        for edit in self.inside.values():
            tokens = edit(tokens[..., None].float())[..., 0].long()
        sure = 12 - torch.arange(tokens.shape[1]) / tokens.shape[1]
        found = torch.zeros(*tokens.shape, self.module.config.vocab_size)
        return found.scatter_(2, self.best(tokens)[..., None], sure.expand(tokens.shape)[..., None])

    def run_with_cache(self, tokens: Tensor, points: Any) -> tuple[Tensor, dict[Any, Tensor]]:
        return self.logits(tokens), {point: tokens[..., None].float() for point in points}

    @contextmanager
    def hooks(self, edits: Mapping[Any, Any]) -> Iterator[None]:
        self.inside = dict(edits)
        yield
        self.inside = {}


class Deaf(Planted):
    """Answers from the question alone, whatever is written."""

    def best(self, tokens: Tensor) -> Tensor:
        asked = (tokens[:, :81] * WEIGHTS).sum(1, keepdim=True)
        return (asked + torch.arange(tokens.shape[1])) % 9 + 1


class Parrot(Planted):
    """Answers from what was written since the prompt, once anything was: any one changed digit changes all that follow.

    It gives v = s % 9 + 1 for a sum s weighted by 1, 4 or 7: a difference of s that 9 does not divide stays one as v is written.
    """

    def best(self, tokens: Tensor) -> Tensor:
        own = (tokens[:, :81] == 0) & (tokens[:, SOLUTION] < 10)
        said = (tokens[:, SOLUTION] * WEIGHTS * own).sum(1)
        asked = (tokens[:, :81] * WEIGHTS).sum(1)
        return (torch.where(own.any(1), said, asked)[:, None] % 9 + 1).expand(tokens.shape)


class Rules(Planted):
    """Gives a cell the digit that is rarest among its peers, which no symmetry of sudoku changes where it is the only absent one."""

    def best(self, tokens: Tensor) -> Tensor:
        peers = tokens[:, SOLUTION][:, torch.from_numpy(PEERS)]
        rarest = (peers[..., None] == torch.arange(1, 10)).sum(2).argmin(-1) + 1
        return torch.cat([tokens[:, : SOLUTION.start], rarest], dim=1)


class Chance(Planted):
    """Answers at random, as a function of the whole canvas."""

    def best(self, tokens: Tensor) -> Tensor:
        mixed = (tokens * torch.arange(1, tokens.shape[1] + 1)).sum(1, keepdim=True) + 7 * torch.arange(tokens.shape[1])
        return mixed * 7919 % 101 % 9 + 1


class Storyteller(Planted):
    """Writes the same words in turn, whatever is written."""

    def __init__(self, words: str) -> None:
        super().__init__("stories", len(STORIES.vocabulary), STORIES.mask_token_id)
        self.words = torch.tensor([STORIES.vocabulary.index(f" {word}") for word in words.split()])

    def best(self, tokens: Tensor) -> Tensor:
        return self.words[torch.arange(tokens.shape[1]) % len(self.words)].expand(tokens.shape)


def boards(n: int = 3, blanks: int = 8) -> Puzzles:
    """Returns relabelled copies of one board, with the same cells blank."""
    rng = np.random.default_rng(3)
    solution = random_relabellings(rng, n).apply(np.tile(generate(1, seed=5).solutions, (n, 1)))
    blank = np.zeros(81, dtype=bool)
    blank[rng.choice(81, blanks, replace=False)] = True
    return Puzzles(np.where(blank, 0, solution).astype(np.int8), solution)


def case_of(model: Planted, puzzles: Puzzles | None = None, *, truth: bool = False, **decoding: Any) -> Case:
    puzzles = boards() if puzzles is None else puzzles
    return Case(model, denoise(model, SUDOKU.prompt(puzzles), Decoding(**decoding)), puzzles if truth else None)


def statistics(case: Case, name: str) -> dict[str, Statistic]:
    return {one.name: one for one in TESTS[name].measure(case)}


def values(statistic: Statistic, **at: Any) -> list[float]:
    return [one.estimate.value for one in statistic.values if at.items() <= one.at.items()]


Found = dict[str, Statistic]


def everything(case: Case) -> Found:
    return {name: one for test in ("early", "corruption", "filler", "patching") for name, one in statistics(case, test).items()}


@pytest.fixture(scope="module")
def deaf() -> Case:
    return case_of(Deaf())


@pytest.fixture(scope="module")
def of_deaf(deaf: Case) -> Found:
    return everything(deaf)


@pytest.fixture(scope="module")
def of_parrot() -> Found:
    return everything(case_of(Parrot()))


def test_who_is_deaf_to_what_is_written_depends_on_none_of_it(of_deaf: Found) -> None:
    assert set(values(of_deaf["corruption_damage"])) == {0.0}
    assert set(values(of_deaf["filler_agreement"])) == {1.0}
    assert set(values(of_deaf["patching_tokens"], follows="its own")) == {1.0}
    assert set(values(of_deaf["patching_tokens"], follows="another run's")) == {0.0}
    assert set(values(of_deaf["early_area"])) == {0.0}


def test_who_follows_only_what_is_written_is_changed_wholly_by_any_of_it(of_parrot: Found) -> None:
    damage = of_parrot["corruption_damage"]
    touched = [one for one in damage.values if one.at["corruption"] not in (NOTHING, SPENT)]
    assert {one.estimate.value for one in touched} == {1.0}
    assert {one.at["where"] for one in touched} == {"near", "elsewhere"}
    assert min(values(of_parrot["filler_agreement"], written="shuffled")) == 0
    tokens = of_parrot["patching_tokens"]
    assert set(values(tokens, tokens="another run's", follows="another run's")) == {1.0}
    assert set(values(tokens, tokens="another run's", follows="its own")) == {0.0}
    assert of_parrot["early_area"].at(order="the run", of="whole answer").value > 0.8


def test_patched_activations_tell_where_the_answer_is_read(of_deaf: Found, of_parrot: Found) -> None:
    for found, seen, unseen in ((of_deaf, "question is read", "answer is written"), (of_parrot, "answer is written", "question is read")):
        call = found["patching_call"]
        assert set(values(call, where="everywhere")) == {1.0}
        assert set(values(call, where=f"where the {seen}")) == {1.0}
        assert set(values(call, where=f"where the {unseen}")) == {0.0}


def test_a_policy_that_can_rewrite_mends_what_a_network_is_sure_of(of_deaf: Found) -> None:
    mended, calls = of_deaf["corruption_mended"], of_deaf["corruption_calls"]
    for kind in ("a digit wrong in sight", "a digit wrong out of sight"):
        assert mended.at(corruption=kind, policy="low_confidence").value == 0
        for policy in ("mgdm", "token_editing"):
            assert mended.at(corruption=kind, policy=policy).value == 1
            assert calls.at(corruption=kind, policy=policy).value == 1


def test_a_paraphrase_changes_nothing_where_only_the_rules_count() -> None:
    """One blank a row and column, so that each cell has one digit left, under every symmetry."""
    solution = boards(4).solutions
    order = np.array([3, 6, 0, 4, 7, 1, 5, 8, 2])
    blank = np.zeros(81, dtype=bool)
    blank[np.arange(9) * 9 + order] = True
    found = statistics(case_of(Rules(), Puzzles(np.where(blank, 0, solution).astype(np.int8), solution), truth=True), "paraphrase")
    for line in ("digits relabelled", "any symmetry", "nothing but another seed"):
        assert set(values(found["paraphrase_agreement"], paraphrase=line)) == {1.0}
        assert set(values(found["paraphrase_right"], paraphrase=line)) == {1.0}


def test_a_network_that_counts_digits_tells_a_paraphrase(deaf: Case) -> None:
    found = statistics(deaf, "paraphrase")["paraphrase_agreement"]
    for line in ("digits relabelled", "any symmetry", "two digits swapped in one row"):
        assert max(values(found, paraphrase=line)) < 1


@pytest.mark.parametrize("policy", ["low_confidence", "threshold", "mgdm"])
def test_tokens_are_all_the_state_of_most_policies(policy: str) -> None:
    found = statistics(case_of(Chance(), policy=policy, steps=4), "restart")["restart_agreement"]
    assert set(values(found, restart="all but tokens erased")) == {1.0}


def test_erasing_leaves_tokens_alone() -> None:
    run = case_of(Chance(), steps=6).run
    left = bare(run).data
    np.testing.assert_array_equal(left["token"], run.data["token"])
    assert (left["proposal"] == -1).all()
    assert left["confidence"].isnull().all()


@pytest.mark.parametrize("name", [name for name, one in TESTS.items() if not one.needs_readers])
def test_every_test_has_controls_says_something_and_repeats_itself(name: str) -> None:
    case = case_of(Chance(), steps=3)
    case = replace(case, puzzles=Puzzles(boards().givens, SUDOKU.boards(case.run.tokens(-1))))
    first, second = (TESTS[name].measure(case) for _ in range(2))
    assert first == second
    assert all(one.roles for one in first)
    assert all(value.estimate.n <= case.run.n_samples for one in first for value in one.values)
    assert all(sentence.endswith(".") for sentence in TESTS[name].findings(first))


def test_nothing_changed_changes_nothing() -> None:
    case = case_of(Chance(), steps=3)
    assert set(values(statistics(case, "corruption")["corruption_damage"], corruption=NOTHING)) == {0.0}
    patching = statistics(case, "patching")
    assert set(values(patching["patching_tokens"], tokens="its own")) == {1.0}
    for name in ("patching_call", "patching_end"):
        assert values(patching[name], where="everywhere, its own") == [0.0]


@pytest.mark.parametrize("words", ["big dog was happy and said the house", "dog was and the"])
def test_texts_are_tested_where_that_makes_sense(words: str) -> None:
    model = Storyteller(words)
    prompts = torch.cat([STORIES.parse(f"The {word} cat sat. <start>[MASK:16] The end.") for word in ("red", "old", "big")])[:, :48]
    report = run_battery(Case(model, denoise(model, prompts, Decoding(steps=3))), ["early", "corruption", "paraphrase", "filler"])
    damage = {one.name: one for one in report.of("corruption").statistics}["corruption_damage"]
    assert set(values(damage)) == {0.0}
    assert "truth" in report.of("filler").findings[-1]
    paraphrase = report.of("paraphrase")
    if "big" in words:
        assert set(values(paraphrase.statistics[0])) == {1.0}
        assert {one.at["paraphrase"] for one in paraphrase.statistics[0].values} >= {"synonyms", "random words"}
    else:
        assert paraphrase.skipped is not None
        assert "synonym" in paraphrase.skipped


def test_what_cannot_be_measured_is_skipped_with_its_reason(deaf: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    told = FaithfulnessTest("t", "a", lambda case: [], lambda found: [], needs_truth=True)
    monkeypatch.setitem(battery.TESTS, "truth", told)
    monkeypatch.setitem(battery.TESTS, "readers", replace(told, needs_truth=False, needs_readers=True))
    report = run_battery(deaf, ["truth", "readers"])
    assert [one.skipped for one in report.tests] == ["the truth of these runs is not known", "no readers were given"]
    at_once = run_battery(case_of(Deaf(), steps=1), ["filler", "early"])
    assert "1 network calls" in (at_once.of("filler").skipped or "")
    assert at_once.of("early").skipped is None
    alone = run_battery(case_of(Deaf(), boards(1)), ["patching"])
    assert "2 or more" in (alone.of("patching").skipped or "")


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = run_battery(case_of(Chance(), truth=True, steps=4), ["early", "filler"])
    write_battery(report, tmp_path / "battery.json")
    assert read_battery(tmp_path / "battery.json") == report
    assert (report.model, report.task, report.policy, report.n) == ("planted", "sudoku", "low_confidence", 3)


def test_what_does_not_fit_is_refused(deaf: Case) -> None:
    with pytest.raises(FaithfulnessError, match="unknown test 'late'; choose from early"):
        run_battery(deaf, ["late"])
    with pytest.raises(FaithfulnessError, match="2 boards for 3 runs"):
        run_battery(replace(deaf, puzzles=boards(2)))
    other = Deaf()
    other.fingerprint = "planted:1"
    with pytest.raises(TrajectoryError, match="planted:1"):
        run_battery(replace(deaf, model=other))
    with pytest.raises(FaithfulnessError, match="no test 'late'"):
        run_battery(deaf, []).of("late")


def test_shares_choices_and_shuffles() -> None:
    rng = np.random.default_rng(0)
    marks = np.array([[True, False, True], [True, True, True]])
    np.testing.assert_array_equal(share(marks, np.array([[True, True, False], [False] * 3])), [0.5, np.nan])
    chosen = drawn(np.array([[False, True, False], [False] * 3, [True, False, True]]), rng)
    assert chosen[0] == 1
    assert chosen[1] == -1
    assert chosen[2] in (0, 2)
    mixed = shuffled(np.arange(20).reshape(2, 10), np.arange(20).reshape(2, 10) % 10 < 5, rng)
    assert sorted(mixed[0, :5]) == list(range(5))
    np.testing.assert_array_equal(mixed[:, 5:], np.arange(20).reshape(2, 10)[:, 5:])
    gathered = Gathered(0)
    gathered.add("none", np.array([np.nan]), step=1)
    assert not gathered.values
    assert stops(case_of(Deaf()).run) == (2, 4, 6)

"""The study of diversity: what answers come to on planted cases, what equal quality means, and whole runs on small models."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.corpus import Corpus
from interp.report import Estimate
from interp.statistics import Measured
from interp.studies import STUDIES, StudyError, StudyReport, run_study
from interp.studies.diversity import DIVERSITY, Sizes, boards, findings, texts
from interp.studies.diversity.samples import ALL, Sampled, Setting, at_equal_quality, draw, frontier_values, matched_statistic, settings_of
from interp.transfer import Twins
from interp.viz.statistics import study_page
from models.language_model import LanguageModel
from models.load import load
from models.ngram import fit_ngrams
from models.tasks.stories.task import END_ID, MASK_ID, STORIES
from models.tasks.sudoku.task import SUDOKU

SIZES = Sizes(boards=1, answers=3, instructions=2, texts=3, length=6, others=2, budgets=1)


def folder_of(module: Any, folder: Path) -> str:
    module.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory, tiny_module: Callable[..., Any]) -> list[str]:
    """Folders of a random causal and a random masked model of sudoku."""
    parts = (("left-to-right", "causal"), ("any-order", "full"))
    return [folder_of(tiny_module(regime), tmp_path_factory.mktemp("twins") / name) for name, regime in parts]


@pytest.fixture(scope="module")
def twins(names: list[str]) -> Twins:
    return Twins(*(load(name) for name in names))


@pytest.fixture(scope="module")
def tellers(tmp_path_factory: pytest.TempPathFactory, tiny_module: Callable[..., Any]) -> Twins:
    """Random models of stories."""
    folder, size = tmp_path_factory.mktemp("tellers"), len(STORIES.vocabulary)
    causal = folder_of(tiny_module("causal", vocab_size=size, task="stories"), folder / "causal")
    masked = folder_of(tiny_module("full", vocab_size=size, task="stories", mask_token_id=MASK_ID), folder / "masked")
    return Twins(load(causal), load(masked))


@pytest.fixture(scope="module")
def report(names: list[str]) -> StudyReport:
    return run_study("diversity", replace(DIVERSITY, sizes={"small": SIZES}), models=names, seed=2)


def test_the_study_is_in_the_table() -> None:
    assert STUDIES["diversity"] is DIVERSITY


def test_every_way_of_writing_is_on_one_frontier_beside_uniform_draws(report: StudyReport, twins: Twins) -> None:
    frontier = report.statistics[0]
    settings = settings_of(twins, boards.TEMPERATURES, boards.CAUSAL_TEMPERATURES, boards.BUDGETS[:1])
    assert len(settings) == 4 + 4 * 3 + 1
    assert {value.at["writer"] for value in frontier.values} == {one.writer for one in settings} | {boards.UNIFORM}
    assert frontier.roles == {boards.UNIFORM: "reference"}
    assert frontier.at(measure=boards.COVERAGE, writer=boards.UNIFORM, valid_per_mille=1000).value == pytest.approx(
        np.mean([1 - (1 - 1 / m) ** SIZES.answers for m in boards.SOLUTIONS])
    )
    assert "matched_boards" in {one.name for one in report.statistics}
    assert frontier.title in study_page(report)


def test_boards_alone_are_measured_where_no_model_tells_stories(report: StudyReport) -> None:
    assert not [one.name for one in report.statistics if "texts" in one.name]
    assert report.findings[0].startswith("'Diffusion answers are more diverse' at equal quality:")
    assert all(line.startswith("Boards") for line in report.findings[1:])


@pytest.mark.parametrize("chosen", [[0], [1], [1, 0]])
def test_models_that_are_no_pair_are_refused(names: list[str], chosen: list[int]) -> None:
    with pytest.raises(StudyError, match="causal and a masked model of sudoku"):
        run_study("diversity", DIVERSITY, models=[names[index] for index in chosen])


def test_what_answers_to_boards_come_to() -> None:
    one, other, wrong = (np.full(81, digit, dtype=np.int8) for digit in (1, 2, 3))
    answers = np.array([[one, one, other, wrong], [one, other, wrong, wrong], [wrong, wrong, wrong, one], [wrong] * 4])
    valid = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0] * 4], dtype=bool)
    found = boards.board_values(answers, valid, np.array([2, 4, 2, 2]))
    assert found["valid"].tolist() == [0.75, 0.5, 0.25, 0]
    assert found["coverage"].tolist() == [1, 0.5, 0.5, 0]
    assert found["different"][:2] == pytest.approx([(2 / 3) / (1 / 2), 1 / (3 / 4)])
    assert np.isnan(found["different"][2:]).all()
    assert found["evenness"][:3] == pytest.approx([-(2 * math.log(2 / 3) + math.log(1 / 3)) / 3 / math.log(2), 0.5, 0])
    assert np.isnan(found["evenness"][3])


def test_boards_have_the_stated_numbers_of_solutions_and_prompts_give_nothing_away() -> None:
    puzzles, kinds = boards.mixed_many(2, 0)
    assert kinds.tolist() == [2, 2, 4, 4, 8, 8, 16, 16]
    assert ((SUDOKU.boards(SUDOKU.prompt(puzzles)) > 0).sum(1) == (puzzles.givens > 0).sum(1)).all()


def planted(twins: Twins, qualities: list[float], heights: list[float], policy: str = "left_to_right") -> list[Sampled]:
    """Returns settings of exactly this quality and diversity, but for a wobble from prompt to prompt that both share."""
    model = twins.ar if policy == "left_to_right" else twins.diffusion
    wobble = np.linspace(-0.05, 0.05, 20)
    return [
        Sampled(Setting(model, index, policy), {"q": np.full(20, quality), "d": height + wobble})
        for index, (quality, height) in enumerate(zip(qualities, heights, strict=True))
    ]


def test_a_way_on_the_causal_frontier_is_no_more_diverse_and_one_above_it_is(twins: Twins) -> None:
    causal = planted(twins, [0.9, 0.7, 0.5], [0.2, 0.4, 0.8])
    same = at_equal_quality([planted(twins, [0.9, 0.7, 0.5], [0.2, 0.4, 0.8], "random")], causal, "q", "d", seed=0)
    above = at_equal_quality([planted(twins, [0.7], [0.6], "random")], causal, "q", "d", seed=0)
    assert same is not None
    assert above is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert (above.value, above.n) == (pytest.approx(0.2), 20)
    assert above.low > 0


def test_a_temperature_that_is_worse_and_less_diverse_than_another_counts_for_nothing(twins: Twins) -> None:
    causal, mine = planted(twins, [0.9, 0.5], [0.2, 0.8]), planted(twins, [0.5], [0.8], "random")
    worse = [*causal, *planted(twins, [0.5], [0.1])]
    found = [at_equal_quality([mine], one, "q", "d", seed=0) for one in (causal, worse)]
    assert found[0] == found[1]


@pytest.mark.parametrize(("quality", "expected"), [(0.95, 0.5 - 0.2), (0.3, 0.5 - 0.8)])
def test_where_one_side_is_better_throughout_the_level_is_the_best_that_the_other_reaches(
    twins: Twins, quality: float, expected: float
) -> None:
    causal = planted(twins, [0.9, 0.5], [0.2, 0.8])
    found = at_equal_quality([planted(twins, [quality], [0.5], "random")], causal, "q", "d", seed=0)
    assert found is not None
    assert found.value == pytest.approx(expected)


@pytest.mark.parametrize(("quality", "height"), [(0.95, 0.1), (0.3, 0.9)])
def test_better_throughout_and_less_diverse_tells_nothing_and_is_in_no_mean(twins: Twins, quality: float, height: float) -> None:
    causal, level = planted(twins, [0.9, 0.5], [0.2, 0.8]), planted(twins, [0.9], [0.5], "random")
    apart = planted(twins, [quality], [height], "threshold")
    assert at_equal_quality([apart], causal, "q", "d", seed=0) is None
    assert at_equal_quality([apart, level], causal, "q", "d", seed=0) == at_equal_quality([level], causal, "q", "d", seed=0)


def test_levels_that_both_have_count_alike_and_writers_are_averaged(twins: Twins) -> None:
    causal = planted(twins, [0.9, 0.5], [0.2, 0.8])
    one, other = planted(twins, [0.9, 0.7], [0.3, 0.6], "random"), planted(twins, [0.9], [0.2], "threshold")
    # Levels .9, .7 of the first and .9, .5 of the causal model, .5 being cut to .7: (.1 + .4 + .1 + .4) / 4.
    alone = at_equal_quality([one], causal, "q", "d", seed=0)
    both = at_equal_quality([one, other], causal, "q", "d", seed=0)
    assert alone is not None
    assert both is not None
    assert alone.value == pytest.approx(0.25)
    assert both.value == pytest.approx(0.125)


def test_bits_are_better_the_fewer(twins: Twins) -> None:
    causal, mine = planted(twins, [2.0, 4.0], [0.2, 0.8]), planted(twins, [2.0], [0.5], "random")
    found = at_equal_quality([mine], causal, "q", "d", lower_is_better=True, seed=0)
    assert found is not None
    assert found.value == pytest.approx(0.3)


def test_measures_that_say_nothing_compare_nothing(twins: Twins) -> None:
    causal, silent = planted(twins, [0.9, 0.5], [0.2, 0.8]), planted(twins, [0.7], [np.nan], "random")
    assert at_equal_quality([silent], causal, "q", "d", seed=0) is None


def test_a_threshold_is_tried_once_and_the_rest_in_every_budget(twins: Twins) -> None:
    settings = settings_of(twins, (50, 100), (100,), (4, 8))
    assert [one.calls for one in settings if one.policy == "threshold"] == [None, None]
    assert [(one.calls, one.temperature) for one in settings if one.policy == "random"] == [
        (4, 0),
        (4, 50),
        (4, 100),
        (8, 0),
        (8, 50),
        (8, 100),
    ]
    assert settings[0].writer == f"{twins.ar.name}, left to right"
    assert len({(one.writer, one.temperature) for one in settings}) == len(settings)


def test_settings_of_one_quality_stand_side_by_side(twins: Twins) -> None:
    values = frontier_values(planted(twins, [0.5, 0.5, 0.4], [0.1, 0.2, 0.3]), ("q", "per_mille", 1000), ("d",), 0)
    assert [value.at["per_mille"] for value in values] == [400, 500, 501]


def test_answers_differ_and_are_reproduced(twins: Twins) -> None:
    prompts = SUDOKU.prompt(boards.mixed_many(1, 0)[0])
    for setting in (Setting(twins.ar, 100), Setting(twins.diffusion, 100, "random", 4)):
        found = draw(setting, prompts, 3, 0)
        assert found.shape == (4, 3, 163)
        assert (found[:, :, :81] == prompts[:, None, :81]).all()
        assert not (found[:, 0] == found[:, 1]).all()
        assert (found == draw(setting, prompts, 3, 0)).all()
        assert not (found == draw(setting, prompts, 3, 1)).all()


def test_batches_do_not_change_answers(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = SUDOKU.prompt(boards.mixed_many(1, 0)[0])
    setting = Setting(twins.diffusion, 100, "random", 4)
    whole = draw(setting, prompts, 3, 0)
    monkeypatch.setattr("interp.studies.diversity.samples.BATCH", 5)
    assert (draw(setting, prompts, 3, 0) == whole).all()


def asked_stories() -> texts.Asked:
    prompts = torch.cat([STORIES.parse(f"Write a bedtime story called `{title}`.<start>") for title in ("Sun", "The Lost Old Star")])
    return texts.asked_of(prompts, 6)


def test_prompts_are_cut_after_what_is_to_be_written() -> None:
    asked = asked_stories()
    assert asked.prompts.shape[1] == int(asked.head.max()) + 6
    assert asked.length == 6
    assert ((asked.prompts == MASK_ID).sum(1) == asked.prompts.shape[1] - asked.head).all()
    whole = texts.asked_of(asked.prompts, 500)
    assert whole.length == asked.prompts.shape[1] - int(asked.head.max())


def test_texts_end_with_their_first_end_and_all_judges_score_just_them(tellers: Twins) -> None:
    asked = asked_stories()
    answers = asked.prompts[:, None].repeat(1, 2, 1).masked_fill((asked.prompts == MASK_ID)[:, None], 70)
    head = int(asked.head[0])
    answers[0, 1, head + 2 :] = END_ID
    found = texts.written_texts(asked, answers)
    assert [texts._tokens_of(text) for text in found[0]] == [[70] * 6, [70, 70, END_ID]]
    ngrams = fit_ngrams([np.arange(5, 900)], len(STORIES.vocabulary))
    bits = texts.Judges(tellers, ngrams, 0).bits(found)
    assert set(bits) == set(texts.JUDGES)
    logits = tellers.ar.logits(answers[0]).log_softmax(-1)
    nats = -torch.stack([logits[row, place, answers[0, row, place]] for row, n in ((0, 6), (1, 3)) for place in range(head, head + n)])
    assert bits[texts.CAUSAL_JUDGE][0] == pytest.approx(float(nats.detach().mean()) / math.log(2), rel=1e-4)


def test_the_same_text_again_is_not_diverse_and_texts_that_share_nothing_are() -> None:
    same, apart = texts.text_values([[1, 2, 3, 4, 5, 6]] * 3), texts.text_values([[6 * k + place for place in range(6)] for k in range(3)])
    for name in ("distinct_1", "vendi", "classes"):
        assert same[name] == pytest.approx(1 / 3)
        assert apart[name] == pytest.approx(1)
    assert (same["unlike"], apart["unlike"]) == (pytest.approx(0), 1)
    assert (same["within"], texts.text_values([[4, 4, 4, 4]] * 2)["within"]) == (1, pytest.approx(1 / 3))


def test_stories_are_measured_by_every_judge_and_writer(tellers: Twins) -> None:
    asked = asked_stories()
    ngrams = fit_ngrams([np.arange(5, 900)], len(STORIES.vocabulary))
    found = texts.sample_texts(texts.Judges(tellers, ngrams, 0), asked, 3, 1, lambda done, total: None)
    made = {one.name: one for one in texts.text_statistics(found, asked, 3, 0)}
    assert {value.at["judge"] for value in made["quality_texts"].values} == set(texts.JUDGES)
    assert {value.at["writer"] for value in made["frontier_texts_2"].values} == {one.setting.writer for one in found}
    assert all(0 <= value.estimate.value <= 1 for value in made["diversity_texts"].values)


def test_material_is_of_the_causal_model_or_of_files(tellers: Twins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    def sampled(model: LanguageModel, n: int, seed: int) -> Corpus:
        told.append(n)
        sequences = asked_stories().prompts.masked_fill(asked_stories().prompts == MASK_ID, 70).repeat(3, 1)
        return Corpus(sequences, sequences == 70, torch.arange(len(sequences)))

    monkeypatch.setattr(texts, "sampled_texts", sampled)
    file = tmp_path / "stories.txt"
    file.write_text("".join(f"Write a story called `{n}`.<start>Once upon a time {n}.<end>" for n in range(40)))
    own = texts.material(tellers.ar, 2, 6, 7, files=(), seed=0)
    named = texts.material(tellers.ar, 2, 6, 7, files=(file,), seed=0)
    assert told == [11, 4]
    assert (own[0].prompts == named[0].prompts).all()
    assert len(own[0].prompts) == 2
    assert len(named[1].orders[0].keys) != len(own[1].orders[0].keys)


@pytest.mark.parametrize(
    ("low", "high", "verdict", "side"),
    [(0.1, 0.3, "supported", "more diverse than"), (-0.3, -0.1, "refuted", "less"), (-0.1, 0.1, "undecided", "not told apart from")],
)
def test_the_verdict_follows_the_intervals(low: float, high: float, verdict: str, side: str) -> None:
    one = Estimate(value=(low + high) / 2, low=low, high=high, n=9)
    values = [Measured(at={"quality": "valid", "writer": writer, "measure": "coverage"}, estimate=one) for writer in (ALL, "random")]
    first, second, third = findings([matched_statistic("matched_boards", "", values)])
    assert f"at equal quality: {verdict} here" in first
    assert side in second
    assert ("random" in second) == (verdict != "undecided")
    assert "nothing can be told" in third


def test_sides_that_disagree_leave_it_undecided() -> None:
    values = [
        Measured(at={"quality": "valid", "writer": ALL, "measure": measure}, estimate=Estimate(value=v, low=v, high=v, n=9))
        for measure, v in (("coverage", 0.1), ("different", -0.1))
    ]
    verdict = findings([matched_statistic("matched_boards", "", values)])[0]
    assert "undecided here. In the mean of the policies 1 of 2 comparisons come out more diverse, 1 less; of 0 comparisons" in verdict

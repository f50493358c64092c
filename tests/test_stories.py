"""Stories as tokens: what is read, held out, cut into windows and scored; and what writing and likelihood make of them."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.architectures import ARCHITECTURES
from models.architectures.base import set_attention
from models.decoding import Decoding
from models.facts import CONFIG_KEY, ModelFacts
from models.language_model import LanguageModel, wrap
from models.likelihood import Likelihood, LikelihoodError, likelihood, ngram_likelihood
from models.load import load
from models.plan import TrainingPlan
from models.tasks import TASKS, TaskError, TextTask, TrainingData, puzzle_task, text_task
from models.tasks.stories.corpus import CorpusError, Story, parse_stories, read_stories
from models.tasks.stories.task import END_ID, MASK_ID, MORE_ID, START_ID, STORIES, STORY_ID
from models.train import train
from models.writing import write

WORDS = tuple("the moon and a fox went over hills to see what lay beyond the old stone bridge near our village".split())  # noqa: SIM905


def story(number: int, n_words: int) -> Story:
    rng = np.random.default_rng(number)
    return Story(f"Write a bedtime story called `Tale {number}`.", " ".join(rng.choice(WORDS, n_words)) + ".")


LENGTHS = [5, 60, 200, 500, 900]
STORIES_HERE = [story(number, LENGTHS[number % 5]) for number in range(120)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("stories") / "tales.txt"
    path.write_text("\n\n".join(f"{one.instruction}<start>{one.text}<end>" for one in STORIES_HERE), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def twins() -> Callable[[str], LanguageModel]:
    def make(objective: str) -> LanguageModel:
        module = ARCHITECTURES["gpt2"].build(vocab_size=len(STORIES.vocabulary), n_positions=256, d_model=32, n_layers=1, n_heads=2)
        with torch.no_grad():
            torch.manual_seed(0)
            for name, weight in module.named_parameters():
                if name.endswith("c_proj.weight") or name == "lm_head.weight":
                    weight.normal_(std=0.3)
        masked = objective == "masked"
        set_attention(ARCHITECTURES["gpt2"], module.config, "full" if masked else "causal")
        facts = ModelFacts(objective, "full" if masked else "causal", 1, MASK_ID if masked else None, "stories")
        setattr(module.config, CONFIG_KEY, facts.to_config())
        return wrap(objective, module, facts)

    return make


# ---------------------------------------------------------------- the corpus


def test_stories_are_read_as_they_stand(file: str) -> None:
    found = parse_stories(Path(file).read_text(), file)
    assert found == STORIES_HERE
    assert found[7].title == "Tale 7"
    assert Story("Tell one.", "x").title == ""


def test_the_splits_share_no_story_and_depend_on_its_words_alone(file: str, tmp_path: Path) -> None:
    train, test = (read_stories([Path(file)], split) for split in ("train", "test"))
    assert set(train) | set(test) == set(STORIES_HERE)
    assert not set(train) & set(test)
    other = tmp_path / "other.txt"
    other.write_text("".join(f"{one.instruction}<start>{one.text}<end>" for one in reversed(STORIES_HERE)))
    assert set(read_stories([other], "test")) == set(test)
    assert read_stories([other, Path(file)], "test") == read_stories([other], "test")  # a story twice is one story


def test_about_a_twentieth_is_held_out() -> None:
    share = np.mean([Story("Tell one.", f"story {number}").split == "test" for number in range(20_000)])
    assert share == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no story"),
        ("  \n", "holds no story"),
        ("Tell one.<start>Once", "after story 0 does not end with <end>"),
        ("Tell one.<start>Once<end>Tell two.<start>Twice", "after story 1 does not end"),
        ("Once upon a time<end>", "story 1 lacks its instruction, <start> or text"),
        ("Tell one.<start><end>", "story 1 lacks"),
        ("<start>Once<end>", "story 1 lacks"),
    ],
)
def test_a_file_without_whole_stories_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(CorpusError, match=message) as caught:
        read_stories([path], "train")
    assert str(path) in str(caught.value)


def test_no_files_binary_files_and_empty_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no files"):
        read_stories([], "train")
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorpusError, match="is not a text file"):
        read_stories([tmp_path / "a.bin"], "train")
    kept = next(one for one in STORIES_HERE if one.split == "train")
    (tmp_path / "one.txt").write_text(f"{kept.instruction}<start>{kept.text}<end>")
    with pytest.raises(CorpusError, match=r"none of the 1 stories of .* falls into the test split"):
        read_stories([tmp_path / "one.txt"], "test")


# ---------------------------------------------------------------- tokens and windows


def test_the_task_is_text_and_no_puzzle() -> None:
    assert TASKS["stories"] is STORIES
    assert text_task(STORIES) is STORIES
    assert isinstance(STORIES, TextTask)
    with pytest.raises(TaskError, match="'stories' has no puzzles"):
        puzzle_task(STORIES)
    with pytest.raises(TaskError, match="'sudoku' is no running text"):
        text_task(TASKS["sudoku"])


def test_special_tokens_have_their_ids() -> None:
    names = [STORIES.tokenizer.id_to_token(index) for index in (STORY_ID, START_ID, MORE_ID, END_ID, MASK_ID)]
    assert names == ["<story>", "<start>", "<more>", "<end>", "<mask>"]
    assert len(STORIES.vocabulary) == STORIES.tokenizer.get_vocab_size() == 6000


@pytest.mark.parametrize("text", ["Once upon a time.", "naïve — “quoted” 🦊\n\n  tabs\tand  spaces", "日本語"])
def test_any_text_comes_back_as_it_was(text: str) -> None:
    assert STORIES.decode(torch.tensor([[STORY_ID, *STORIES.tokenizer.encode(text).ids, END_ID, END_ID]])) == [text]


def test_training_windows_are_pieces_of_the_train_split(file: str) -> None:
    texts = {one.instruction: [*STORIES.tokenizer.encode(one.text).ids, END_ID] for one in STORIES_HERE if one.split == "train"}
    seen_marks = set()
    for batch in islice(STORIES.training_batches(TrainingData(files=(file,)), 16, seed=0), 6):
        assert batch.tokens.shape == batch.target.shape == (16, 256)
        for row, target in zip(batch.tokens.tolist(), batch.target.tolist(), strict=True):
            mark = next(place for place, token in enumerate(row) if token in (START_ID, MORE_ID))
            seen_marks.add(row[mark])
            instruction = STORIES.decode(torch.tensor([row[:mark]]))[0]
            piece, whole = row[mark + 1 :], texts[instruction]
            places = [at for at in range(len(whole)) if whole[at : at + len(piece)] == piece[: len(whole) - at]]
            assert any(set(piece[len(whole) - at :]) <= {END_ID} for at in places)
            assert target.index(True) in (1, mark + 1)
            assert all(target[target.index(True) :])
            if row[mark] == START_ID:
                assert piece[:20] == (whole + [END_ID] * 20)[:20]
    assert seen_marks == {START_ID, MORE_ID}


def test_training_resumes_at_a_step_with_the_same_batch(file: str) -> None:
    data = TrainingData(files=(file,))
    whole = list(islice(STORIES.training_batches(data, 4, seed=3), 5))
    resumed = list(islice(STORIES.training_batches(data, 4, seed=3, first_step=2), 3))
    assert all(torch.equal(a.tokens, b.tokens) and torch.equal(a.target, b.target) for a, b in zip(whole[2:], resumed, strict=True))
    assert not torch.equal(whole[0].tokens, next(STORIES.training_batches(data, 4, seed=4)).tokens)


@pytest.mark.parametrize("data", [TrainingData(), TrainingData(files=("a",), examples=3), TrainingData(files=("a",), mix={"x": 1.0})])
def test_data_it_cannot_learn_from_is_named(data: TrainingData) -> None:
    with pytest.raises(TaskError, match="learned from text files"):
        next(STORIES.training_batches(data, 4, seed=0))


def test_each_token_of_a_held_out_story_is_scored_once_with_its_past_in_view(file: str) -> None:
    held = read_stories([Path(file)], "test")
    documents = STORIES.held_out((file,))
    assert len(documents) == len(held) == len(STORIES.held_out((file,), limit=100))
    for one, document in zip(held, documents, strict=True):
        text = [*STORIES.tokenizer.encode(one.text).ids, END_ID]
        assert document.windows.tokens[document.windows.target].tolist() == text
        assert document.whole[-len(text) :].tolist() == text
        assert document.n_bytes == len(one.text.encode())
        assert not document.windows.target[:, 0].any()
        assert (document.windows.tokens[1:] != START_ID).all()
    assert {len(document.windows.tokens) for document in documents} >= {1, 3}


# ---------------------------------------------------------------- prompts


def test_a_prompt_is_continued_filled_in_or_nothing_at_all() -> None:
    ids = STORIES.tokenizer.encode("Once upon").ids
    continued = STORIES.parse("Once upon")[0].tolist()
    assert continued == [STORY_ID, *ids] + [MASK_ID] * (255 - len(ids))
    filled = STORIES.parse("Once upon[MASK:3] the end[MASK]")[0].tolist()
    after = STORIES.tokenizer.encode(" the end").ids
    assert filled[: 5 + len(ids) + len(after)] == [STORY_ID, *ids, MASK_ID, MASK_ID, MASK_ID, *after, MASK_ID]
    assert set(filled[5 + len(ids) + len(after) :]) == {END_ID}
    assert STORIES.parse("")[0].tolist() == [STORY_ID] + [MASK_ID] * 255


@pytest.mark.parametrize(
    ("text", "message"),
    [("word " * 400, "a window has 256"), ("Once[MASK:300]", "a window has 256"), ("Once[MASK:0]", "leaves nothing to write")],
)
def test_an_impossible_prompt_is_named(text: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        STORIES.parse(text)


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_writing_fills_what_is_asked_and_keeps_the_rest(objective: str, twins: Any) -> None:
    model, prompt = twins(objective), STORIES.parse("Once upon[MASK:4] the end[MASK:2].").repeat(3, 1)
    given = prompt != MASK_ID
    written = write(model, prompt, Decoding("random", temperature=1.0, seed=5))
    assert (written != MASK_ID).all()
    assert (written[given] == prompt[given]).all()
    assert torch.equal(written, write(model, prompt, Decoding("random", temperature=1.0, seed=5)))
    assert len({tuple(row) for row in written.tolist()}) == 3
    greedy = write(model, prompt, Decoding())
    assert (greedy == greedy[0]).all()


# ---------------------------------------------------------------- likelihood


def test_a_causal_likelihood_is_the_sum_over_the_tokens_scored(file: str, twins: Any) -> None:
    model, documents = twins("causal"), STORIES.held_out((file,), limit=3)
    found = likelihood(model, documents)
    for nats, document in zip(found.nats, documents, strict=True):
        logs = model.logits(document.windows.tokens).log_softmax(-1).gather(-1, document.windows.tokens[..., None])[..., 0]
        assert nats == pytest.approx(-logs[document.windows.target].sum().item(), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(found.nats.sum() / np.log(2) / sum(document.n_bytes for document in documents))
    low, high = found.interval()
    assert low < found.bits_per_byte < high


def test_a_network_that_knows_nothing_has_the_bound_of_a_uniform_guess(file: str) -> None:
    """Exact whatever the masks: every masked token costs the same, and the weights make up for how many there are."""
    module = ARCHITECTURES["gpt2"].build(vocab_size=6000, n_positions=256, d_model=32, n_layers=1, n_heads=2)
    set_attention(ARCHITECTURES["gpt2"], module.config, "full")
    model = wrap("uniform", module, ModelFacts("masked", "full", 1, MASK_ID, "stories"))  # its head starts at zero
    found = likelihood(model, STORIES.held_out((file,), limit=4), samples=2)
    assert found.nats == pytest.approx(found.n_tokens * np.log(6000), rel=1e-5)


def test_the_bound_is_unbiased_over_the_number_masked(twins: Any, file: str) -> None:
    """One short window, every number of masks and many draws of each: the mean must be the estimator's, within its error."""
    model = twins("masked")
    window = STORIES.held_out((file,), limit=6)
    short = min(window, key=lambda one: int(one.windows.target.sum()))
    many = [likelihood(model, [short], samples=20, seed=seed).nats[0] for seed in range(12)]
    again = [likelihood(model, [short], samples=80, seed=seed).nats[0] for seed in range(100, 106)]
    error = np.hypot(np.std(many, ddof=1) / np.sqrt(12), np.std(again, ddof=1) / np.sqrt(6))
    assert abs(np.mean(many) - np.mean(again)) < 4 * error


def test_the_ngram_model_is_scored_on_the_same_tokens(file: str) -> None:
    documents = STORIES.held_out((file,))
    found = ngram_likelihood(STORIES.train_documents((file,)), documents, 6000)
    assert found.n_tokens.tolist() == [int(document.windows.target.sum()) for document in documents]
    assert 0 < found.bits_per_byte < 1.5  # seventeen words at random: log2(17) / 5 bytes is .8


def test_nothing_to_score_is_an_error(twins: Any, file: str) -> None:
    with pytest.raises(LikelihoodError, match="0 documents"):
        likelihood(twins("causal"), [])
    with pytest.raises(LikelihoodError, match="0 samples"):
        likelihood(twins("masked"), STORIES.held_out((file,), limit=1), samples=0)


def test_bits_are_shared_among_all_bytes() -> None:
    one = Likelihood("x", np.array([np.log(2) * 30, np.log(2) * 10]), np.array([3, 3]), np.array([10, 30]), 0.0)
    assert one.bits_per_byte == pytest.approx(1.0)


def test_a_trained_model_has_its_tokenizer_and_transformers_alone_opens_both(file: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plan = TrainingPlan("stories", "causal", size="nano", steps=2, batch=2, data=TrainingData(files=(file,)))
    train(plan, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("Once upon a time")["input_ids"] == STORIES.tokenizer.encode("Once upon a time").ids
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id) == (STORY_ID, END_ID, MASK_ID)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.vocab_size == len(tokenizer)
    assert load(tmp_path).task is STORIES

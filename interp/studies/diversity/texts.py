"""Stories from the same instruction: how far they differ, and what several judges think of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.diversity import bag_similarity, distinct_classes, distinct_n, self_bleu, vendi_score
from interp.reading.stories import sampled_texts, story_prompts
from interp.statistics import Statistic
from interp.studies.diversity.samples import (
    Sampled,
    draw,
    frontier_values,
    matched_statistic,
    matched_values,
    settings_of,
    temperature_values,
)
from interp.transfer import Twins
from models.language_model import LanguageModel
from models.likelihood import likelihood
from models.ngram import NGramModel, fit_ngrams, log_probabilities
from models.tasks.base import Batch, Document
from models.tasks.stories.task import END_ID, MASK_ID, STORIES

CAUSAL_TEMPERATURES = (50, 75, 100, 125)
TEMPERATURES = (50, 100)
BUDGETS = (16, 64)
SAME = 0.5
"""The cosine from which two texts are of one class."""
MASKINGS = 4
CAUSAL_JUDGE, MASKED_JUDGE, NGRAM_JUDGE = "causal model", "diffusion model", "5-grams"
JUDGES = (CAUSAL_JUDGE, MASKED_JUDGE, NGRAM_JUDGE)
MEASURES = ("distinct_1", "distinct_2", "distinct_3", "unlike", "vendi", "classes", "within")
DRAWN = ("distinct_2", "vendi")
HOW = (
    "Several beginnings of a story to each instruction, all of equally many tokens unless they end. distinct_n: share of different n-grams "
    "among all of an instruction's texts. unlike: 1 - self-BLEU (BLEU-4 against the other texts, 1 added to matches and n-grams of orders "
    "above 1). vendi: Vendi score on cosines of token counts, over the number of texts. classes: number of classes of texts, over the "
    f"number of texts; a text is of a class if the cosine to its first one is {SAME} or more. within: distinct_2 of each text alone, which "
    "is no diversity but the absence of repetition. All are shares, higher is more diverse. Intervals resample instructions."
)
_JUDGED = (
    "Bits a token, lower is more probable: of the causal model itself (exact), of the diffusion model itself (its bound, "
    f"{MASKINGS} maskings a text), and of 5-grams with Kneser-Ney smoothing. Each model is kind to what it would write itself, and every "
    "judge is kind to texts that repeat themselves: quality is what all of them agree on."
)


@dataclass(frozen=True)
class Asked:
    """What is to be written."""

    prompts: Int[Tensor, "prompt pos"]
    """Cut after the tokens to write, so that a network call is short."""
    head: Int[Tensor, " prompt"]
    """How many tokens of each are given."""
    length: int
    """How many tokens of each text count."""


def asked_of(prompts: Int[Tensor, "prompt pos"], length: int) -> Asked:
    """Returns prompts cut so that each has room for ``length`` tokens, or as many as the window has."""
    head = (prompts != MASK_ID).sum(1)
    width = min(prompts.shape[1], int(head.max()) + length)
    return Asked(prompts[:, :width], head, min(length, width - int(head.max())))


def written_texts(asked: Asked, answers: Int[Tensor, "prompt sample pos"]) -> list[list[Document]]:
    """Returns the texts of each prompt, up to their first end and with it, as documents whose scored tokens they are."""
    found = []
    for head, rows in zip(asked.head.tolist(), answers, strict=True):
        texts = []
        for row in rows:
            stop = head + asked.length
            ended = torch.nonzero(row[head:stop] == END_ID).flatten()
            stop = head + int(ended[0]) + 1 if len(ended) else stop
            target = torch.zeros(1, len(row), dtype=torch.bool)
            target[:, head:stop] = True
            spelled = len(STORIES.decode(row[None, head:stop])[0].encode())
            texts.append(Document(Batch(row[None], target), row[:stop].numpy(), spelled))
        found.append(texts)
    return found


def _tokens_of(text: Document) -> list[int]:
    tokens: list[int] = text.windows.tokens[text.windows.target].tolist()
    return tokens


def text_values(texts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Returns each measure of diversity of the texts of one prompt."""
    similarity = bag_similarity(texts)
    return {
        **{f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3)},
        "unlike": 1 - self_bleu(texts),
        "vendi": vendi_score(similarity) / len(texts),
        "classes": distinct_classes(similarity, SAME) / len(texts),
        "within": float(np.mean([distinct_n([text], 2) if len(text) > 1 else 1.0 for text in texts])),
    }


@dataclass(frozen=True)
class Judges:
    """Who scores texts."""

    twins: Twins
    ngrams: NGramModel
    seed: int

    def bits(self, texts: Sequence[Sequence[Document]]) -> dict[str, np.ndarray]:
        """Returns, by judge, the bits a token of the texts of each prompt."""
        flat = [text for of_prompt in texts for text in of_prompt]
        n_tokens = np.array([len(_tokens_of(text)) for text in flat])
        nats = {
            CAUSAL_JUDGE: likelihood(self.twins.ar, flat).nats,
            MASKED_JUDGE: likelihood(self.twins.diffusion, flat, samples=MASKINGS, seed=self.seed).nats,
            NGRAM_JUDGE: np.array(
                [-log_probabilities(self.ngrams, text.whole)[-n:].sum() for text, n in zip(flat, n_tokens.tolist(), strict=True)]
            ),
        }
        rows = (len(texts), -1)
        return {name: of.reshape(rows).sum(1) / n_tokens.reshape(rows).sum(1) / np.log(2) for name, of in nats.items()}


def material(model: LanguageModel, prompts: int, length: int, others: int, *, files: Sequence[Path], seed: int) -> tuple[Asked, NGramModel]:
    """Returns instructions that the causal model made up, and 5-grams of the named files' stories or, without, of its other texts."""
    texts = sampled_texts(model, prompts * 5 // 4 + 2 + (0 if files else others), seed)
    asked = asked_of(story_prompts(texts, "genre and title")[:prompts], length)
    if files:
        learned = STORIES.train_documents(tuple(map(str, files)))
    else:
        learned = [row[: int((row != END_ID).sum()) + 1] for row in texts.sequences[prompts:].numpy()]
    return asked, fit_ngrams(learned, len(STORIES.vocabulary))


def sample_texts(judges: Judges, asked: Asked, samples: int, budgets: int, tell: Callable[[int, int], None]) -> list[Sampled]:
    """Returns what each way of writing makes of the same instructions."""
    settings = settings_of(judges.twins, TEMPERATURES, CAUSAL_TEMPERATURES, BUDGETS[:budgets])
    found = []
    for done, setting in enumerate(settings):
        tell(done, len(settings))
        texts = written_texts(asked, draw(setting, asked.prompts, samples, judges.seed))
        each = [text_values([_tokens_of(text) for text in of_prompt]) for of_prompt in texts]
        values = {name: np.array([one[name] for one in each]) for name in MEASURES}
        found.append(Sampled(setting, values | judges.bits(texts)))
    return found


def text_statistics(found: Sequence[Sampled], asked: Asked, samples: int, seed: int) -> list[Statistic]:
    """Returns the figures of stories: a frontier for each judge, each measure and the bits by temperature, differences at equal quality."""
    how = f"{samples} texts an instruction, {asked.length} tokens each. {HOW} {_JUDGED}"
    frontiers = [
        Statistic(
            name=f"frontier_texts_{number}",
            title=f"Quality against diversity: stories, judged by the {judge}",
            about=f"Each line is one way of writing at several temperatures. {how}",
            unit="share",
            panels=("measure",),
            lines=("writer",),
            x="hundredths_of_a_bit_a_token",
            values=frontier_values(found, (judge, "hundredths_of_a_bit_a_token", 100), DRAWN, seed),
        )
        for number, judge in enumerate(JUDGES, start=1)
    ]
    plain = [
        Statistic(
            name=name,
            title=title,
            about=how,
            unit=unit,
            panels=(axis,),
            lines=("writer",),
            x="temperature_in_percent",
            values=temperature_values(found, measures, axis, seed),
        )
        for name, title, unit, axis, measures in (
            ("diversity_texts", "How different are stories from one instruction?", "share", "measure", MEASURES),
            ("quality_texts", "How probable do judges find them?", "bits a token", "judge", JUDGES),
        )
    ]
    matched = [one for judge in JUDGES for one in matched_values(found, judge, MEASURES, lower_is_better=True, seed=seed)]
    return [*frontiers, *plain, matched_statistic("matched_texts", how, matched)]

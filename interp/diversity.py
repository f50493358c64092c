"""How different several answers to one prompt are, from the answers alone.

Texts are rows of tokens. Where a figure grows with the number of answers or their length, compare equally many of equal length.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import binom

Text = Sequence[int]


class DiversityError(ValueError):
    """Answers of which no diversity can be told."""


def expected_coverage(draws: int, kinds: int, share: float = 1.0) -> float:
    """Returns the share of ``kinds`` that so many independent draws find in the mean: 1 - (1 - share / kinds)^draws.

    A draw is one of the kinds, each alike, with probability ``share``, and otherwise none of them.
    """
    return 1 - (1 - share / kinds) ** draws


def evenness(counts: Int[np.ndarray, " kind"], kinds: int) -> float:
    """Returns the entropy of how often each kind was found over log ``kinds``: 1 is all alike often (Pielou 1966); NaN of none found.

    Kinds not found may be left out of ``counts``. Of few draws it is below 1 for even kinds too: see ``expected_evenness``.
    """
    found = counts[counts > 0]
    if not len(found):
        return math.nan
    shares = found / found.sum()
    return float(-(shares * np.log(shares)).sum() / math.log(kinds)) + 0.0


def expected_evenness(draws: int, kinds: int) -> float:
    """Returns ``evenness`` in the mean over so many draws from alike kinds, exactly; NaN of no draw."""
    if not draws:
        return math.nan
    n = np.arange(1, draws + 1)
    entropy = -kinds * (binom.pmf(n, draws, 1 / kinds) * (n / draws) * np.log(n / draws)).sum()
    return float(entropy / math.log(kinds))


def differing(counts: Int[np.ndarray, " kind"]) -> float:
    """Returns the chance that two of the draws are of different kinds (Hurlbert 1971); NaN of fewer than two draws.

    Unbiased however many draws there are: alike kinds have 1 - 1 / kinds in the mean.
    """
    n = int(counts.sum())
    return math.nan if n < 2 else float(1 - (counts * (counts - 1)).sum() / (n * (n - 1)))


def _ngrams(text: Text, n: int) -> Counter[tuple[int, ...]]:
    return Counter(zip(*(text[start:] for start in range(n)), strict=False))


def distinct_n(texts: Sequence[Text], n: int) -> float:
    """Returns the share of different n-grams among all n-grams of the texts (Li et al. 1510.03055); NaN where there is none."""
    counts = sum((_ngrams(text, n) for text in texts), Counter[tuple[int, ...]]())
    return len(counts) / counts.total() if counts else math.nan


def bleu(text: Text, references: Sequence[Text]) -> float:
    """Returns the BLEU-4 of one text (Papineni et al. 2002), 0 to 1.

    N-grams count as often at most as in the reference that has most of them; the brevity penalty is against the reference of nearest
    length, the shorter of two. Smoothed as in Lin & Och (2004): 1 is added to matches and n-grams of orders above 1 (NLTK's method 2).

    Raises:
        DiversityError: On an empty text, or no references.
    """
    if not text or not references:
        raise DiversityError(f"a text of {len(text)} tokens and {len(references)} references; BLEU needs one of each at least")
    logs = 0.0
    for n in range(1, 5):
        most: Counter[tuple[int, ...]] = Counter()
        for reference in references:
            most |= _ngrams(reference, n)
        own = _ngrams(text, n)
        matches, total = (own & most).total() + (n > 1), own.total() + (n > 1)
        if not matches:
            return 0.0
        logs += math.log(matches / total) / 4
    nearest = min((abs(len(one) - len(text)), len(one)) for one in references)[1]
    return math.exp(logs + min(0.0, 1 - nearest / len(text)))


def self_bleu(texts: Sequence[Text]) -> float:
    """Returns the mean BLEU-4 of each text against all others (Zhu et al. 1802.01886): 1 is all the same.

    Raises:
        DiversityError: On an empty text, or fewer than two.
    """
    return float(np.mean([bleu(text, [*texts[:place], *texts[place + 1 :]]) for place, text in enumerate(texts)]))


def bag_similarity(texts: Sequence[Text]) -> Float[np.ndarray, "text text"]:
    """Returns the cosine of each two texts' counts of tokens, 0 to 1.

    Raises:
        DiversityError: On an empty text, or no texts.
    """
    if not texts or not all(texts):
        raise DiversityError(f"there are {len(texts)} texts, the shortest of {min(map(len, texts), default=0)} tokens; none may be empty")
    place = {token: index for index, token in enumerate(dict.fromkeys(chain(*texts)))}
    counts = np.zeros((len(texts), len(place)))
    for row, text in zip(counts, texts, strict=True):
        np.add.at(row, [place[token] for token in text], 1)
    unit = counts / np.linalg.norm(counts, axis=1, keepdims=True)
    return unit @ unit.T


def vendi_score(similarity: Float[np.ndarray, "text text"]) -> float:
    """Returns the effective number of different items: exp of the entropy of the eigenvalues of K / n (Friedman & Dieng 2210.02410).

    ``similarity`` K is positive semidefinite with ones on its diagonal: all the same give 1, n that share nothing give n.
    """
    values = np.linalg.eigvalsh(similarity / len(similarity))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def distinct_classes(similarity: Float[np.ndarray, "text text"], threshold: float) -> int:
    """Returns into how many classes items fall, as in NoveltyBench's distinct_k (2504.05228), whose judge of sameness is a classifier.

    In their order, an item joins the first class whose first member is at least ``threshold`` similar to it, and else opens its own.
    """
    first: list[int] = []
    for item in range(len(similarity)):
        if not any(similarity[item, other] >= threshold for other in first):
            first.append(item)
    return len(first)

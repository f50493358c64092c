"""The n-gram model against its definition, and the theorem that its probabilities sum to one."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ngram import FALLBACK_DISCOUNTS, NGramError, fit_ngrams, log_probabilities

Gram = tuple[int, ...]


class PlainKneserNey:
    """The definition, with dictionaries: one count and one recursion at a time."""

    def __init__(self, documents: Sequence[Sequence[int]], vocabulary_size: int, order: int) -> None:
        self.vocabulary_size, self.order = vocabulary_size, order
        occurrences: Counter[Gram] = Counter()
        neighbours: defaultdict[Gram, set[object]] = defaultdict(set)
        for number, document in enumerate(documents):
            for end in range(1, len(document) + 1):
                for n in range(1, min(order, end) + 1):
                    gram = tuple(document[end - n : end])
                    occurrences[gram] += 1
                    neighbours[gram].add(document[end - n - 1] if end > n else f"beginning of document {number}")
        self.counts = {gram: occurrences[gram] if len(gram) == order else len(neighbours[gram]) for gram in occurrences}
        self.discounts = [self._estimate(n) for n in range(1, order + 1)]
        self.continuations: defaultdict[Gram, list[int]] = defaultdict(list)
        for gram, count in self.counts.items():
            self.continuations[gram[:-1]].append(count)

    def _estimate(self, length: int) -> list[float]:
        n = Counter(count for gram, count in self.counts.items() if len(gram) == length)
        if not (n[1] and n[2] and n[3]):
            return [0.5, 1.0, 1.5]
        y = Fraction(n[1], n[1] + 2 * n[2])
        found = [j - (j + 1) * y * n[j + 1] / n[j] for j in (1, 2, 3)]
        return [float(d) for d in found] if all(0 < d <= j for j, d in enumerate(found, start=1)) else [0.5, 1.0, 1.5]

    def _discount(self, length: int, count: int) -> float:
        return self.discounts[length - 1][min(count, 3) - 1] if count else 0.0

    def probability(self, token: int, context: Gram) -> float:
        shorter = self.probability(token, context[1:]) if context else 1 / self.vocabulary_size
        if context not in self.continuations:
            return shorter
        length, counts = len(context) + 1, self.continuations[context]
        count = self.counts.get((*context, token), 0)
        left = sum(self._discount(length, other) for other in counts)
        return (count - self._discount(length, count) + left * shorter) / sum(counts)

    def log_probabilities(self, document: Sequence[int]) -> list[float]:
        return [
            math.log(self.probability(token, tuple(document[max(0, i - self.order + 1) : i]))) for i, token in enumerate(map(int, document))
        ]


def some_documents(seed: int, vocabulary_size: int, n_documents: int, longest: int) -> list[np.ndarray]:
    """Zipfian documents of unequal length, the first one never empty; the last tenth of the vocabulary is left out."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, max(1, int(0.9 * vocabulary_size)) + 1)
    lengths = rng.integers(0, longest + 1, n_documents)
    lengths[0] = max(1, lengths[0])
    return [rng.choice(len(weights), size=length, p=weights / weights.sum()) for length in lengths]


corpora = st.builds(some_documents, st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12), st.integers(1, 40))


@settings(deadline=None, max_examples=60)
@given(corpora, st.integers(1, 6), st.lists(st.integers(0, 11), max_size=7))
def test_probabilities_sum_to_one_after_any_context(documents: list[np.ndarray], order: int, context: list[int]) -> None:
    model = fit_ngrams(documents, 12, order)
    logs = np.array([log_probabilities(model, np.array([*context, token]))[-1] for token in range(12)])
    assert np.isfinite(logs).all()
    assert np.exp(logs).sum() == pytest.approx(1, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(corpora, st.integers(1, 6), st.lists(st.integers(0, 11), min_size=1, max_size=30))
def test_equals_the_definition_on_small_corpora(documents: list[np.ndarray], order: int, text: list[int]) -> None:
    model, plain = fit_ngrams(documents, 12, order), PlainKneserNey([d.tolist() for d in documents], 12, order)
    for document in [np.array(text), *documents[:3]]:  # the text holds contexts and tokens never seen
        np.testing.assert_allclose(log_probabilities(model, document), plain.log_probabilities(document.tolist()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("opening", [False, True])
def test_equals_the_definition_where_discounts_are_estimated(order: int, opening: bool) -> None:
    phrases = some_documents(0, 400, 400, 8)
    documents = [np.concatenate([phrases[i] for i in drawn]) for drawn in some_documents(1, 400, 80, 25) if len(drawn)]
    if opening:  # each document begins with a token that is nowhere else
        documents = [np.concatenate([[399], document]) for document in documents]
    model, plain = fit_ngrams(documents, 400, order), PlainKneserNey([d.tolist() for d in documents], 400, order)
    assert all(tuple(table.discounts) != FALLBACK_DISCOUNTS for table in model.orders)
    for table, discounts in zip(model.orders, plain.discounts, strict=True):
        np.testing.assert_allclose(table.discounts, discounts)
    unseen = np.random.default_rng(0).integers(0, 400, 300)
    for document in [unseen, *documents[:10]]:
        np.testing.assert_allclose(log_probabilities(model, document), plain.log_probabilities(document.tolist()), rtol=0, atol=1e-9)


def test_a_unigram_by_hand() -> None:
    logs = log_probabilities(fit_ngrams([np.array([0, 0, 1])], 4, 1), np.array([0, 1, 2, 3]))
    # counts 2 and 1; no count of 3, so 1 and 1/2 are taken off: 3/2 of 3 is shared by 4 tokens
    np.testing.assert_allclose(np.exp(logs), [1 / 3 + 1 / 8, 1 / 6 + 1 / 8, 1 / 8, 1 / 8])


def test_a_lower_order_counts_neighbours_not_occurrences() -> None:
    documents = [np.array([0, 9] * 20 + [1, 8, 2, 8, 3, 8])]
    bigrams, unigrams = (log_probabilities(fit_ngrams(documents, 10, order), np.array([5, 9, 5, 8]))[1::2] for order in (2, 1))
    assert unigrams[0] > unigrams[1]  # 9 is frequent
    assert bigrams[0] < bigrams[1]  # but follows 0 alone, and 8 three others


def test_documents_do_not_leak_into_each_other() -> None:
    apart = fit_ngrams([np.array([0, 1]), np.array([2, 3])], 5, 3)
    assert [len(table.keys) for table in apart.orders] == [4, 2]
    after_1, alone = log_probabilities(apart, np.array([1, 2])), log_probabilities(apart, np.array([2]))
    assert after_1[1] == alone[0]  # 1 only ends a document, so nothing is known of what follows it
    joined = log_probabilities(fit_ngrams([np.array([0, 1, 2, 3])], 5, 3), np.array([1, 2]))
    assert joined[1] > after_1[1]


@settings(deadline=None, max_examples=20)
@given(corpora, st.integers(0, 10_000))
def test_the_order_of_documents_and_empty_ones_change_nothing(documents: list[np.ndarray], seed: int) -> None:
    shuffled = [documents[i] for i in np.random.default_rng(seed).permutation(len(documents))]
    one, other = fit_ngrams(documents, 12), fit_ngrams([np.array([], dtype=np.int64), *shuffled], 12)
    for table, same in zip(one.orders, other.orders, strict=True):
        assert np.array_equal(table.keys, same.keys)
        assert np.array_equal(table.probabilities, same.probabilities)


def test_an_order_beyond_the_longest_document_changes_nothing() -> None:
    documents = [np.array([0, 1, 2]), np.array([0, 1])]
    for probe in ([0, 1, 2, 2, 1, 0, 1, 2], [2], []):
        document = np.array(probe, dtype=np.int64)
        assert np.array_equal(
            log_probabilities(fit_ngrams(documents, 4, 3), document), log_probabilities(fit_ngrams(documents, 4, 9), document)
        )


@pytest.mark.parametrize(
    ("counts_of_counts", "expected"),
    [
        ((4, 2, 1, 1), (0.5, 1.25, 1.0)),
        ((4, 2, 1, 0), (0.5, 1.25, 3.0)),  # without a count of 4, D3+ takes all of a 3
        ((4, 2, 1, 2), FALLBACK_DISCOUNTS),  # D3+ would be -1
        ((2, 2, 3, 0), (1 / 3, 0.5, 3.0)),
        ((2, 2, 4, 0), FALLBACK_DISCOUNTS),  # D2 would be 0
        ((0, 2, 1, 1), FALLBACK_DISCOUNTS),
        ((4, 0, 1, 1), FALLBACK_DISCOUNTS),
        ((4, 2, 0, 1), FALLBACK_DISCOUNTS),
    ],
)
def test_discounts_follow_from_counts_of_counts(counts_of_counts: tuple[int, ...], expected: tuple[float, ...]) -> None:
    counts = [count for count, tokens in enumerate(counts_of_counts, start=1) for _ in range(tokens)]
    model = fit_ngrams([np.repeat(np.arange(len(counts)), counts)], 20, 1)
    np.testing.assert_allclose(model.orders[0].discounts, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_any_integers_are_tokens(dtype: type[np.integer]) -> None:
    tokens = np.arange(250, dtype=np.int64) * 37 % 250
    expected = log_probabilities(fit_ngrams([tokens], 250, 3), tokens)
    assert np.array_equal(log_probabilities(fit_ngrams([tokens.astype(dtype)], 250, 3), tokens.astype(dtype)), expected)


def test_longer_contexts_find_longer_structure() -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, 8, (8, 8, 8))

    def text(length: int) -> np.ndarray:  # three tokens determine the next, but for one in ten
        tokens = [0, 0, 0]
        for _ in range(length):
            tokens.append(int(rng.integers(8)) if rng.random() < 0.1 else int(table[tuple(tokens[-3:])]))
        return np.array(tokens)

    training, held_out = [text(2000) for _ in range(15)], text(5000)
    nats = {order: -float(log_probabilities(fit_ngrams(training, 8, order), held_out).mean()) for order in (1, 2, 3, 4, 5)}
    sure, other = 0.9 + 0.1 / 8, 0.1 / 8
    floor = -sure * math.log(sure) - 7 * other * math.log(other)
    assert nats[1] > nats[2] > nats[3] > nats[4]
    assert nats[1] > nats[5] + 0.5
    assert floor - 0.05 < nats[4] < floor + 0.1
    assert nats[5] < floor + 0.1


@pytest.mark.parametrize(
    ("documents", "order", "message"),
    [
        ([], 5, "0 documents with 0 tokens; a corpus has at least one token"),
        ([[], []], 5, "2 documents with 0 tokens"),
        ([[0, 1], [2, 10]], 5, "token 10 is outside the vocabulary; with 10 tokens they are 0 to 9"),
        ([[0, -1]], 5, "token -1 is outside"),
        ([[0, 1]], 0, "order is 0; the order of an n-gram model is 1"),
    ],
)
def test_what_cannot_be_fitted_is_refused(documents: list[list[int]], order: int, message: str) -> None:
    with pytest.raises(NGramError, match=message):
        fit_ngrams([np.array(document, dtype=np.int64) for document in documents], 10, order)


def test_a_token_outside_the_vocabulary_is_not_scored() -> None:
    model = fit_ngrams([np.array([0, 1])], 3)
    with pytest.raises(NGramError, match="token 3 is outside the vocabulary; with 3 tokens they are 0 to 2"):
        log_probabilities(model, np.array([0, 3]))

"""N-gram language models with interpolated modified Kneser-Ney smoothing: the yardstick a network has to beat.

Chen & Goodman (1999), "An empirical study of smoothing techniques for language modeling", Computer Speech & Language 13. With h a context,
h' the context without its first token, and a(hw) the count of an n-gram,

    p(w | h) = (a(hw) - D(a(hw))) / sum_v a(hv)  +  b(h) p(w | h'),      b(h) = sum_v D(a(hv)) / sum_v a(hv),

down to the uniform distribution below the unigrams. An unseen n-gram has a = D = 0; a context never seen leaves p(w | h') as it is.
At the highest order a is how often the n-gram occurs; below, it is how many different left neighbours it has. The beginning of a document
is a left neighbour of its own for each document, so n-grams there count each time, as SRILM and KenLM count those that begin with <s>.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64, Integer

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Discounts of an order whose counts of counts give none (KenLM's ``--discount_fallback``)."""


class NGramError(ValueError):
    """A corpus, an order or a token that no n-gram model can be made of or asked about."""


@dataclass(frozen=True)
class NGramOrder:
    """The n-grams of one length. An n-gram is named by its place in ``keys``, a context by its place in the order below."""

    keys: Int64[np.ndarray, " ngram"]
    """``context * vocabulary_size + last token``, ascending. Exact, no hashes; the one context of the unigrams, the empty one, is 0."""
    probabilities: Float64[np.ndarray, " ngram"]
    """Of the last token after the others, interpolated with all lower orders."""
    backoffs: Float64[np.ndarray, " context"]
    """The share a context leaves to the order below; 1 for one that only ends documents."""
    discounts: Float64[np.ndarray, " 3"]
    """D1, D2 and D3+: what is taken off counts of 1, of 2, and of 3 or more."""


@dataclass(frozen=True)
class NGramModel:
    """What ``fit_ngrams`` learned."""

    vocabulary_size: int
    orders: tuple[NGramOrder, ...]
    """Unigrams first. Lengths beyond the longest document of the corpus have no n-grams and are left out; no probability needs them."""


@dataclass(frozen=True)
class _Counts:
    """The n-grams of one length before smoothing."""

    keys: Int64[np.ndarray, " ngram"]
    suffixes: Int64[np.ndarray, " ngram"]
    """The n-gram without its first token, as its place in the order below."""
    occurrences: Int64[np.ndarray, " ngram"]
    openings: Int64[np.ndarray, " ngram"]
    """Occurrences at the beginning of a document."""


def fit_ngrams(documents: Sequence[Integer[np.ndarray, " _"]], vocabulary_size: int, order: int = 5) -> NGramModel:
    """Returns an interpolated modified Kneser-Ney model of the documents.

    N-grams never cross documents. Nothing is added to a document, neither padding nor a token of beginning or end: documents start with
    their own beginning token if they are to have one, and their first tokens have the shorter contexts that are there.

    Args:
        documents: Token ids from 0 to ``vocabulary_size - 1``; single documents may be empty.
        vocabulary_size: How many tokens share the probability, seen or not.
        order: Longest n-gram, so one more than the longest context.

    Raises:
        NGramError: On a corpus without tokens, a token outside the vocabulary, or an order below 1.
    """
    if order < 1:
        raise NGramError(f"order is {order}; the order of an n-gram model is 1 (unigrams) or more")
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    if not lengths.sum():
        raise NGramError(f"{len(lengths)} documents with 0 tokens; a corpus has at least one token")
    tokens = _tokens(np.concatenate(documents), vocabulary_size)
    places = np.arange(len(tokens)) - np.repeat(lengths.cumsum() - lengths, lengths)
    counted = _count(tokens, places, vocabulary_size, order)
    orders: list[NGramOrder] = []
    below = np.array([1 / vocabulary_size])
    for n, table in enumerate(counted):
        counts = table.occurrences
        if n + 1 < len(counted):
            counts = table.openings + np.bincount(counted[n + 1].suffixes, minlength=len(table.keys))
        orders.append(_smooth(table, counts, below, vocabulary_size))
        below = orders[-1].probabilities
    return NGramModel(vocabulary_size, tuple(orders))


def log_probabilities(model: NGramModel, document: Integer[np.ndarray, " pos"]) -> Float[np.ndarray, " pos"]:
    """Returns the natural logarithm of p(token | the tokens before it in the document, at most order - 1), for each token.

    The first token has no context; its probability is the unigram's. All values are finite.

    Raises:
        NGramError: On a token outside the vocabulary.
    """
    tokens = _tokens(document, model.vocabulary_size)
    probabilities = np.full(len(tokens), 1 / model.vocabulary_size)
    contexts = np.zeros(len(tokens), dtype=np.int64)  # -1: never seen, or longer than what precedes the token
    for table in model.orders:
        keys = contexts * model.vocabulary_size + tokens
        ngrams = np.minimum(np.searchsorted(table.keys, keys), len(table.keys) - 1)
        seen = table.keys[ngrams] == keys
        backed_off = np.where(contexts >= 0, table.backoffs[contexts], 1.0) * probabilities
        probabilities = np.where(seen, table.probabilities[ngrams], backed_off)
        contexts = np.concatenate([[-1], np.where(seen, ngrams, -1)[:-1]])[: len(tokens)]
    return np.log(probabilities)


def _tokens(tokens: Integer[np.ndarray, " pos"], vocabulary_size: int) -> Int64[np.ndarray, " pos"]:
    outside = tokens[(tokens < 0) | (tokens >= vocabulary_size)]
    if len(outside):
        raise NGramError(f"token {outside[0]} is outside the vocabulary; with {vocabulary_size} tokens they are 0 to {vocabulary_size - 1}")
    return tokens.astype(np.int64)


def _count(tokens: Int64[np.ndarray, " pos"], places: Int64[np.ndarray, " pos"], vocabulary_size: int, order: int) -> list[_Counts]:
    """Returns the n-grams of each length that occurs, up to ``order``; ``places`` are the tokens' positions in their documents."""
    counted = []
    ending = np.zeros_like(tokens)  # which (n - 1)-gram ends at each token
    for n in range(1, order + 1):
        ends = np.flatnonzero(places >= n - 1)
        if not len(ends):
            break
        keys, ngrams = np.unique(ending[ends - 1] * vocabulary_size + tokens[ends], return_inverse=True)
        suffixes = np.empty_like(keys)
        suffixes[ngrams] = ending[ends]
        openings = np.bincount(ngrams[places[ends] == n - 1], minlength=len(keys))
        counted.append(_Counts(keys, suffixes, np.bincount(ngrams), openings))
        ending[ends] = ngrams
    return counted


def _smooth(
    table: _Counts, counts: Int64[np.ndarray, " ngram"], below: Float64[np.ndarray, " context"], vocabulary_size: int
) -> NGramOrder:
    """Returns the order with probabilities, ``below`` being those of the order under it (the uniform one under the unigrams)."""
    contexts = table.keys // vocabulary_size
    discounts = _discounts(counts)
    taken = discounts[np.minimum(counts, 3) - 1]
    totals = np.bincount(contexts, weights=counts, minlength=len(below))
    backoffs = np.ones(len(below))
    np.divide(np.bincount(contexts, weights=taken, minlength=len(below)), totals, out=backoffs, where=totals > 0)
    probabilities = (counts - taken) / totals[contexts] + backoffs[contexts] * below[table.suffixes]
    return NGramOrder(table.keys, probabilities, backoffs, discounts)


def _discounts(counts: Int64[np.ndarray, " ngram"]) -> Float64[np.ndarray, " 3"]:
    """Returns D1, D2 and D3+ by equation 26 of Chen & Goodman (1999), D_j = j - (j + 1) Y n_{j+1} / n_j with Y = n_1 / (n_1 + 2 n_2).

    n_j is how many n-grams have count j. Small or artificial corpora may lack an n_j to divide by, or give a discount below 0. Then all
    three are ``FALLBACK_DISCOUNTS``, as in KenLM with ``--discount_fallback``. KenLM lets a discount of exactly 0 pass; here it is refused
    too, since a context that gives nothing away would leave unseen tokens without probability. D_j never exceeds j.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5]
    j = np.arange(1, 4)
    numerators = j * (n[0] + 2 * n[1]) * n[:3] - (j + 1) * n[0] * n[1:]  # in integers: whether a discount is 0 is no matter of rounding
    if not n[:3].all() or (numerators <= 0).any():
        return np.array(FALLBACK_DISCOUNTS)
    return numerators / ((n[0] + 2 * n[1]) * n[:3])

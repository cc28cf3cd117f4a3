"""The choice of a token: equal in both programs, and that of transformers; README's options --top-p and others."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmc
from llmc.sampling import Choice, NotFinite, candidates, choose_token

pytestmark = pytest.mark.skipif("cpu" not in llmc.backends(), reason="not built: run make module")


def native(function, logits, choice, *uniform, context=()):
    """llmc.cpu's function of the same name."""
    options = {"top_p": choice.top_p, "repetition_penalty": choice.repetition_penalty, "context": list(context)}
    return getattr(llmc.cpu, function)(
        np.asarray(logits, np.float32).tolist(), choice.temperature, choice.top_k, *uniform, **options
    )


def probabilities(logits, choice, context=()):
    """(V,), of train_gpt2.py's sampler."""
    logits = np.asarray(logits, np.float32)
    tokens, weights = candidates(logits, list(context), choice)
    out = np.zeros(len(logits))
    out[tokens] = weights / weights.sum()
    return out


floats = st.floats(-30, 30, width=32)
few_values = st.sampled_from([-2.0, -0.5, 0.0, 1.0, 3.0])  # many are equal
CASES = st.lists(floats, min_size=1, max_size=40) | st.lists(few_values, min_size=1, max_size=40)
CHOICES = st.builds(
    Choice,
    repetition_penalty=st.just(1.0) | st.floats(0.1, 10),
    temperature=st.just(0.0) | st.floats(0.05, 20),
    top_k=st.integers(0, 45),
    top_p=st.just(1.0) | st.floats(1e-9, 1),
)


@settings(max_examples=300, deadline=None)
@given(logits=CASES, choice=CHOICES, seen=st.lists(st.integers(0, 39), max_size=20), u=st.floats(1e-6, 1 - 1e-6))
def test_both_programs_choose_the_same(logits, choice, seen, u):
    context = [token % len(logits) for token in seen]
    ours = native("token_probabilities", logits, choice, context=context)
    theirs = probabilities(logits, choice, context)
    assert np.array_equal(ours > 0, theirs > 0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)  # exp may differ by its rounding, 2e-16
    assert ours.sum() == pytest.approx(1, abs=1e-12)
    chosen = native("choose_token", logits, choice, u, context=context)
    assert chosen == choose_token(np.asarray(logits, np.float32), context, choice, u)
    assert ours[chosen] > 0


@pytest.mark.parametrize("size", [17, 257])
def test_the_choice_is_that_of_transformers(size):
    """transformers 5.24.0, whose processors compute in fp32: the same tokens are kept, with the same probabilities."""
    import torch
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    rng, compared = np.random.default_rng(size), 0
    for _ in range(100):
        logits = rng.normal(0, 3, size).astype(np.float32)
        context = rng.integers(0, size, 12)
        choice = Choice(rng.uniform(0.5, 2), rng.uniform(0.3, 2), int(rng.integers(1, size + 1)), rng.uniform(0.05, 1))
        processors = LogitsProcessorList(
            [
                RepetitionPenaltyLogitsProcessor(choice.repetition_penalty),
                TemperatureLogitsWarper(choice.temperature),
                TopKLogitsWarper(choice.top_k),
                TopPLogitsWarper(choice.top_p),
            ]
        )
        scores = processors(torch.tensor(context)[None], torch.tensor(logits)[None])
        expected = torch.softmax(scores, -1)[0].double().numpy()
        sums = np.cumsum(np.sort(probabilities(logits, replace(choice, top_p=1), context))[::-1])
        if np.abs(sums - choice.top_p).min() < 1e-5:  # fp32 rounds the sums: either side may be kept
            continue
        compared += 1
        for ours in (
            native("token_probabilities", logits, choice, context=context),
            probabilities(logits, choice, context),
        ):
            assert np.array_equal(ours > 0, torch.isfinite(scores)[0].numpy())
            # logits of up to 20 are rounded by 1e-6, and so is their exp; fp32 has no smaller numbers than 1e-45
            np.testing.assert_allclose(ours, expected, rtol=5e-6, atol=1e-37)
    assert compared > 80


def test_top_p_takes_the_fewest_likeliest_tokens_that_reach_it():
    logits = np.log([0.1, 0.4, 0.2, 0.3])
    for top_p, kept in ((0.35, [1]), (0.45, [1, 3]), (0.65, [1, 3]), (0.75, [1, 2, 3]), (0.95, [0, 1, 2, 3])):
        p = native("token_probabilities", logits, Choice(1, 1, 0, top_p))
        assert np.flatnonzero(p).tolist() == kept
        assert p[kept] == pytest.approx(np.exp(logits)[kept] / np.exp(logits)[kept].sum(), rel=1e-6)
    # top_k first: of 0.4 and 0.3 the first has 0.57
    assert np.flatnonzero(native("token_probabilities", logits, Choice(1, 1, 2, 0.5))).tolist() == [1]
    assert np.flatnonzero(native("token_probabilities", logits, Choice(1, 1, 2, 0.6))).tolist() == [1, 3]
    # and temperature before both: at 0.5 the largest of all has 0.16 / 0.3
    assert np.flatnonzero(native("token_probabilities", logits, Choice(1, 0.5, 0, 0.5))).tolist() == [1]


def test_equal_tokens_are_kept_from_the_lower_id_on():
    logits = [1.0, 2.0, 2.0, 2.0, 2.0]
    for choice, kept in ((Choice(1, 1, 2), [1, 2]), (Choice(1, 1, 4, 0.5), [1, 2]), (Choice(1, 1, 4, 0.51), [1, 2, 3])):
        assert np.flatnonzero(native("token_probabilities", logits, choice)).tolist() == kept
        assert np.flatnonzero(probabilities(logits, choice)).tolist() == kept


@pytest.mark.parametrize("u", [1e-9, 0.5, 1 - 1e-9])
def test_the_smallest_top_p_leaves_the_likeliest_token(u):
    logits = np.random.default_rng(0).normal(0, 1, 50).astype(np.float32)
    choice = Choice(top_p=1e-12, temperature=100)
    assert native("choose_token", logits, choice, u) == choose_token(logits, [], choice, u) == logits.argmax()


def test_repetition_penalty_is_that_of_ctrl():
    """Positive logits are divided, negative ones multiplied, once for every token however often it occurs."""
    logits = [4.0, 3.0, -1.0, -1.5]
    context, choice = [0, 0, 0, 2], Choice(repetition_penalty=2, temperature=1)
    expected = np.exp([2.0, 3.0, -2.0, -1.5]) / np.exp([2.0, 3.0, -2.0, -1.5]).sum()
    assert native("token_probabilities", logits, choice, context=context) == pytest.approx(expected, rel=1e-9)
    assert probabilities(logits, choice, context) == pytest.approx(expected, rel=1e-9)
    greedy = Choice(repetition_penalty=2, temperature=0)
    assert native("choose_token", logits, greedy, 0.5, context=context) == 1
    assert choose_token(np.asarray(logits, np.float32), context, greedy, 0.5) == 1
    assert native("choose_token", logits, greedy, 0.5, context=[1]) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "choice", [Choice(2), Choice(temperature=0), Choice(top_p=0.5), Choice(top_k=1), Choice(0.5, 0, 2, 0.1)]
)
def test_logits_that_are_not_finite_have_no_choice(value, choice):
    logits = np.array([1, value, 2], np.float32)
    with pytest.raises(NotFinite, match="logits are not finite"):
        choose_token(logits, [1], choice, 0.5)
    with pytest.raises(llmc.Error, match="logits are not finite") as caught:
        native("choose_token", logits, choice, 0.5, context=[1])
    assert caught.value.code == 4


def test_a_context_beyond_the_vocabulary_is_refused():
    with pytest.raises(llmc.UsageError, match="token 3 of the context is outside the vocabulary of 2"):
        native("choose_token", [1.0, 2.0], Choice(2), 0.5, context=[3])

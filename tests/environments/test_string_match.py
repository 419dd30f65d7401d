"""Short answers by their words: SQuAD's, HotpotQA's and RULER's conventions against their code, and tricks."""

from __future__ import annotations

import random
import time

import pytest

from cascade.environments.string_match import exact, f1, normalised, ruler_all, ruler_part, said, short_answer

TEXT = "the The a An an Paris paris Rome 1990 yes no noanswer it's U.S. state-of-the-art ! , ; - é “x” of in"
WORDS = [*TEXT.split(), "\t", "\n", ""]


def phrases(count: int) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(6))) for _ in range(count)]


def test_normalisation_and_scores_are_those_of_squad() -> None:
    reference = pytest.importorskip("transformers.data.metrics.squad_metrics", reason="SQuAD's scorer is not installed")
    found, expected = phrases(4000), phrases(4001)[1:]
    for one, other in zip(found, expected, strict=True):
        assert normalised(one) == reference.normalize_answer(one)
        if normalised(other) and normalised(one):  # an empty answer is none here
            assert float(exact(one, [other])) == reference.compute_exact(other, one)
        if not {normalised(one), normalised(other)} & {"yes", "no", "noanswer"}:  # HotpotQA's rule
            assert f1(one, [other]) == pytest.approx(reference.compute_f1(other, one))


def test_yes_and_no_overlap_with_nothing_but_themselves_as_in_hotpotqa() -> None:
    assert f1("yes", ["yes"]) == 1.0
    assert f1("yes it was", ["yes"]) == 0.0
    assert f1("no", ["no man's land"]) == 0.0


def test_matches_of_ruler_are_those_of_its_code() -> None:
    reference = pytest.importorskip(
        "long_context_eval.eval.synthetic.constants", reason="needs nvidia-long-context-eval==26.3"
    )
    rng = random.Random(1)
    for prediction in phrases(2000):
        outputs = [output for output in rng.choices(WORDS, k=rng.randrange(1, 5)) if output] or ["x"]
        assert ruler_all(prediction, outputs) * 100 == reference.string_match_all_per_sample([prediction], [outputs])[0]
        assert (
            ruler_part(prediction, outputs) * 100 == reference.string_match_part_per_sample([prediction], [outputs])[0]
        )


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Paris", "Paris"), (" Paris\n", "Paris"), ("I think so.\nAnswer: Paris", "Paris"), ("**Answer:** Paris", "Paris"),
     ("Final answer: Paris.", "Paris."), ("The answer is: Paris", "Paris"), (r"so \boxed{Paris}", "Paris"),
     (r"\boxed{\text{the sun}}", "the sun"), (r"\boxed{Rome} no, \boxed{Paris}", "Paris"),
     (r"\boxed{Paris", r"\boxed{Paris"),
     ("Answer: Rome\nAnswer: Paris", "Paris"), ("x" * 3000, ""), ("x" * 3000 + "\nAnswer: Paris", "Paris"), ("", "")],
)  # fmt: skip
def test_what_a_text_gives_as_its_answer(text: str, answer: str) -> None:
    assert short_answer(text) == answer


@pytest.mark.parametrize(
    ("candidate", "answer", "question"),
    [("Rollo", "Rollo", ""), ("rollo.", "Rollo", ""), ("the  Rollo", "Rollo", ""), ("It was Rollo.", "Rollo", ""),
     ("The Norse leader was Rollo.", "Rollo", "Who was the Norse leader?"),
     ("Rollo was the leader", "Rollo", "Who was the Norse leader?"), ("Paris", "Paris",
     "Which is older, Paris or Rome?"),
     ("It is Paris.", "Paris", "Which is older, Paris or Rome?"), ("Yes, they were both American.", "yes",
     "Were both American?"),
     ("The The", "The The", "Which is a band, Boy Hits Car or The The?"), ("!!!", "!!!", "Which band?")],
)  # fmt: skip
def test_an_answer_may_come_in_a_short_sentence(candidate: str, answer: str, question: str) -> None:
    assert said(candidate, [answer], question)


@pytest.mark.parametrize(
    ("candidate", "answer", "question"),
    [("", "Rollo", ""), (" ", "The", ""), ("the", "a", ""), ("Rollo Harald Ragnar", "Rollo", "Who was the leader?"),
     ("Rollo or Harald", "Rollo", "Who was the leader?"), ("not Rollo", "Rollo", "Who was not the leader?"),
     ("Paris Rome", "Paris", "Which is older, Paris or Rome?"), ("Paris or Rome", "Paris",
     "Which is older, Paris or Rome?"),
     ("Rome is older, Paris is not", "Paris", "Which is older, Paris or Rome?"), ("yes no", "yes", "Is it?"),
     ("Yes. No.", "no", "Is it so, yes or no?"), ("the answer is A B C D", "B", "Which letter?"),
     ("1990 1991 1992", "1991", "When?"), ("Rollos", "Rollo", ""), ("Rol lo", "Rollo", ""), ("R\u200bollo", "Rollo",
     ""),
     ("Who was the Norse leader?", "Rollo", "Who was the Norse leader?"), ("R0llo", "Rollo", ""),
     ("Rollo " * 400, "Rollo", ""), ("of in on at " * 20 + "Rollo", "Rollo", ""), ("\ud800Rollo\x00", "Rollo", "")],
)  # fmt: skip
def test_lists_negations_and_tricks_are_no_answer(candidate: str, answer: str, question: str) -> None:
    assert not said(candidate, [answer], question)


def test_long_texts_take_no_time() -> None:
    started = time.monotonic()
    for text in ("\\boxed{" * 700_000, "Answer:" * 700_000, "*" * 5_000_000, "a " * 2_500_000, "\n" * 5_000_000):
        answer = short_answer(text)
        assert not said(answer, ["Rollo"], "Who?")
        assert not said(text, ["Rollo"], "Who?")
        assert f1(text, ["Rollo"]) == 0.0
    assert time.monotonic() - started < 1.0

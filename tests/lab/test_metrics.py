"""Scores against cases worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltamem_lab.metrics.judge import QUESTION_TYPES, Judge, judge_prompt
from deltamem_lab.metrics.locomo import locomo_score, official_answer, released_answer
from deltamem_lab.metrics.memoryagentbench import mab_scores, mab_scores_as_released, parsed_answer
from deltamem_lab.metrics.movies import film_names, nearest_name, recall_at
from deltamem_lab.metrics.text import first_line, normalise, normalise_as_released, strict_f1, token_f1
from deltamem_lab.tasks.gpqa import chosen_letter
from deltamem_lab.tasks.hotpotqa import hotpotqa_scores, hotpotqa_scores_as_released

WORDS = st.lists(st.sampled_from(["red", "blue", "house", "seven"]), min_size=1, max_size=6).map(" ".join)


def test_the_two_normalisations_differ_in_punctuation_alone():
    text = "The U.S. well-known  answer, a..."
    assert normalise(text) == "us wellknown answer"
    assert normalise_as_released(text) == "u s well known answer"


def test_first_line_skips_blank_lines():
    assert first_line("\n  \n Paris \nbecause") == "Paris"
    assert first_line(" \n") == ""


def test_token_f1_by_hand():
    # Two of three words of the answer, two of two of the gold answer: 2 * (2/3) * 1 / (2/3 + 1).
    assert token_f1("in blue house", "blue house") == pytest.approx(0.8)
    assert token_f1("", "blue") == 0
    assert token_f1("blue blue", "blue") == pytest.approx(2 / 3)


@given(WORDS, WORDS)
def test_f1_is_symmetric_and_bounded(left, right):
    assert token_f1(left, right) == token_f1(right, left)
    assert 0 <= strict_f1(left, right) <= 1
    assert token_f1(left, left) == 1


def test_hotpotqa_release_and_official_differ_where_documented():
    assert hotpotqa_scores("yes it is", "yes") == {"em": 0, "f1": 0}
    assert hotpotqa_scores_as_released("yes it is", "yes") == {"em": 0, "f1": pytest.approx(0.5)}
    assert hotpotqa_scores("U.S.\nand more", "US")["em"] == 1
    assert hotpotqa_scores_as_released("U.S.", "US")["em"] == 0


@pytest.mark.parametrize(
    ("answer", "gold", "category", "score"),
    [
        # Stems: "walked" and "walking" are one; "and" and articles do not count.
        ("walking and dogs", "the dog walked", 4, 1.0),
        ("7 May 2023", "7 May, 2023", 2, 1.0),
        ("May 2023", "7 May 2023", 2, 0.8),
        # Only what stands before the semicolon counts.
        ("likely no", "Likely no; she wants to travel", 3, 1.0),
        # (best of "pottery" + best of "camping") / 2, where camping is not there.
        ("pottery, hiking", "pottery, camping", 1, 0.5),
        ("pottery", "pottery, pottery", 1, 1.0),
        ("It is not mentioned anywhere.", "", 5, 1.0),
        ("self-care", "", 5, 0.0),
        ("", "blue", 4, 0.0),
    ],
)
def test_locomo_by_hand(answer, gold, category, score):
    assert locomo_score(answer, gold, category) == pytest.approx(score)


def test_locomo_has_five_categories():
    with pytest.raises(ValueError, match="not 6"):
        locomo_score("a", "b", 6)


def test_locomo_answers_are_cut_as_documented():
    assert released_answer("\n Answer: (b) Lisbon\nbecause") == "lisbon"
    options = ("No information available", "a race")
    assert official_answer("(a)", options) == "No information available"
    assert official_answer("I think (b) a race", options) == "a race"
    assert official_answer("not sure", options) == "a race"
    assert official_answer("Answer: Lisbon\nno") == "lisbon"


def test_parsed_answer():
    assert parsed_answer("I say Answer: Paris\nmore") == "Paris"
    assert parsed_answer("Paris\nmore") == "Paris"
    assert parsed_answer("") == ""


@pytest.mark.parametrize(
    ("source", "output", "golds", "official", "released"),
    [
        ("icl_banking77_5900shot_balance", "28\n", ["28"], 1, 1),
        ("icl_banking77_5900shot_balance", "label: 28", ["28"], 0, 1),
        # The release accepts any label that contains the right one.
        ("icl_trec_fine_6400shot_balance", "128", ["28"], 0, 1),
        ("detective_qa", "C. The Brandt couple", ["C. The Brandt couple"], 1, 1),
        ("detective_qa", "It was C. The Brandt couple", ["C. The Brandt couple"], 0, 1),
        ("ruler_qa1_197K", "It lies in France.", ["Gallia", "France"], 1, 1),
        ("factconsolidation_mh_6k", "Belgian", ["Belgium"], 0, 0),
        ("eventqa_full", "Debbie waited.", ["debbie waited"], 1, 1),
        ("eventqa_full", "Debbie slept.", ["debbie waited"], 0, 0),
    ],
)
def test_memoryagentbench_by_source(source, output, golds, official, released):
    assert mab_scores(source, output, golds)["score"] == official
    assert mab_scores_as_released(source, output, golds)["score"] == released


def test_memoryagentbench_leaves_judged_sources_to_the_judge():
    scores = mab_scores("longmemeval_s*", "in Lisbon", ["Lisbon"])
    assert "score" not in scores
    assert scores["substring_match"] == 1


def test_summaries_are_scored_by_f1_in_the_release():
    scores = mab_scores_as_released("infbench_sum_eng_shots2", "red house", ["red house stands", "green"])
    assert scores["score"] == pytest.approx(0.8)


def test_recommendations():
    films = film_names({"<http://dbpedia.org/resource/The_Matrix_(1999_film)>": 1, "x/Up": 2, "x/Alien": 3})
    assert films == {1: "The Matrix", 2: "Up", 3: "Alien"}
    scores = recall_at("Here:\n1. The Matrx (1999)\n2. Up\n3. Alien", ["1", "3"], films)
    assert scores == {"score": 1.0, "recall@1": 0.5, "recall@5": 1.0, "recall@10": 1.0}
    assert mab_scores("recsys_redial_full", "Up, Alien", ["2"], films)["recall@1"] == 1
    with pytest.raises(ValueError, match=r"entity2id\.json"):
        recall_at("1. Up", ["2"], None)
    with pytest.raises(ValueError, match="9"):
        recall_at("1. Up", ["9"], films)


def test_the_nearest_title_is_the_first_of_equals():
    assert nearest_name("alen", ("Up", "Alien")) == "Alien"
    assert nearest_name("ALIENS", ("Alien 3", "aliens", "Aliens")) == "aliens"
    assert nearest_name("sitting", ("knitting", "kitten")) == "knitting"
    assert nearest_name("ab", ("abc", "abd", "a")) == "abc"


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ('```json\n{"answer": "C"}\n```', "C"),
        ('{"answer": "A"} no, {"answer": "B"}', "B"),
        (r"so \boxed{D}", "D"),
        ("The final answer is **b**.", "B"),
        # The release has a blind spot there.
        ("The final answer is (b).", None),
        ("Answer: a", "A"),
        ("B. because\nof that", "B"),
        ("Thinking...\nD", "D"),
        ("About something else", None),
        ("", None),
    ],
)
def test_chosen_letter(output, letter):
    assert chosen_letter(output) == letter


def test_judge_prompts_are_told_apart_by_type():
    prompts = {kind: judge_prompt(kind, "Q?", "gold", "said") for kind in QUESTION_TYPES}
    assert all("Q?" in text and "gold" in text and "said" in text for text in prompts.values())
    assert "off-by-one" in prompts["temporal-reasoning"]
    assert "off-by-one" not in prompts["multi-session"]
    assert "Rubric: gold" in prompts["single-session-preference"]
    assert "Explanation: gold" in judge_prompt("multi-session", "Q?", "gold", "said", abstention=True)
    with pytest.raises(ValueError, match="chat"):
        judge_prompt("chat", "Q?", "gold", "said")


def test_a_judge_without_a_key_says_which_variable(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ValueError, match="JUDGE_KEY"):
        Judge("any", "http://127.0.0.1:9/v1", "JUDGE_KEY").says_yes("?")

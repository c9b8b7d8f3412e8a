"""Groups of questions that are worded alike."""

from __future__ import annotations

from evaluation.question_forms import begins_with, first_of, frequent_beginnings, frequent_names, question_forms


def test_first_words_from_the_narrowest_to_the_widest():
    assert begins_with("What is the man doing?") == ["what is the ...", "what is ...", "what ..."]
    assert begins_with("In the image, why  is it so?") == ["why is it ...", "why is ...", "why ..."]
    assert begins_with("What's that?") == ["what's that ...", "what's ..."]
    assert begins_with("他在做什么运动呢？") == ["什么运动 ...", "什么运 ...", "什么 ..."]
    assert begins_with("是谁？") == ["谁 ..."]
    assert begins_with("请回答") == begins_with("?") == []


def test_groups_that_are_too_small_are_joined_in_wider_ones():
    candidates = [["a b", "a"]] * 5 + [["a c", "a"]] * 3 + [["a d", "a"]] * 2 + [["e f", "e"]] * 4 + [[]]
    kept = frequent_names(candidates, smallest=5)
    assert kept == {"a b", "a"}
    assert [first_of(names, kept) for names in (["a b", "a"], ["a c", "a"], ["e f", "e"], [])] == [
        "a b",
        "a",
        None,
        None,
    ]


def test_a_beginning_is_a_type_of_its_own_from_twenty_questions_and_two_percent_on():
    many = [f"Why is it {i}?" for i in range(20)] + [f"Who was {i}?" for i in range(19)]
    assert frequent_beginnings(many) == {"why is it ..."}
    assert frequent_beginnings(many + [f"{i} apart" for i in range(2000)]) == set()


def test_the_form_of_a_question_leaves_out_which_colour_shape_or_size_it_names():
    assert question_forms("Is there a red circle?") == [
        "is there a [color] [shape]",
        "is there a [color] ...",
        "is there a ...",
        "is there ...",
    ]
    assert question_forms("Is there a blue star?")[0] == question_forms("is there a red circle?")[0]
    assert (
        question_forms("图中有红色的圆形吗？")[0]
        == question_forms("图中有蓝色的五角星吗")[0]
        == "图中有[color]的[shape]吗"
    )

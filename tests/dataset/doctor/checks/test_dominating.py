"""One answer that is nearly always right."""

from __future__ import annotations

from dataset.doctor.checks.dominating import dominating_answer


def test_no_answer_dominates_fair_data(fair):
    assert dominating_answer(fair.examine()) is None


def test_an_answer_to_most_questions_of_all_types(fair):
    for i in range(100):
        fair.ask(f"{i % 24}.png", f"What is behind object {i}?", "a wall")
    finding = dominating_answer(fair.examine())
    assert 'all but yes/no: "wall" is right for' in "\n".join([finding.problem, *finding.examples])
    assert 'one answer dominates: other (en): "wall" is right for 100.0% of 100 questions' == finding.problem


def test_an_answer_to_nearly_all_questions_of_one_type(fair):
    for i in range(200):
        fair.ask(f"{i % 24}.png", f"Is there an object {i}?", "Yes." if i % 10 else "no")
    finding = dominating_answer(fair.examine())
    assert finding.problem.startswith('one answer dominates: yes/no (en): "yes" is right for 8')
    assert list(finding.examples) == []


def test_balanced_yes_no_questions_alone_are_no_fault(planted):
    for i in range(100):
        planted.ask(f"{i % 10}.png", f"Is there an object {i}?", ("yes", "no")[i % 2])
    assert dominating_answer(planted.examine()) is None

"""Outcomes of matching predicted with gold relations."""

import pytest

from embre.document import Concept, Relation
from embre.evaluation.matching import match_relations

BRAF, DRUG = Concept("Gene", "673"), Concept("Chemical", "C1")


def outcomes(predicted: list[Relation], gold: list[Relation]) -> list[str]:
    return [match.outcome for match in match_relations(predicted, gold)]


@pytest.mark.parametrize(
    ("predicted", "gold", "expected"),
    [
        ([(BRAF, DRUG, "Bind", True)], [(DRUG, BRAF, "Bind", True)], ["correct"]),
        ([(BRAF, DRUG, "Bind", True)], [(BRAF, DRUG, "Bind", False)], ["wrong novelty"]),
        ([(BRAF, DRUG, "Bind", None)], [(BRAF, DRUG, "Bind", False)], ["wrong novelty"]),
        ([(BRAF, DRUG, "Bind", True)], [(BRAF, DRUG, "Bind", None)], ["wrong novelty"]),
        ([(BRAF, DRUG, "Bind", None)], [(BRAF, DRUG, "Bind", None)], ["correct"]),
        ([(BRAF, DRUG, "Bind", True)], [(BRAF, DRUG, "Association", True)], ["wrong type"]),
        ([(BRAF, DRUG, "Bind", True)], [], ["spurious"]),
        ([], [(BRAF, DRUG, "Bind", True)], ["missed"]),
        ([(BRAF, DRUG, "Bind", True), (DRUG, BRAF, "Bind", True)], [], ["spurious"]),
        ([(BRAF, DRUG, "Bind", True)], [(DRUG, BRAF, "Bind", True)] * 2, ["correct"]),
    ],
)
def test_outcomes_of_matches(predicted, gold, expected):
    assert outcomes([Relation(*p) for p in predicted], [Relation(*g) for g in gold]) == expected


def test_a_wrong_novelty_does_not_use_up_the_right_answer_of_its_pair():
    gold = [Relation(BRAF, DRUG, "Bind", True)]
    predicted = [Relation(BRAF, DRUG, "Bind", None), Relation(BRAF, DRUG, "Bind", True)]
    assert outcomes(predicted, gold) == ["correct", "spurious"]


def test_a_wrong_type_does_not_use_up_the_right_answer_of_its_pair():
    gold = [Relation(BRAF, DRUG, "Bind", True)]
    predicted = [Relation(BRAF, DRUG, "Association", True), Relation(BRAF, DRUG, "Bind", True)]
    assert sorted(outcomes(predicted, gold)) == ["correct", "spurious"]

"""The table of clauses is complete and the document is what it says."""

import pytest

from tests.unit.vrrp import clauses


@pytest.mark.parametrize("clause", clauses.CLAUSES)
def test_every_clause_has_a_test(clause: str) -> None:
    assert clauses.coverage()[clause], f"nothing covers RFC {clause}: {clauses.CLAUSES[clause]}"


def test_the_document_is_up_to_date() -> None:
    assert clauses.DOCUMENT.read_text() == clauses.document(), (
        "run: python -m tests.unit.vrrp.clauses"
    )

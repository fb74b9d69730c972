"""Tests of the handler, without servers."""

from decimal import Decimal

import pytest
from workers.invoices import Invoice, Line, invoice

from filemill.handlers import PermanentError
from filemill.handlers.testing import run

LINES = [Line("Paper", 2, Decimal("4.50")), Line("Ink", 1, Decimal(20))]


def test_an_invoice_is_a_pdf_with_its_number_and_total() -> None:
    made = run(
        invoice, {"number": "2026-17", "customer": "Ada", "lines": [{"text": "Ink", "quantity": 3, "price": "7.00"}]}
    )
    assert made.body.startswith(b"%PDF-1.4")
    assert b"Invoice 2026-17" in made.body
    assert b"21.00" in made.body
    assert made.progress == [(1.0, "page 1 of 1")]


def test_the_same_request_gives_the_same_bytes() -> None:
    wanted = Invoice("2026-17", "Ada (and Co)", LINES)
    assert run(invoice, wanted).body == run(invoice, wanted).body


def test_an_invoice_without_lines_is_refused_for_good() -> None:
    with pytest.raises(PermanentError, match="2026-18 has no lines"):
        run(invoice, Invoice("2026-18", "Ada", []))

"""A handler that makes an invoice as a PDF."""

from collections.abc import Iterator
from decimal import Decimal

import msgspec

from filemill.handlers import Job, PermanentError, handler
from workers.pdf import text_pdf

LINES_PER_PAGE = 40


class Line(msgspec.Struct):
    """One position of an invoice; `price` in euros, in JSON a text as "4.50": a number might be rounded."""

    text: str
    quantity: int
    price: Decimal


class Invoice(msgspec.Struct):
    """The parameters. Their JSON Schema is the contract with whoever sends requests."""

    number: str
    customer: str
    lines: list[Line]


@handler(
    "invoice",
    content_type="application/pdf",
    extension="pdf",
    deterministic=True,
    timeout=30,
    memory="256 MiB",
    attempts=3,
)
def invoice(job: Job[Invoice]) -> bytes:
    """An invoice with all its lines and the total."""
    wanted = job.parameters
    if not wanted.lines:
        raise PermanentError(f"invoice {wanted.number} has no lines")
    job.log(f"invoice {wanted.number}: {len(wanted.lines)} lines")
    return text_pdf(list(_pages(job, wanted)))


def _pages(job: Job[Invoice], wanted: Invoice) -> Iterator[list[str]]:
    head = [f"Invoice {wanted.number}", f"{job.requested_at:%d %B %Y}", wanted.customer, ""]
    rows = [f"{line.quantity:>5} x {line.text:<40} {line.quantity * line.price:>12.2f}" for line in wanted.lines]
    total = sum((line.quantity * line.price for line in wanted.lines), Decimal())
    rows += ["", f"{'Total':<48} {total:>12.2f}"]
    count = -(-len(rows) // LINES_PER_PAGE)
    for page in range(count):
        job.progress((page + 1) / count, f"page {page + 1} of {count}")
        yield [*head, *rows[page * LINES_PER_PAGE : (page + 1) * LINES_PER_PAGE]]

"""Values of a CSV file that is opened in a spreadsheet."""

# Spreadsheets need it to read UTF-8.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A spreadsheet treats a cell that begins with one of these as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def cell(value: object) -> object:
    """A value for a cell: text that looks like a formula gets a leading quote (OWASP)."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value

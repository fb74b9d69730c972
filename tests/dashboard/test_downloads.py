"""A download's name is safe for any key that a foreign service may have chosen."""

import re
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from filemill_dashboard.state.downloads import attachment


def test_a_key_of_ours_is_the_name() -> None:
    assert attachment("file-12-1704369660000.txt") == 'attachment; filename="file-12-1704369660000.txt"'


def test_folders_are_left_out() -> None:
    assert attachment("../../etc/passwd") == 'attachment; filename="passwd"'


def test_another_script_has_its_exact_name_beside_a_plain_one() -> None:
    value = attachment("Łódź.txt")
    assert 'filename="__d_.txt"' in value
    assert unquote(value.partition("filename*=UTF-8''")[2]) == "Łódź.txt"


@given(st.text(max_size=1024))
def test_no_key_breaks_out_of_its_header(key: str) -> None:
    value = attachment(key)
    value.encode("latin-1")
    assert not re.search(r"[\x00-\x1f\x7f]", value)
    assert re.fullmatch(r"attachment; filename=\"[^\"\\]+\"(; filename\*=UTF-8''[A-Za-z0-9_.~%-]+)?", value)

"""The file name of a download is safe for any key that a foreign service may have chosen."""

import re
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from filemill_dashboard.state.downloads import attachment


def test_a_key_of_filemill_is_the_file_name() -> None:
    assert attachment("file-12-1704369660000.txt") == 'attachment; filename="file-12-1704369660000.txt"'


def test_folders_in_the_key_are_removed() -> None:
    assert attachment("../../etc/passwd") == 'attachment; filename="passwd"'


def test_a_non_ascii_name_is_sent_in_both_forms() -> None:
    value = attachment("Łódź.txt")
    assert 'filename="__d_.txt"' in value
    assert unquote(value.partition("filename*=UTF-8''")[2]) == "Łódź.txt"


@given(st.text(max_size=1024))
def test_no_key_can_inject_into_the_header(key: str) -> None:
    value = attachment(key)
    value.encode("latin-1")
    assert not re.search(r"[\x00-\x1f\x7f]", value)
    assert re.fullmatch(r"attachment; filename=\"[^\"\\]+\"(; filename\*=UTF-8''[A-Za-z0-9_.~%-]+)?", value)

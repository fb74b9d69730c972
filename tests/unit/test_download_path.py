from pathlib import Path

import pytest

from filemill.entrypoints.cli.files import _default_path


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("file-7-1767528000000.txt", "file-7-1767528000000.txt"),
        ("file-8-1767528000000.txt", "file-8-1767528000000.txt"),
        ("folder/report.pdf", "report.pdf"),
        (".bashrc", "file-7"),
        ("a/.ssh", "file-7"),
        ("-", "file-7"),
        ("--output", "file-7"),
        ("..", "file-7"),
        ("", "file-7"),
        ("red\x1b[31m.txt", "file-7"),
        ("a" * 300, "file-7"),
    ],
)
def test_a_download_has_a_plain_name(key: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _default_path(7, key) == Path(name)


def test_only_a_result_of_this_file_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("file-7-1767528000000.txt", "file-8-1767528000000.txt", "notes.txt"):
        Path(name).write_text("kept", encoding="utf-8")
    assert _default_path(7, "file-7-1767528000000.txt") == Path("file-7-1767528000000.txt")
    for key in ("file-8-1767528000000.txt", "notes.txt"):
        with pytest.raises(SystemExit):
            _default_path(7, key)
        assert f"{key} exists already: name the file to write to with --output" in capsys.readouterr().err

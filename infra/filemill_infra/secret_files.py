"""Files with secrets in the volumes of a composed stack, each readable by one user and at most one group."""

from pathlib import Path

from filemill.runtime.stack_state import replace_private_file


class SecretFiles:
    """The files below a root, one folder for each volume. Raises OSError."""

    def __init__(self, root: Path, *, mode: int | None = None) -> None:
        """`mode`, for a root that is itself private, replaces the files' modes and sets no group."""
        self.written: list[str] = []
        self._root = root
        self._mode = mode

    def read(self, name: str) -> bytes:
        """The content of a file; empty if there is none."""
        path = self._root / name
        return path.read_bytes() if path.is_file() else b""

    def put(self, name: str, content: bytes, group: int | None = None, *, public: bool = False) -> None:
        """Write a file unless it has this content, with mode 0400, or 0440 with a group, or 0444 if it is public."""
        path = self._root / name
        if self.read(name) == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        own = 0o444 if public else 0o400 if group is None else 0o440
        replace_private_file(path, content, self._mode or own, None if self._mode else group)
        self.written.append(name)

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""
        (self._root / name).unlink(missing_ok=True)

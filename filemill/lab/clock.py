"""A clock that jumps for single processes, by libfaketime; the clock of the machine is unchanged."""

from pathlib import Path

# The locations in the packages of Debian, Fedora and Homebrew.
LIBRARY_PATHS = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
)
REMEDY = "libfaketime is not installed: apt install libfaketime"


def libfaketime() -> Path | None:
    """The library, or None if it is not installed."""
    return next((Path(path) for path in LIBRARY_PATHS if Path(path).is_file()), None)


class FakeClock:
    """The clock of processes that are started with `environment()`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump(0)

    def environment(self) -> dict[str, str]:
        """Variables for the process; empty without libfaketime. The monotonic clock is unchanged."""
        library = libfaketime()
        if library is None:
            return {}
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, seconds: float) -> None:
        """Within a second, set the clock ahead of the true time by `seconds` (negative: behind)."""
        draft = self._file.with_name(self._file.name + ".new")
        draft.write_text(f"{seconds:+.0f}s\n")
        draft.replace(self._file)

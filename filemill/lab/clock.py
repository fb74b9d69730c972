"""A clock that jumps, for one process alone: libfaketime moves what it is told; the machine's clock is left alone."""

from pathlib import Path

# Where Debian's, Fedora's and Homebrew's packages put it.
PLACES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
)
REMEDY = "libfaketime is not installed: apt install libfaketime"


def libfaketime() -> Path | None:
    """The library, or None where it is not installed."""
    return next((Path(place) for place in PLACES if Path(place).is_file()), None)


class FakeClock:
    """The clock of the processes that are started with `environment()`: right until `jump` moves it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump(0)

    def environment(self) -> dict[str, str]:
        """Variables for the process; none where libfaketime is missing. The monotonic clock stays true."""
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
        """From within a second on, be this much ahead of the true time (negative: behind)."""
        draft = self._file.with_name(self._file.name + ".new")
        draft.write_text(f"{seconds:+.0f}s\n")
        draft.replace(self._file)

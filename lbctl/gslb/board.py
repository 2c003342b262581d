"""The board: which blobs are current, told through one shared page.

    directory/   names.N  networks.N  answers.N      blobs, never changed once written
                 board                               { names u64, networks u64, answers u64 }

The writer writes a blob under a new number, then puts the number on the board (an aligned
8-octet store, which readers see whole). Readers look at the board before each batch of
queries, map what is new and drop what is old: nobody waits, no query is lost. A change of
names or networks comes with new answers, put up together by a `turn` number that is odd
while the numbers change.
"""

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PARTS = ("names", "networks", "answers")
_TURN = 3  # u64 index of the turn number
SIZE = 32


class Numbers(NamedTuple):
    """The current blobs' numbers."""

    names: int
    networks: int
    answers: int


class Board:
    """Writer's side: one per directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)  # workers are another user, whatever our umask
        path = directory / "board"
        if not path.exists():
            path.write_bytes(bytes(SIZE))
        path.chmod(0o644)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SIZE)
        self._words = memoryview(self._map).cast("Q")
        self._words[_TURN] += self._words[_TURN] & 1  # a writer died between two stores

    @property
    def numbers(self) -> Numbers:
        return Numbers(*self._words[:_TURN])

    def put(self, blobs: Mapping[str, bytes]) -> None:
        """Make `blobs` (by part) current, all at once."""
        numbers = dict(zip(PARTS, self.numbers, strict=True))
        old = {part: numbers[part] for part in blobs}
        for part, data in blobs.items():
            numbers[part] += 1
            self._write(part, numbers[part], data)
        self._words[_TURN] += 1
        for index, part in enumerate(PARTS):
            self._words[index] = numbers[part]
        self._words[_TURN] += 1
        for part, number in old.items():
            # One generation is kept for a reader that is between the board and the file.
            (self.directory / f"{part}.{number - 1}").unlink(missing_ok=True)

    def _write(self, part: str, number: int, data: bytes) -> None:
        path = self.directory / f"{part}.{number}"
        with path.open("wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)

    def close(self) -> None:
        self._words.release()
        self._map.close()


class Reader:
    """Reader's side: knows what it has, and sees what is new."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.board = directory / "board"
        descriptor = os.open(self.board, os.O_RDONLY)
        self._map = mmap.mmap(descriptor, SIZE, prot=mmap.PROT_READ)
        os.close(descriptor)
        self._words = memoryview(self._map).cast("Q")
        self._seen = 0

    @property
    def changed(self) -> bool:
        """Whether there is something newer than what `fetch` gave last."""
        return self._words[_TURN] != self._seen

    @property
    def seen(self) -> int:
        """The turn number of what `fetch` gave last."""
        return self._seen

    def fetch(self) -> Numbers | None:
        """The current numbers; None while the writer is between two stores."""
        turn = self._words[_TURN]
        numbers = Numbers(*self._words[:_TURN])
        if turn & 1 or self._words[_TURN] != turn:
            return None
        self._seen = turn
        return numbers

    def path(self, part: str, number: int) -> Path:
        """Where a blob is."""
        return self.directory / f"{part}.{number}"

    def open(self, part: str, number: int) -> memoryview:
        """A blob, mapped. Raises FileNotFoundError where it has been replaced since."""
        with self.path(part, number).open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))

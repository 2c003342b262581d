"""An author and a replica with a line between them that a test cuts, shuffles and spoils."""

from collections import deque

from lbctl.ha.author import Author
from lbctl.ha.replica import Replica
from lbctl.ha.words import VERSION, Ack, Again, Batch, Begin, Unframer, frame


class Line:
    """now: seconds; the two sides have no clock of their own."""

    def __init__(self, epoch: int = 1) -> None:
        self.author = Author(epoch)
        self.replica = Replica()
        self.there: deque[Begin | Batch] = deque()
        self.back: deque[Ack | Again] = deque()
        self.now = 0.0
        self.connect()

    def change(self, puts: dict[bytes, bytes], *gone: bytes) -> None:
        self.author.change(puts, gone, self.now)

    def connect(self) -> None:
        self.author.start(self.replica.hello(VERSION, "gw2"), self.now)

    def cut(self) -> None:
        """What is on the way is lost, in both directions."""
        self.there.clear()
        self.back.clear()
        self.replica.cut()
        self.connect()

    def send(self, most: int = 1000) -> None:
        """The author sends what the replica has room for."""
        while most and (word := self.author.take()) is not None:
            (copy,) = Unframer().feed(frame(word))
            assert copy == word
            self.there.append(word)
            most -= 1

    def deliver(self, most: int = 1000) -> None:
        while self.there and most:
            word = self.there.popleft()
            if isinstance(word, Begin):
                self.replica.begin(word)
            elif (answer := self.replica.take(word)) is not None:
                self.back.append(answer)
            most -= 1

    def answer(self, most: int = 1000) -> None:
        while self.back and most:
            word = self.back.popleft()
            if isinstance(word, Ack):
                self.author.acknowledged(word)
            else:
                self.author.copy(self.now)
                self.there.clear()
            most -= 1

    def corrupt(self) -> None:
        """A value of the next batch becomes another one."""
        for at, word in enumerate(self.there):
            if isinstance(word, Batch) and word.puts:
                (key, value), *rest = word.puts
                self.there[at] = replace_puts(word, ((key, value + b"!"), *rest))
                return

    def replay(self) -> None:
        if self.there:
            self.there.append(self.there[0])

    def lose(self) -> None:
        if self.there:
            self.there.popleft()

    def quiet(self) -> None:
        """Until nobody has anything to say."""
        while True:
            self.send()
            if not self.there and not self.back:
                return
            self.deliver()
            self.answer()


def replace_puts(batch: Batch, puts: tuple[tuple[bytes, bytes], ...]) -> Batch:
    return Batch(batch.epoch, batch.seq, puts, batch.gone, batch.digest, batch.whole)

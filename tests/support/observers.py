"""An observer of runs for tests."""

from collections.abc import Callable

from batchednodes.simulation.engine import Observer, Progress


class Watching(Observer):
    """Calls a function at each mark, which says whether to go on; never pauses a window."""

    def __init__(self, observe: Callable[[Progress], bool]) -> None:
        self.seen = observe

    def pause(self) -> bool:
        return False

    def advance(self, progress: Progress) -> bool:
        return True

    def observe(self, progress: Progress) -> bool:
        return self.seen(progress)

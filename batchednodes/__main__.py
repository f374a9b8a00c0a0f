"""The command: `batchednodes`, or `python -m batchednodes`."""

import signal
import sys
from typing import TYPE_CHECKING

from batchednodes.cli.interruption import Halt
from batchednodes.numerics import ranks, start
from batchednodes.numerics.lazy import deferred

if TYPE_CHECKING:
    from batchednodes.cli import app
else:
    app = deferred("batchednodes.cli.app")  # a second's work, in which a Ctrl-C may come


def main() -> None:
    """Runs the command line; a Ctrl-C, or memory that ends, ends it in one line, whatever it is at."""
    start.open_streams()
    halt = Halt()
    start.rest_collector()
    try:
        start.check_light()
        app.main()
    except KeyboardInterrupt:
        halt.asked = True
    except SystemExit:
        if not halt.asked:
            raise
    except (ImportError, MemoryError, OSError, RuntimeError, SystemError) as error:
        message = start.ended(error)
        if message is None:
            raise
        start.say(message)
        sys.exit(2)
    finally:
        halt.close()
        start.leave_collector()
    if halt.asked:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    start.end_at_once(main) if ranks.several() else main()

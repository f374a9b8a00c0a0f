r"""Tables: text files of numbers, which say when nodes are on, or how long messages take.

Notation: r rows, c columns.
"""

import csv
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from batchednodes.data.paths import FILE, found
from batchednodes.numerics.values import shown

Form = tuple[str, ...]
"""Names of the columns of a table."""


def table(path: str, key: str, forms: Sequence[Form], most: int) -> tuple[Form, Float64[np.ndarray, "r c"]]:
    """Returns which of some forms a text file has, and its numbers, with columns in the order of the form.

    Numbers are separated by commas or spaces; '#' begins a comment. A first line of names says which form it is, and
    the order of the columns; without it, it is the first form.

    Example:
        >>> import numpy as np
        >>> from batchednodes.events.links.trace_files import table
        >>> np.savetxt("trace.txt", [(3.0, 1.0), (5.0, 0.0)], header="time,on", comments="")
        >>> form, rows = table("trace.txt", "network.availability.path", [("on", "time")], 100)
        >>> form, rows.tolist()
        (('on', 'time'), [[1.0, 3.0], [0.0, 5.0]])

    Raises:
        ValueError: the file cannot be read, is too long, or a line is not of finite numbers, one for each column.
    """
    form, order, rows = forms[0], list(range(len(forms[0]))), []
    try:
        if found(path) != FILE:
            raise OSError(2, "it is not a file")
        with open(path, encoding="utf-8", newline="") as file:
            first = True
            for line, words in enumerate(csv.reader(file), 1):
                text = " ".join(words).partition("#")[0].split()
                if not text:
                    continue
                named = next((one for one in forms if first and sorted(one) == sorted(text)), None)
                first = False
                if named is not None:
                    form, order = named, [text.index(name) for name in named]
                    continue
                row = _numbers(text)
                if len(row) != len(form) or len(rows) == most:
                    rule = f"one of at most {most:,}" if len(rows) == most else _rule(form, forms)
                    raise ValueError(
                        f"{key}: line {line} of {shown(path)} must be {rule}, got {shown(' '.join(words))}"
                    )
                rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ValueError(f"{key} must be a readable text file, got {shown(path)}: {reason}") from None
    return form, np.array(rows).reshape(-1, len(form))[:, order]


def _numbers(words: Sequence[str]) -> list[float]:
    """Returns finite numbers; none of them if one word is none."""
    try:
        row = [float(word) for word in words]
    except ValueError:
        return []
    return row if all(map(math.isfinite, row)) else []


def _rule(form: Form, forms: Sequence[Form]) -> str:
    """Returns what a line must be."""
    count = "1 finite number" if len(form) == 1 else f"{len(form)} finite numbers"
    named = [",".join(one) for one in forms if len(one) > 1]
    return f"{count} ({','.join(form)})" + (f", or a first line that names {' or '.join(named)}" if named else "")

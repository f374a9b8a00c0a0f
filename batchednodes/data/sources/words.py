r"""Texts of words in LEAF's files: tweets of Sent140, comments of Reddit, as the numbers of their words.

Notation: m samples of one user, l words of a sample, v words that have numbers.

Reference:
    S. Caldas et al., "LEAF: a benchmark for federated settings", arXiv 1812.01097, 2018, and its code.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64

from batchednodes.data.paths import check_file
from batchednodes.numerics.values import shown

PAD, UNKNOWN = "<PAD>", "<UNK>"
"""What fills a text up, and what stands for words that have no number."""

COMMON = 10_000
"""Numbers of words that LEAF's code for Reddit gives."""

_WORDS = re.compile(r"[\w']+|[.,!?;]")
"""What LEAF takes for a word of a tweet."""

_TWEET, _FIELDS, _LENGTH = 4, 6, 25
"""Place of the text among the fields of a tweet, how many these are, and the words of a text, as LEAF has them."""

Samples = Mapping[str, Sequence[Any]]
"""x and y of one user, as JSON has them."""


@dataclass(eq=False)
class Words:
    """Words by the order in which they are first seen, which are numbered once all are known."""

    places: dict[str, int] = field(default_factory=dict)
    """Place of each word in that order."""
    users: int = 0
    """How many users' samples have been such texts."""

    def read(self, samples: Samples) -> dict[str, np.ndarray] | None:
        """Returns x [m, l] and y [m] or [m, l] of a user whose samples are texts of words, by places of words.

        A tweet is [id, date, query, user, text, part]. A comment is a list of sequences of as many words, its y a
        mapping, whose `target_tokens` are the next words of each; each sequence is a sample.

        Returns:
            Places; None: the samples are others.

        Raises:
            ValueError: sequences have several lengths, or are no words.
        """
        x, y = samples["x"], samples["y"]
        if _are_tweets(x):
            self.users += 1
            texts = [_WORDS.findall(one[_TWEET])[:_LENGTH] for one in x]
            return {"x": self._places([text + [PAD] * (_LENGTH - len(text)) for text in texts]), "y": np.array(y)}
        if not (isinstance(y, list) and y and all(isinstance(one, dict) and "target_tokens" in one for one in y)):
            return None
        if len(x) != len(y):
            raise ValueError(f"{len(x)} comments in x and {len(y)} in y")
        self.users += 1
        following = [one["target_tokens"] for one in y]
        found = {
            "x": self._places([some for comment in x for some in comment]),
            "y": self._places([some for comment in following for some in comment]),
        }
        if found["x"].shape != found["y"].shape:
            raise ValueError(f"words of shape {found['x'].shape} in x and {found['y'].shape} in target_tokens")
        return found

    def _places(self, sequences: Iterable[Sequence[str]]) -> Int64[np.ndarray, "m l"]:
        rows = list(sequences)
        if len({len(row) for row in rows}) != 1 or not all(isinstance(word, str) for row in rows for word in row):
            raise ValueError("sequences that are not of as many words each")
        places = self.places
        return np.array([[places.setdefault(word, len(places)) for word in row] for row in rows], np.int64)


def _are_tweets(x: Sequence[Any]) -> bool:
    return (
        isinstance(x, list)
        and bool(x)
        and all(
            isinstance(one, list) and len(one) == _FIELDS and all(isinstance(part, str) for part in one) for one in x
        )
    )


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Which number each word has."""

    number: Int64[np.ndarray, " words"]
    """Of the words, by their places."""
    size: int
    """Numbers there are: all are below it."""

    @staticmethod
    def of(words: Words, texts: Iterable[np.ndarray], path: str | None, most: int) -> "Vocabulary":
        """Returns the numbers of words: those of a file, or of the most common words.

        Args:
            words: all of them.
            texts: the training samples of all users, by places, in which words are counted.
            path: of a JSON file with a list `vocab`, whose words have their places in it as numbers; padding and all
                others have the next one, as LEAF's code for Sent140 does. None: there is none.
            most: numbers at most, where there is no file. 0 is padding, 1 other words, and those from 2 on are the
                most common ones, equally common ones in the order of Unicode, as LEAF's code for Reddit has them.

        Raises:
            ValueError: the file is no such file.
        """
        if path is not None:
            listed = {word: k for k, word in enumerate(_listed(path))}
            number = [listed.get(word, len(listed)) for word in words.places]
            return Vocabulary(np.array(number, np.int64), len(listed) + 1)
        none = np.zeros(len(words.places), np.int64)
        counts = sum((np.bincount(one.ravel(), minlength=none.size) for one in texts), none)
        common = sorted(zip(words.places, counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
        kept = [word for word, count in common[: most - 2] if count and word not in (PAD, UNKNOWN)]
        chosen = {PAD: 0} | {word: k for k, word in enumerate(kept, 2)}
        return Vocabulary(np.array([chosen.get(word, 1) for word in words.places], np.int64), 2 + len(kept))


def _listed(path: str) -> list[str]:
    """Returns the words that a file lists."""
    check_file(path, "JSON", "vocabulary", 'write {"vocab": ["word", ...]}, as LEAF\'s embs.json has it')
    try:
        with open(path, encoding="utf-8") as text:
            found = json.load(text)["vocab"]
        if not (isinstance(found, list) and found and all(isinstance(word, str) for word in found)):
            raise ValueError("vocab must be a list of words")
        twice = [word for word, count in Counter(found).items() if count > 1]
        if twice:
            raise ValueError(f"the word {twice[0]!r} stands twice")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise ValueError(f'vocabulary must be a JSON file {{"vocab": [...]}}, got {shown(path)}: {reason}') from None
    return found

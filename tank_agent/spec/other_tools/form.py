"""The form in which words of other tools are compared, and of the tables that they are looked up in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple


class Vocabulary(NamedTuple):
    """What is known of words that are no keys of a file.

    ours: a word → those of our keys that it may mean. reasons: a word, alone or after its table and a dot →
    why there is no such key, or what instead. top: where keys without a table stand. manual: the page of all.
    """

    ours: Mapping[str, tuple[str, ...]]
    reasons: Mapping[str, str]
    top: str
    manual: str


def folded(word: str) -> str:
    """Return a word as it is looked up: "dnsSearch", "dns-search" and "DNS_SEARCH" are one."""
    return word.lower().replace("_", "").replace("-", "")


def by_ours(words: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Turn keys of ours with others' words for them into words, in their folded form, with our keys."""
    found = defaultdict(list)
    for ours, others in words.items():
        for word in others.split():
            found[folded(word)].append(ours)
    return {word: tuple(keys) for word, keys in found.items()}


def by_word(reasons: Mapping[str, str]) -> dict[str, str]:
    """Turn sentences with their words into words, in their folded form, with their sentence."""
    return {folded(word): reason for reason, words in reasons.items() for word in words.split()}

"""Answers to words of the command line that are none of ours: what is meant, in one sentence.

Words of other tools are in `spec.other_tools.verbs`; others are compared with ours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from tank_agent.spec.findings import closest
from tank_agent.spec.other_tools.verbs import KINDS, OPTIONS, PREFIXES, TOO_MANY, VERBS


def for_verb(words: Sequence[str], verbs: Collection[str]) -> str:
    """Return what is to be typed in place of `tank WORDS`, the first of which is no verb."""
    pair = " ".join(words[:2])
    if pair in VERBS:
        return f'there is no "{pair}": {_sentence(VERBS[pair], words[2:])}'
    said, meant = f'there is no "{words[0]}"', list(words)
    while len(meant) > 1 and meant[0] in PREFIXES and not meant[1].startswith("-"):
        meant = meant[1:]
    if meant[0] == "get" and len(meant) > 1 and meant[1] in KINDS:
        return f"{said}: {VERBS['pods']}"
    if meant[0] in verbs:
        return f"{said}: `tank {' '.join(meant)}`"
    if meant[0] in VERBS:
        return f"{said}: {_sentence(VERBS[meant[0]], meant[1:])}"
    guess = closest(meant[0], verbs)
    if guess is not None:
        return f"{said}; did you mean `tank {' '.join([guess, *meant[1:]])}`?"
    guess = closest(meant[0], VERBS)
    return f"{said}: {_sentence(VERBS[guess], meant[1:]) if guess else '`tank help` lists what there is'}"


def for_sub_verb(verb: str, word: str, rest: Sequence[str], names: Collection[str]) -> str:
    """Return what is to be typed in place of `tank VERB WORD`, where the verb has only those of `names`."""
    said = f'there is no "{verb} {word}"'
    if f"{verb} {word}" in VERBS:
        return f"{said}: {_sentence(VERBS[f'{verb} {word}'], rest)}"
    if word == "help":
        return f"{said}: `tank help {verb}`"
    guess = closest(word, names)
    if guess is not None:
        return f"{said}; did you mean `{' '.join(['tank', verb, guess, *rest])}`?"
    return f"{said}; write {enumeration(names)}"


def for_rest(verb: str, rest: Sequence[str], options: Collection[str]) -> tuple[str, bool]:
    """Return what to say of words that a verb does not take, and whether that says all."""
    for word in rest:
        flag, _, _ = word.partition("=")
        known = OPTIONS.get(verb, {}).get(flag) or OPTIONS[""].get(flag)
        if known is not None:
            return f"there is no {flag}: {known}", True
        if word.startswith("-") and word != "-":
            guess = closest(flag, options)
            text = f"there is no option {flag}"
            return (f"{text}; did you mean {guess}?" if guess else text), False
    if verb in TOO_MANY:
        return f'"{rest[0]}" is too much: {TOO_MANY[verb]}', False
    return f"unrecognized arguments: {' '.join(rest)}", False


def enumeration(names: Iterable[str]) -> str:
    """Return names as a sentence has them: "ls, pull or rm"."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _sentence(text: str, typed: Sequence[str]) -> str:
    """Put the name that was typed into a sentence, where it stands for a pod, an image or a file."""
    names = [word for word in typed if not word.startswith("-")]
    if len(names) != 1:
        return text
    for word in ("FILE",) if names[0].endswith((".toml", ".yaml", ".yml")) else ("NAME", "IMAGE"):
        text = text.replace(f" {word}`", f" {names[0]}`").replace(f" {word} ", f" {names[0]} ")
    return text

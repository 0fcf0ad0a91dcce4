"""The parser: examples that can be typed, and answers to what is none of our words."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator

import pytest

from tank_agent.cli.main import parsed
from tank_agent.cli.parser import build, module_of, verbs
from tank_agent.spec.other_tools.verbs import OPTIONS, TOO_MANY, VERBS

COLUMNS = 80


def examples() -> Iterator[tuple[str, str]]:
    for verb in verbs():
        for command, _ in getattr(module_of(verb), "EXAMPLES", ()):
            yield verb, command


def ours(command: str) -> Iterator[list[str]]:
    """Yield the words of each `tank` in a pipe, without redirections."""
    words: list[str] = []
    split = shlex.shlex(command, posix=True, punctuation_chars=True)
    split.wordchars += ":"
    for word in [*split, "|"]:
        if word == "|":
            if words[0] == "tank":
                yield words[1 : next((at for at, each in enumerate(words) if each[0] in "<>"), None)]
            words = []
        else:
            words.append(word)


def sub_verbs(verb: str) -> list[str]:
    parser = build([verb])
    with pytest.raises(SystemExit):
        parser.parse_args([verb, "--help"])
    found = parser._subparsers._group_actions[0].choices[verb]._subparsers  # type: ignore[union-attr, index]
    return [] if found is None else list(found._group_actions[0].choices)  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_has_examples_and_so_has_each_of_its_own(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([verb], *([verb, each] for each in sub_verbs(verb))):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            build(words).parse_args([*words, "--help"])
        assert end.value.code == 0
        text, _, shown = capsys.readouterr().out.partition("\nexamples:\n")
        assert text.startswith("usage: tank")
        lines = shown.splitlines()
        assert 1 <= len(lines) <= 6, words
        assert all(len(line) < COLUMNS and f"tank {' '.join(words)}" in line for line in lines), lines


@pytest.mark.parametrize(("verb", "command"), list(examples()))
def test_an_example_can_be_typed(verb: str, command: str) -> None:
    for words in ours(command):
        arguments = parsed(words)
        assert hasattr(arguments, "run")
    assert f"tank {verb}" in command


def said(*words: str) -> tuple[int, str]:
    """Return how `tank WORDS` ends, and what it says in place of a usage."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told), pytest.raises(SystemExit) as end:
        parsed([*words])
    return int(end.value.code or 0), told.getvalue()


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        # Verbs of others, each with what was typed behind it.
        ("ps -a", 'tank: there is no "ps": `tank status` shows the pods'),
        ("--debug ps", 'tank: there is no "ps": `tank status` shows the pods'),
        ("--socket /x ps", 'tank: there is no "ps": `tank status` shows the pods'),
        ("docker ps", 'tank: there is no "docker": `tank status` shows the pods'),
        ("container ls", 'tank: there is no "container": `tank status` shows the pods'),
        ("kubectl get pods", 'tank: there is no "kubectl": `tank status` shows the pods'),
        ("kubectl logs web -f", 'tank: there is no "kubectl": `tank logs web -f`'),
        ("pull nginx:1.27", 'tank: there is no "pull": `tank image pull nginx:1.27` fetches an image'),
        ("rollout undo web", 'tank: there is no "rollout undo": '
         "`tank rollback web` gives a pod its last good spec"),
        ("log web", 'tank: there is no "log": `tank logs web` shows what a pod printed, and -f goes on'),
        ("image list", 'tank image: there is no "image list": `tank image ls` shows the images'),
        ("volumes", 'tank: there is no "volumes": `tank volume ls` shows the volumes'),
        # Slips of the pen.
        ("stauts web", 'tank: there is no "stauts"; did you mean `tank status web`?'),
        ("--debug stauts", 'tank: there is no "stauts"; did you mean `tank status`?'),
        ("lsit", 'tank: there is no "lsit"; did you mean `tank list`?'),
        ("inspet web", 'tank: there is no "inspet": `tank status web` shows all that is known of a pod, '
         "and `tank get web` its spec; both take -o json"),
        ("image pul x", 'tank image: there is no "image pul"; did you mean `tank image pull x`?'),
        ("git x", 'tank git: there is no "git x"; write init or status'),
        ("image help", 'tank image: there is no "image help": `tank help image`'),
        ("dance", 'tank: there is no "dance": `tank help` lists what there is'),
        # Options of others.
        ("logs -p web", "tank logs: there is no -p: "
         "`tank logs` shows all runs of a container, the former ones as well"),
        ("delete -f web", "tank delete: there is no -f: pods are removed by name: `tank delete NAME`"),
        ("run -it --rm alpine sh", "tank run: there is no -it: `tank run NAME` runs a job now; "
         "a container is started from a pod file, by `tank apply FILE`"),
        ("exec -u root web id", "tank exec: there is no -u: a command runs as the container's user; "
         "`su` in the container, where it has that, makes it another"),
        ("status -A", "tank status: there is no -A: "
         "there are no namespaces: all pods of this machine are shown"),
        ("help ps", 'tank: there is no "ps": `tank status` shows the pods'),
    ],
)  # fmt: skip
def test_a_word_that_is_none_of_ours_is_answered(line: str, answer: str) -> None:
    words = line.split()
    if words[0] == "help":
        words = [*words[1:], "--help"]
    assert said(*words) == (2, f"{answer}\n")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("logs web --folow", "tank logs: there is no option --folow; did you mean --follow?"),
        ("image pull x --outptu json", "tank image: there is no option --outptu; did you mean --output?"),
        ("--sock x list", "tank: there is no option --sock; did you mean --socket?"),
        ("list web", 'tank list: "web" is too much: it takes no names; `tank status NAME` shows a pod'),
        ("image", "tank image: say what to do: ls, pull, update, rm, prune or busybox"),
    ],
)
def test_a_slip_in_an_option_is_told_below_the_usage(line: str, answer: str) -> None:
    code, told = said(*line.split())
    assert (code, told.splitlines()[-1]) == (2, answer)
    assert told.startswith("usage: tank")


def test_the_words_of_plan_end_with_its_own_code() -> None:
    assert said("plan", "--dry-rnu")[0] == said("plan", "--namespace", "x")[0] == 1


def test_the_answers_name_verbs_that_there_are() -> None:
    texts = [
        *VERBS.values(),
        *TOO_MANY.values(),
        *(text for each in OPTIONS.values() for text in each.values()),
    ]
    named = {found for text in texts for found in re.findall(r"`tank ([a-z]+ ?[a-z]*)", text)}
    known = {*verbs(), *(f"{verb} {each}" for verb in verbs() for each in sub_verbs(verb))}
    groups = {verb for verb in verbs() if sub_verbs(verb)}
    for name in named:
        verb = name.split()[0]
        assert verb in known and (verb not in groups or name in known), name
    assert not {key for key in VERBS if key in verbs()}
    assert OPTIONS.keys() - verbs() == {""}
    assert TOO_MANY.keys() <= {*verbs()}


def test_no_verb_is_answered_that_is_ours() -> None:
    for verb, flags in OPTIONS.items():
        ours = build([verb] if verb else [])
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
            ours.parse_args([verb, "--help"] if verb else ["--help"])
        parsers = ours._subparsers._group_actions[0].choices  # type: ignore[union-attr]
        known = parsers[verb]._option_string_actions if verb else ours._option_string_actions  # type: ignore[index, call-overload]
        assert not flags.keys() & known.keys(), verb

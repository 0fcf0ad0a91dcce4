"""The shells' completions at a terminal: what a line that is typed becomes, and all that it could."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pexpect

from tests.support.terminal import close

SHELLS = ("bash", "zsh", "fish")
_TIMEOUT = 20
# Ctrl-T takes all that a line could become, and Ctrl-X shows the line and empties it.
_ALL, _SHOW = "\x14", "\x18"
_BASH = """
PS1= PS2=
bind 'set bell-style none' 'set enable-bracketed-paste off'
bind '"\\C-t": insert-completions' '"\\C-x": ""'
show() {{ printf '<%s>\\n' "$READLINE_LINE"; READLINE_LINE=; }}
bind -x '"\\C-x": show'
. {directory}/tank
"""
_ZSH = """
PS1= PS2=
unset zle_bracketed_paste
unsetopt beep prompt_sp
fpath=({directory} $fpath)
autoload -Uz compinit
compinit -u -D
zle -C all-matches complete-word _generic
zstyle ':completion:all-matches:*' completer _all_matches _complete
zstyle ':completion:all-matches:*' insert true
bindkey '^T' all-matches
show() {{ zle -I; print -r -- "<$BUFFER>"; BUFFER= }}
zle -N show
bindkey '^X' show
"""


def completed(
    shell: str, generated: Path, lines: Sequence[str], env: Mapping[str, str], *, every: bool = False
) -> list[str]:
    """Return what each line becomes at Tab; with `every`, with all that its last word could be, in order.

    `generated` has the completions; `env` is all of the environment, with PATH.
    """
    if shell == "fish":
        return _by_fish(generated, lines, env, every=every)
    with tempfile.TemporaryDirectory() as place:
        setup = Path(place) / "setup"
        setup.write_text((_BASH if shell == "bash" else _ZSH).format(directory=generated))
        flags = ["--norc", "--noprofile"] if shell == "bash" else ["-f"]
        env = {"TERM": "dumb" if shell == "bash" else "vt100", "LC_ALL": "C.UTF-8", **env}
        child = pexpect.spawn(
            shell, [*flags, "-i"], env=env, timeout=_TIMEOUT, encoding="utf-8", dimensions=(200, 4000)
        )
        child.delaybeforesend = None
        try:
            child.send(f". {setup}; echo rea''dy\r")
            child.expect_exact("ready\r\n")
            return [_typed(child, line, _ALL if every else "\t") for line in lines]
        finally:
            close(child)


def _typed(child: pexpect.spawn[str], line: str, key: str) -> str:
    child.send(f"{line}{key}{_SHOW}")
    child.expect(r"<([^<>\r\n]*)>")
    return str(child.match[1])  # type: ignore[union-attr, index]


def _by_fish(generated: Path, lines: Sequence[str], env: Mapping[str, str], *, every: bool) -> list[str]:
    script = f"source {generated / 'tank.fish'}; for line in $argv; complete -C $line; echo =; end"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script, *lines],
        capture_output=True,
        text=True,
        check=True,
        timeout=_TIMEOUT + len(lines),
        env={"HOME": os.devnull, **env},
    )
    assert done.stderr == ""
    found = []
    for line, answer in zip(lines, done.stdout.split("=\n")[:-1], strict=True):
        words = [one.partition("\t")[0] for one in answer.splitlines()]
        begin = line.rpartition(" ")[0]
        whole = [line] if len(words) != 1 and not every else [" ".join((begin, *words))]
        found += [f"{one} " if len(words) == 1 and not one.endswith(("/", ":")) else one for one in whole]
    return found

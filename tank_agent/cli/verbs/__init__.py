"""One module a verb, named like it: `HELP`, `EXAMPLES`, `add_arguments` and `run`; its file makes it a verb.

`EXAMPLES` are pairs of a command and what it does; those of a verb of a verb begin with its name. A verb with
verbs of its own sets `run` on their parsers. `USAGE_CODE` is the exit code for wrong arguments (default 2).
With `TAKES_COMMAND`, a command follows the first argument. What is slow to import and only needed by `run` is
imported there, so that `-h` is fast.
"""

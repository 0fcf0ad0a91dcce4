"""One module a verb, named like it: `HELP`, `add_arguments` and `run`; the parser finds it by its file.

A verb with verbs of its own sets `run` on their parsers. `USAGE_CODE` is the exit code for wrong arguments
(default 2). With `TAKES_COMMAND`, a command follows `--`. What is slow to import and
only needed by `run` is imported there, so that `-h` is fast.
"""

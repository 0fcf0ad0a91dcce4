"""One module a verb, named like it: `HELP`, `add_arguments` and `run`; the parser finds it by its file.

`USAGE_CODE` is the exit code for wrong arguments (default 2). With `TAKES_COMMAND`, a command follows `--`.
"""

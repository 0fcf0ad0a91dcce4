"""The command line: `main` finds the verb, and each verb is a module of its own, imported when it is used.

A verb's module has `add_arguments(parser)` and `run(arguments) -> int`. `arguments` and `output` are shared.
"""

"""The process `tank agent`.

`assembly` makes all parts, `lifecycle` runs, reloads and stops them, and `logging` is the agent's own log.
"""

"""The process `tank agent`.

`assembly` makes all parts and joins them, `lifecycle` runs, reloads and stops them, `logging` is its own
log.
"""

"""What a user may write, what it means, and everything that can be wrong with it. Pure: no I/O.

Read in this order: `file` (the keys of a pod file), `model` (the normalised pod), `parse` (from one to the
other), `checks` (what values may say), `structure` and `lines` (the slow path that finds every problem).
"""

"""The pod file: its keys, the normalised pod, and messages for all that can be wrong. Pure: no I/O.

Read in this order: `keys` and `file` (the declaration of each key), `model` (the normalised pod), `parse`
(from one to the other), `checks` and `values`, `structure` and `lines` (which find every problem).
`beside`: how a source gives the parser the files that a pod file names; `schedule`: when a job runs.
"""

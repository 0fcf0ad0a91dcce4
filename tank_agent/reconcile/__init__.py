"""The loop: observe → plan → act one step → record, until a pod is as its file says.

`core` decides and is pure; `queue` and `reconciler` hold the threads; `steps` acts, with `networks` and
`pulls`; `troubles` holds back steps that failed.
"""

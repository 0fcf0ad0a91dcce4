"""The loop: observe → plan → act one step → record, until a pod is as its file says.

`plan`, `restart`, `phase`, `simulate` are pure; `reconciler` holds the threads; `steps` is the only part that
acts.
"""

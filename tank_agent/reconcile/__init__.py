"""The loop: observe → plan → act one step → record, until a pod is as its file says.

`plan`, `restart`, `phase`, `simulate` are pure; `reconciler` holds the threads; `steps` acts; `troubles` says
when a step that failed is tried again.
"""

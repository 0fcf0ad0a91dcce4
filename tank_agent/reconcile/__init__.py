"""The loop: observe → plan → act one step → record, until a pod is as its file declares it.

`observer` looks; `core` decides and is pure; `queue` and `reconciler` have the threads; `steps` acts, with
`networks` and `pulls`; `jobs` records the runs of jobs, `contents` gives files and secrets to containers;
`troubles` delays steps that failed.
"""

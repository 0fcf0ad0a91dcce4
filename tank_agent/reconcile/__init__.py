"""The loop: observe → plan → act one step → record, until a pod is as its file says.

`plan` and `restart` are pure; `queue` and `poller` are the threads' tools; `worker` is the only room that acts.
"""

"""Fills the journal from the sources.

`intake` starts what follows them and takes what they publish; `events` records what concerns no single pod.
"""

"""The way from the sources into the journal.

`intake` starts what follows them and takes what they publish; `events` records what concerns no single pod.
"""

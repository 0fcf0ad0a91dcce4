"""Sources of pods. Each source makes snapshots; a file that can't be read never counts as removed.

snapshot.py    all that a source declares at one moment
follower.py    a kind of source as a record, and the thread that follows and publishes
kinds.py       the register of kinds: a new kind is added here
files.py       pod files: read safely, and again only where they changed
directory.py   pods.d, a live mirror
seed.py        pods that are written once, if absent
git/           a branch, a tag or a commit of a repository
watch.py       wakes followers when files change
"""

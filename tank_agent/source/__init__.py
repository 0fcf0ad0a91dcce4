"""Where pods come from. Each source makes a Snapshot of what it reads; "unreadable" is never "gone".

snapshot.py    what a source declares, at one moment
files.py       pod files: read safely, and again only where they changed
directory.py   pods.d, a live mirror
seed.py        pods that are written once, if absent
git/           a branch, a tag or a commit of a repository
watch.py       wakes whoever reads when files change
"""

"""Where pods come from. Each source makes a Snapshot of what it reads; "unreadable" is never "gone".

snapshot.py    what a source says, at one moment
identity.py    which directory this is, over unmounts and restarts
file.py        one file: its bytes, or why they can't be had now
podfiles.py    the pod files of one directory, read again only where they changed
directory.py   pods.d, a live mirror
seed.py        pods that are written once, if absent
watch.py       wakes the agent when the directory changes
places.py      the directories that a path depends on, through every link on the way
observer.py    inotify watches, made once the kernel allows them; for watch.py and git/watch.py
"""

"""Sources of pods. Each source makes snapshots; a file that can't be read never counts as removed.

`kinds` registers each kind of source with its module. `follower` is the thread that follows a source and
publishes its snapshots. `files` reads pod files, and `watch` wakes followers when files change.
"""

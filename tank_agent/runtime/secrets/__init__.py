"""Secrets: decrypt those of pods by the program age and this machine's keys, and read those of the host.

`runtime.mounts.contents` gives them to containers. No error's text has anything of what a secret says.
"""

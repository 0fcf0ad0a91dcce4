"""Fills the journal from the sources.

`loop` for all, `git`, `seeding`; `events` records what concerns no single pod.
"""

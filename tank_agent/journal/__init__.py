"""The durable record of what should run, what ran, and what happened; it has one writer.

journal.py         what every other room uses: memory for reads, one commit for many writers
records.py         what is stored
transitions.py     pure: one state in; the next state and the writes out
ownership.py       pure: which source owns which pod, and what a snapshot changes
store.py           the seam below: tables of bytes, written atomically; and one in memory
lmdb.py            the store that the agent uses
"""

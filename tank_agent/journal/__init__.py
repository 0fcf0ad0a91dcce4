"""What should run, what ran, and what happened: durable, with one writer.

journal.py         the seam: the Protocol that every other room uses
records.py         what is stored
ownership.py       pure: which source owns which pod, and what a snapshot changes
transitions.py     pure: one state in; the next state, the writes and the answer out
stored.py          the Journal over any ordered key-value store: memory for reads, one commit for many writers
store.py           the seam below: tables of bytes, written atomically
lmdb.py            the store that the agent uses
memory.py          a store that forgets, for tests of other rooms
"""

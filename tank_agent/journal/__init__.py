"""The durable record of desired pods, their status, and events; it has one writer.

journal.py         the interface of this room: reads from memory, one commit for many writers
records.py         the records
formats.py         which pods an older agent would misunderstand, and must not read
transitions.py     pure: from one state to the next state and the writes
ownership.py       pure: the owner of each pod, and the changes that a snapshot makes
store.py           the interface of stores: tables of bytes, written atomically; and a store in memory
lmdb.py            the store on disk
"""

"""The decisions of the loop: pure functions and frozen structs, which touch no machine.

`plan` decides from `observed` which of the `actions` come next, and simulates them for a dry run; `restart`
has the rules of restarts, `jobs` those of schedules, whose steps are `job_records`, `phase` the words that
users read; `hashes` find changes, `changes` is the table of their effects, and `content_changes` has those of
files and secrets.

The life of a container. Phases are in capitals, the words at an arrow are the action that takes it::

    PENDING ──Pull──> PULLING ──> PENDING ──MakeNetwork──> PENDING ──Start──> STARTING ──> RUNNING
       ^                 │                                             │                  │  │
       │   image absent, │                          could not be started                  │  │
       │   or try failed v                                             v                  │  │
       │<── due ─── BACKING-OFF <──────────── after_exit, after_failed_start <────────────┘  │
       │                 ^             RecordExit, RecordLost: it ended by itself            │
       │                 │                                                                   │
       │                 └─ restart policy ─> COMPLETED or FAILED, until the spec changes    │
       │                                                                                     │
       └── RemoveRun <── RecordExit <── it ended <── STOPPING <─────────── Stop ─────────────┘
                                          ^  │             not wanted any more, or another spec
                                          └──┘ Kill, after the grace

While it is RUNNING, ChangeLive, MountAgain and ConvergeNetwork correct drift, and Deliver replaces files.
Once the last container of a pod has ended, RemoveNetwork removes the pod's network; Forget ends a pod that is
not desired.
"""

"""A git repository as a source: after `git push` the machine follows by itself.

```
follower                              decides when to poll: its pace, a ref on this machine, a webhook
  └ source ── status                 fetch → verify → check → publish, one step after the other
        ├ decide · verify · objects   new commits, their signatures, and the pods that they change
        ├ content                     pure: files of one commit → Snapshot
        └ clone ── repository         our bare copy, into which each fetch is copied file by file
             └ child ═ helper         another process, bounded and unprivileged
                          └ with_dulwich · with_git · packs    the transports, with the interface in access
```
The agent is root and never parses a pack, a TLS answer or the git protocol: `helper` does, in a process of
its own. The agent hashes all its answers again, from the commit's name down to each file, so the helper can
refuse to work but cannot lie about the content of a commit.
"""

"""A git repository as the source of truth: `git push`, and the machine follows.

```
follower                              when to poll: its pace, a ref here, a webhook
   └ source ── status                 fetch → verify → check → publish, one step after the other
        ├ decide · verify · objects   what is new since the deployed commit, who signed it, what it changes
        ├ content                     pure: files of one commit → Snapshot
        └ clone ── repository         our bare copy; what a fetch brought is taken over file by file
             └ child ═ helper         another process, bounded and unprivileged
                          └ with_dulwich · with_git · packs    behind what access asks of a transport
```
The agent is root and never parses a pack, a TLS answer or a line of the git protocol: `helper` does, in a
process of its own. What it hands over is hashed again, from the commit's name down to each file, so it can
refuse to work but cannot lie about what a commit holds.
"""

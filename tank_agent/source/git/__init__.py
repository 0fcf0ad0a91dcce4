"""A git repository as the source of truth: `git push`, and the machine follows.

```
settings  address                     what the user wrote, checked
worker ── watch · webhook · schedule  when to look
   └ source ── status · budget        fetch → verify → check → publish, one step after the other
        ├ repository                  our bare copy; what a fetch brought is taken over file by file
        ├ history · verify · objects  pure: what is new since the deployed commit, and who signed it
        ├ content                     pure: files of one commit → Snapshot
        └ child ═ protocol ═ helper   another process, bounded and unprivileged
                             ├ transport: with_dulwich, with_git
                             └ reader
```
The agent is root and never parses a pack, a TLS answer or a line of the git protocol: `helper` does, in a
process of its own. What it hands over is hashed again, from the commit's name down to each file, so it can
refuse to work but cannot lie about what a commit holds.
"""

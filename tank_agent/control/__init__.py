"""The work behind the verbs, one module a noun.

Pods, sources, images, sessions; `offline` for verbs that need no agent.
"""

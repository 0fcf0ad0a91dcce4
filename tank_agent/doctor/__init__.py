"""Look whether this machine can run pods: one small function a question, each with an answer that helps.

`check` is the form of an answer. `kernel`, `tools` and `places` hold the questions, most as pure functions of
what was read; `examine` asks them all. Nothing is changed, and nothing is left behind.
"""

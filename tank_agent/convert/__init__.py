"""Other tools' files made into pod files, and pods into theirs: one room a format, without an agent.

`model` has what all of them share: values with their places, the new pod files, and remarks on what a pod
file does not say.
"""

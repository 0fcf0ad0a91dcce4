"""The tests, by what they need.

`unit`: one room each, within seconds. `integration`: root and this machine's kernel, crun and conmon.
`system`: the Debian package on a machine of its own. `support`: what tests share.
"""

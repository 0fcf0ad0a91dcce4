"""The Distribution client.

`client` asks, `endpoint` logs in with `credentials`, `http` connects, `url` and `reference` parse, `lanes`
bounds it.
"""

"""The Distribution client: `client` asks, `endpoint` logs in, `http` connects, `url` parses."""

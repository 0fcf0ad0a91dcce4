"""The agent's HTTP API on a unix socket: routes, peer credentials, and the service behind them."""

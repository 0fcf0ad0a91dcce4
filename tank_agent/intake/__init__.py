"""The way from the sources into the journal: start the followers, seal
the secrets of their snapshots (`seal`), and merge these."""

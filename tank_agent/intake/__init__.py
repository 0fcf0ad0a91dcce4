"""The way from the sources into the journal: start the followers, and merge their snapshots."""

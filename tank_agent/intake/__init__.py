"""The way from the sources into the journal: start what follows them, and take what they publish."""

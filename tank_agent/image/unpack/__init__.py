"""Make a directory of a layer: `parent` starts the confined `child`, which filters the tar stream."""

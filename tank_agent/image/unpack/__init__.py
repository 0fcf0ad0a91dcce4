"""One layer becomes one directory.

`parent` starts a confined child (`child`), which decompresses and filters the tar stream.
"""

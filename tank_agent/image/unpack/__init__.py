"""One layer becomes one directory.

`process` starts a confined child (`child`), which decompresses and filters the tar stream.
"""

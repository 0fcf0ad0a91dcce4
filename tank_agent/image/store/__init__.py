"""References, manifests and unpacked layers on disk.

`store` lists, removes and prunes; `layout` reads images from files.
"""

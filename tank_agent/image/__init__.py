"""Images: from a reference in a pod file to read-only directories that an overlay can be made of.

reference   what a user may write as `image = "..."`
settings    what agent.toml says about registries and limits
image       the seam: ImageStore, Image, ImageConfig
store       references, manifests and unpacked layers on disk; pull, list, remove, prune
registry    the Distribution client; `endpoint` logs in with `credentials`, `http` asks, `url` parses
lanes       threads for each registry, so that one that stalls delays no other
layout      `oci:`, `oci-archive:` and `docker-archive:` inputs
manifest    indexes, manifests and configurations, read strictly
unpack      one layer → one directory, in a confined child (`unpack_child`, `tarfilter`, `decompress`);
            `implicit` is the list of what its entries need and do not describe
merge       the image's configuration with the pod file's words over it
user        names of users and groups → numbers, from the container's own files
"""

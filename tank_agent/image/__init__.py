"""Images: from a reference in a pod file to read-only directories that an overlay can be made of.

registry/   the Distribution client
unpack/     one layer → one directory, in a confined child
store/      on disk: references, manifests, layers; images from files
pull, jobs  one pull: its manifest, its layers, and the work that it shares with other pulls
manifest, platform  indexes, manifests and configurations, read strictly
config, parameters  an image's configuration, with the pod file's keys over it; names of users → numbers

All raise Stalled if trying again is pointless, as for refused content, and Retry if a place, the network or
the machine failed for now.
"""

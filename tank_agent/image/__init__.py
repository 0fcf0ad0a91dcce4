"""Images: from a reference in a pod file to read-only directories that an overlay can be made of.

registry/   the Distribution client
unpack/     one layer → one directory, in a confined child
store/      what is on disk: references, manifests, layers; images from files
pull, fetch, jobs   one pull: what it needs, who fetches it, and what it shares with other pulls
manifest, platform  indexes, manifests and configurations, read strictly
config, merge, user the image's configuration, with the pod file's keys over it; names of users → numbers
"""

"""The network of a pod: one namespace, made and kept right from the host, whatever happens to it.

Read from the top:
    pod_network.py   PodNetworks: what the loop calls; makes, reads and removes the namespaces
    convergence.py   what is there and what is wanted become steps; pure; drift prints the same steps
    wanted.py        the pod file's interfaces looked up on this host, and what the host refuses
    nics.py          does the steps, with pyroute2, which is imported only for a pod with interfaces
    probe.py         asks the LAN whether an address is free (ARP, and neighbour discovery)
    rtnetlink.py     reads links, addresses and routes; small, since every resync reads every pod
    host_facts.py    the seam to the host: its uplink and its DNS
    names.py         /etc/hosts, /etc/hostname and /etc/resolv.conf
"""

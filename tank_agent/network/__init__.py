"""The network of a pod: one namespace, made and kept right from the host, whatever happens to it.

Read from the top:
    pod_network.py   makes, converges, reads and removes namespaces: PodNetworks, which the loop calls
    convergence.py   compares the network that is there to the wanted one: steps, which drift prints; pure
    wanted.py        looks up the pod file's interfaces on this host, and refuses impossible ones
    nics.py          does the steps, with pyroute2, which is imported only for a pod with interfaces
    probe.py         asks the LAN whether an address is free (ARP, and neighbour discovery)
    rtnetlink.py     reads links, addresses and routes; small, since every resync reads every pod
    sysctls.py       kernel parameters of the namespace, written as it is made and put right again
    host_facts.py    finds the host's uplink and DNS
    names.py         writes /etc/hosts, /etc/hostname and /etc/resolv.conf
    shim.py          lets this machine and its pods on the LAN reach each other: HostAccess
    neighbours.py    knows which pods reach each other, for their names
"""

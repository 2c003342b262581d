"""GSLB: an authoritative DNS server that sends each user to the right site.

Read it in this order. Cores, without sockets or clocks:

    wire, edns, query   what bytes a client may send, and what they ask
    model               sites, names, policies, zones: what a person wrote
    networks            disjoint tables: address -> region
    policy              the chain: place and health -> sites, with the reason of each step
    rings               a region's sites in the proportion they are due
    plan, records       questions, and ready answer bytes
    answers, regions    the blobs that hold them; `compiler` fills them in
    responder           one query in, one reply out
    verdict             which sites are alive, by the word of their observers

Shells: `geo` (MaxMind databases), `zonefile` (dnspython), `board` (blobs between processes),
`worker` (one blocking loop per process), `crew` (which keeps them), `native` (`fast.c`), `tcp`,
`looks` and `eyes` (sites' state over mutual TLS), `control` (facts in, blobs out), `api`, `run`
(all of it).
"""

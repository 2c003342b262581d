"""VRRP: one virtual address, several gateways, exactly one that answers for it.

Theory of operation. The pure part knows no socket and no clock:

    packet    adverts in bytes and back (RFC 9568 and RFC 3768, section 5)
    receive   whether a packet is an advert we may believe (section 7.1), with its counters
    router    `VirtualRouter`: states, timers, priorities (section 6)
    node      `Node`: the virtual routers of one gateway, their sync groups and trackers
    explain   why a router is what it is, in words
    frames    gratuitous ARP, unsolicited NA and adverts as Ethernet frames

Each input (`tick`, `receive`, `order`, ...) takes the time and returns a list of effects:
take the addresses, send this advert, announce, tell. The shell around it (`run`) is a
process of its own with real-time priority and nothing else in its loop; scripts, routes
and log lines are the business of a second, ordinary process (`watch`), so that nothing
slow is ever between the clock and an advert.

What goes beyond the RFC, each named where it is done: a router that leaves goes on
answering until its successor's first advert; one whose advert is late by more than its
peers wait steps down; two actives are told of and healed by announcing again.
"""

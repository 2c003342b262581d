"""`lbctl ipvsadm …`: ipvsadm's words for what lbctl runs.

    argv      ipvsadm's command line, read as ipvsadm reads it
    listing   its output, byte for byte
    changes   its commands as overrides of lbctl's configuration
    restore   many of them as one
    command   the verb

Listings show the kernel's table, foreign services too. Commands go through the daemon, so
what they change is an override, shown and taken back like any other, and not drift.
"""

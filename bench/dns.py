"""`make bench-dns`: see bench/control/dns.py."""

from bench.control.dns import main

if __name__ == "__main__":
    main()

"""Packets through namespaces, beside nftables and HAProxy."""

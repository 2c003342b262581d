"""Made-up databases in MaxMind's format, kept in bench/out because making one takes a while."""

import random
from ipaddress import ip_address
from pathlib import Path

from mmdb_writer import MMDBWriter
from netaddr import IPNetwork, IPSet

COUNTRIES = {"KR": "AS", "JP": "AS", "DE": "EU", "FR": "EU", "US": "NA", "BR": "SA"}


def prefixes(count: int, seed: int = 7) -> list[tuple[bytes, str]]:
    """`count` random /24 networks (packed) with a country each."""
    rng = random.Random(seed)
    keys = rng.sample(range(0x010000, 0xDFFFFF), count)
    countries = list(COUNTRIES)
    return [((key << 8).to_bytes(4, "big"), rng.choice(countries)) for key in keys]


def database(path: Path, count: int, cities: int = 0) -> Path:
    """A database of `count` scattered /24 networks and a tenth as many IPv6 /48."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(count)
    kind = "GeoLite2-City" if cities else "GeoLite2-Country"
    writer = MMDBWriter(6, kind, ipv4_compatible=True)
    groups: dict[tuple[str, int], list[IPNetwork]] = {}
    for packed, country in prefixes(count):
        network = IPNetwork(f"{ip_address(packed)}/24")
        groups.setdefault((country, rng.randrange(cities or 1)), []).append(network)
    for number in range(count // 10):
        country = rng.choice(list(COUNTRIES))
        network = IPNetwork(f"2001:{0xDB8 + number // 65536:x}:{number % 65536:x}::/48")
        groups.setdefault((country, rng.randrange(cities or 1)), []).append(network)
    for (country, city), networks in groups.items():
        record: dict[str, object] = {
            "country": {"iso_code": country},
            "continent": {"code": COUNTRIES[country]},
        }
        if cities:
            record["city"] = {"names": {"en": f"{country}{city}"}}
            record["location"] = {
                "latitude": rng.uniform(-60, 60),
                "longitude": rng.uniform(-180, 180),
            }
        writer.insert_network(IPSet(networks), record)
    writer.to_db_file(str(path))
    return path

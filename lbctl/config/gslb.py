"""The `gslb` section into `lbctl.gslb.model`, every fault with its place.

Zone files are read through a callback, so that this module touches no files.
"""

from collections.abc import Callable

from lbctl.config.document import Unreadable, read
from lbctl.config.fault import Fault, Place
from lbctl.config.gslb_schema import (
    ApiSection,
    GslbSection,
    MemberSection,
    NameSection,
    ProbeSection,
    SiteSection,
    ZoneSection,
)
from lbctl.config.source import Source
from lbctl.config.validate import validate
from lbctl.errors import InvalidConfig
from lbctl.gslb import check, model
from lbctl.gslb.rrl import RateLimit
from lbctl.gslb.wire import MAX_NAME, name_to_wire
from lbctl.gslb.zonefile import read_zone
from lbctl.model import HttpProbe, TcpProbe, Timing

ReadFile = Callable[[str], str]  # a path as the file has it -> text; raises OSError


def load_gslb(text: str | bytes, name: str, me: str, read_file: ReadFile) -> model.Gslb:
    """The `gslb` section of the file. me: which of the observers this one is.

    Raises InvalidConfig with every fault, each with file and line, zone files included.
    """
    try:
        root, faults = read(text)
    except Unreadable as error:
        raise InvalidConfig([f"{name}: {error}"]) from None
    raw = root.plain()
    source = Source(name, root, ())
    section = None
    if isinstance(raw, dict) and raw.get("gslb") is not None:
        found, more = validate(GslbSection, raw["gslb"], ("gslb",))
        faults, section = [*faults, *more], found
    else:
        faults.append(Fault((), "has no gslb section (write gslb:)", place=Place(1, 1)))
    if faults or section is None:
        raise InvalidConfig([source.say(one) for one in sorted(faults, key=source.order)])
    made, zone_faults = _build(section, me, read_file, source)
    found_faults = [Fault(("gslb", *path), text) for path, text in check.faults(made)]
    said = [source.say(one) for one in sorted(found_faults, key=source.order)]
    if said or zone_faults:
        raise InvalidConfig([*said, *zone_faults])
    return made


def _build(
    section: GslbSection, me: str, read_file: ReadFile, source: Source
) -> tuple[model.Gslb, list[str]]:
    faults: list[str] = []
    zones = []
    apexes: dict[bytes, str] = {}
    for name, zone in section.zones.items():
        try:
            apex = name_to_wire(name)
            if (first := apexes.setdefault(apex, name)) != name:
                raise ValueError(f"is the zone '{first}' again (keep one)")
            records = read_zone(read_file(zone.file), zone.file, apex)
            names, more = _names(apex, zone)
            zones.append(model.Zone(apex, records, names))
            where = ("gslb", "zones", name, "names")
            faults += [source.say(Fault((*where, one), text)) for one, text in more]
        except OSError as error:
            where = ("gslb", "zones", name, "file")
            text = f"{zone.file}: cannot be read: {error.strerror}"
            faults.append(source.say(Fault(where, text)))
        except UnicodeDecodeError as error:
            where = ("gslb", "zones", name, "file")
            faults.append(source.say(Fault(where, f"{zone.file}: is no text: {error}")))
        except ValueError as error:
            faults.append(source.say(Fault(("gslb", "zones", name), str(error))))
        except InvalidConfig as error:
            faults += error.faults
    observers = section.observers
    if observers.peers and me not in observers.peers and me not in section.sites:
        there = ", ".join(dict.fromkeys([*observers.peers, *section.sites]))
        text = f"this server is '{me}', none of the observers and sites ({there})"
        mend = "start it with --me NAME (LBCTL_GSLB_ME), or name it here"
        faults.append(source.say(Fault(("gslb", "observers", "peers"), f"{text}: {mend}")))
    built = model.Gslb(
        zones=tuple(zones),
        sites={name: _site(one) for name, one in section.sites.items()},
        policies={
            name: model.Policy(tuple(one.steps), one.all_down, tuple(one.static))
            for name, one in section.policies.items()
        },
        listens=tuple(section.listen),
        databases=model.Databases(**section.databases.model_dump()),
        observers=model.Observers(
            me=me,
            peers={name: _api(one) for name, one in observers.peers.items() if name != me},
            quorum=observers.quorum,
            silent_after=observers.silent_after,
        ),
        rate_limit=RateLimit(**section.rate_limit.model_dump()),
        processes=section.processes,
        cookie_secrets=_secrets(section, read_file, faults, source),
        identity=section.identity.encode(),
        api=_listener(section),
        measure=section.measure,
    )
    return built, faults


def _secrets(
    section: GslbSection, read_file: ReadFile, faults: list[str], source: Source
) -> tuple[bytes, ...]:
    if not section.cookie_secret:
        return ()
    try:
        lines = read_file(section.cookie_secret).split()
        secrets = tuple(bytes.fromhex(line) for line in lines)
        if secrets and all(16 <= len(secret) <= 32 for secret in secrets):
            return secrets
        text = "wants 16 to 32 octets as hex, one secret a line"
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        text = f"cannot be read: {why}"
    text = f"{section.cookie_secret}: {text}"
    faults.append(source.say(Fault(("gslb", "cookie_secret"), text)))
    return ()


def _listener(section: GslbSection) -> model.SiteApi | None:
    api = section.api
    return model.SiteApi(api.listen, api.certificate, api.key, api.ca) if api else None


def _api(section: ApiSection) -> model.Api:
    return model.Api(section.api, section.name)


def _site(section: SiteSection) -> model.Site:
    return model.Site(
        location=section.location,
        apis=tuple(_api(one) for one in section.gateways),
        check=_check(section.probe) if section.probe else None,
        vips=tuple(section.vips),
        capacity=section.capacity,
    )


def _check(section: ProbeSection) -> model.ExternalCheck:
    probe: HttpProbe | TcpProbe = TcpProbe()
    if section.type == "http":
        probe = HttpProbe(path=section.path, host=section.host, statuses=tuple(section.status))
    timing = Timing(section.interval, section.timeout, section.fall, section.rise)
    return model.ExternalCheck(probe, section.target, timing)


def _names(
    apex: bytes, section: ZoneSection
) -> tuple[tuple[model.Name, ...], list[tuple[str, str]]]:
    """The balanced names; and (name as the section writes it, what is wrong with it)."""
    found: dict[bytes, str] = {}
    names, faults = [], []
    for name, one in section.names.items():
        try:
            wire = apex if name == "@" else name_to_wire(name)[:-1] + apex
            if len(wire) > MAX_NAME:
                raise ValueError(f"has {len(wire)} octets with its zone (at most {MAX_NAME})")
            if (first := found.setdefault(wire, name)) != name:
                raise ValueError(f"is the name '{first}' again (keep one)")
        except ValueError as error:
            faults.append((name, str(error)))
        else:
            names.append(_name(wire, one))
    return tuple(names), faults


def _name(wire: bytes, section: NameSection) -> model.Name:
    members = tuple(_member(site, one) for site, one in section.members.items())
    return model.Name(wire, section.policy, members, section.ttl)


def _member(site: str, section: MemberSection) -> model.Member:
    return model.Member(
        site, tuple(section.addresses), section.cname or b"", section.weight, section.service
    )

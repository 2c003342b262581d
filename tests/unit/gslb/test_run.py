"""What `serve` and `validate` read, wherever they are started."""

import asyncio
import re
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from lbctl.cli.main import lbctl
from lbctl.errors import InvalidConfig
from lbctl.gslb.api import telling
from lbctl.gslb.eyes import Eyes
from lbctl.gslb.model import SiteApi
from lbctl.gslb.reports import SiteReport
from lbctl.gslb.run import read
from lbctl.model import Endpoint
from tests.ports import free_port
from tests.unit.gslb.scene import GSLB
from tests.unit.gslb.test_control import control_of
from tests.unit.gslb.test_files import FILE, PEERS, ZONE
from tests.unit.gslb.test_looks import pem

API = "api: {listen: 192.0.2.53:8443, certificate: me.pem, key: me.pem, ca: ca.pem}"
WITH_FILES = FILE.replace("gslb:", f"gslb:\n  {API}\n  databases: {{city: c.mmdb}}", 1)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "zone").write_text(ZONE)
    pem(tmp_path)
    path = tmp_path / "lbctl.yaml"
    path.write_text(WITH_FILES)
    return path


def test_paths_are_relative_to_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    found = read(config, "local")
    there = config.parent
    assert found.api is not None
    assert found.databases.city == str(there / "c.mmdb")
    assert (found.api.certificate, found.api.key, found.api.ca) == (
        str(there / "me.pem"), str(there / "me.pem"), str(there / "ca.pem"))  # fmt: skip
    monkeypatch.chdir(there)
    here = read(Path("lbctl.yaml"), "local")
    monkeypatch.chdir("/")
    assert here == found


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("me.pem", "gslb.api.certificate: {}: cannot be read: No such file or directory"),
        ("ca.pem", "gslb.api.ca: {}: cannot be read: No such file or directory"),
        ("zone", "zone: cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_missing_is_named(config: Path, file: str, said: str) -> None:
    (config.parent / file).unlink()
    done = CliRunner().invoke(lbctl, ["gslb", "validate", str(config)])
    assert isinstance(done.exception, InvalidConfig)
    assert said.format(config.parent / file) in "\n".join(done.exception.faults)


def test_a_policy_that_looks_at_no_health_is_a_warning(config: Path) -> None:
    def said() -> str:
        return CliRunner().invoke(lbctl, ["gslb", "validate", str(config)]).stderr

    assert "warning" not in said()
    config.write_text(config.read_text().replace("        - healthy\n", ""))
    assert re.search(r"warning: .*gslb\.policies\.\w+\.steps: answers sites that are down", said())


@pytest.mark.parametrize(
    ("file", "said"),
    [("me.pem", r"me.pem and .*me.pem: are no certificate and its key"),
     ("ca.pem", r"gslb.api.ca: .*ca.pem: is no PEM file of certificates")],
)  # fmt: skip
def test_a_pem_file_that_is_none_is_named(config: Path, file: str, said: str) -> None:
    (config.parent / file).write_text("no certificate")
    with pytest.raises(InvalidConfig) as caught:
        read(config, "local")
    assert re.search(said, "\n".join(caught.value.faults))


def test_validate_reads_as_serve_does(config: Path) -> None:
    config.write_text(WITH_FILES.replace("{quorum: 1}", f"{{quorum: 1, {PEERS}}}"))
    done = CliRunner().invoke(lbctl, ["gslb", "validate", str(config)])
    assert isinstance(done.exception, InvalidConfig)
    assert "this server is 'local'" in done.exception.faults[0]
    done = CliRunner().invoke(lbctl, ["gslb", "validate", "--me", "tokyo", str(config)])
    assert done.exit_code == 0, done.output


async def presented(port: int, name: str, ca: Path) -> None:
    """Shake hands with the listener; its certificate must be of `ca`."""
    context = ssl.create_default_context(cafile=str(ca))
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    writer.close()


def spoil(files: SiteApi) -> None:
    Path(files.certificate).write_text("half a file")


async def settled(wanted: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not wanted():  # noqa: ASYNC110 (no event: it is a plain dict)
            await asyncio.sleep(0.01)


def test_a_renewed_certificate_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbctl.gslb.api.RENEW", 0.02)
    files = pem(tmp_path)
    port = free_port()
    files = SiteApi(Endpoint.parse(f"127.0.0.1:{port}"), files.certificate, files.key, files.ca)
    errors: dict[str, str] = {}

    async def until(port: int, ca: Path) -> None:
        async with asyncio.timeout(20):
            while True:
                try:
                    await presented(port, "tokyo", ca)
                except (ssl.SSLError, OSError):
                    await asyncio.sleep(0.02)
                else:
                    return

    async def story() -> None:
        async with telling(files, lambda: SiteReport("x"), errors):
            await until(port, Path(files.ca))
            spoil(files)
            await settled(lambda: "listener for peers" in errors)
            await until(port, Path(files.ca))  # the one it had
            pem(tmp_path)  # of a new authority
            await until(port, Path(files.ca))
            await settled(lambda: not errors)

    asyncio.run(story())


def test_who_asks_takes_a_renewed_certificate_too(tmp_path: Path) -> None:
    files = pem(tmp_path)
    control = control_of(replace(GSLB, api=files), tmp_path)

    async def story() -> None:
        eyes = Eyes(control, None, "")  # type: ignore[arg-type]
        await eyes.renew()
        first = eyes._context
        await eyes.renew()
        assert eyes._context is first
        pem(tmp_path)
        await eyes.renew()
        assert eyes._context is not first

    asyncio.run(story())


def test_a_reload_says_what_waits_for_a_restart() -> None:
    changed = replace(GSLB, identity=b"new", processes=3, sites={})
    assert changed.differs(GSLB) == ["processes", "identity", "sites"]
    assert replace(GSLB, policies={}).differs(GSLB) == []

"""A gateway of the lab as seen over ssh: what its lbctl says. Each question is one command;
where the processor is emulated it takes seconds."""

import json
from typing import Any

from lbctl.lab.file import SERVICE
from lbctl.lab.waiting import eventually
from vagrant.ssh import Machine, SshError

ASKING = 60  # seconds for one verb


class Gateway:
    def __init__(self, machine: Machine) -> None:
        self.machine, self.name = machine, machine.name

    def ask(self, verb: str) -> Any:
        """The verb's JSON. Raises AssertionError: there is no answer now."""
        try:
            return json.loads(self.machine.run(f"lbctl {verb} -j", ASKING))
        except SshError as error:
            raise AssertionError(str(error)) from None

    def roles(self) -> dict[str, str]:
        """Of its virtual routers: active, backup, ..."""
        return {one["router"]: one["role"] for one in self.ask("ha status")}

    def servers(self) -> dict[str, str]:
        """Of its servers: serving, down, overloaded, ..."""
        found = self.ask("get servers")
        return {one["name"].removeprefix(f"{SERVICE}/"): one["state"] for one in found}

    def evidence(self, server: str) -> str:
        for one in self.ask("get servers"):
            if one["name"] == f"{SERVICE}/{server}":
                return str(one["because"])
        return "not known"

    # --- waiting ------------------------------------------------------------------------

    def expect_role(self, role: str, seconds: float) -> None:
        """Until all its virtual routers have it."""

        def reached() -> bool:
            found = self.roles()
            assert set(found.values()) == {role}, f"{self.name}: {found}, not {role}"
            return True

        eventually(reached, seconds)

    def expect_servers(self, states: dict[str, str], seconds: float) -> None:
        def reached() -> bool:
            found = self.servers()
            wrong = {name: found.get(name) for name in states if found.get(name) != states[name]}
            assert not wrong, f"{self.name}: {wrong}, not {states}"
            return True

        eventually(reached, seconds)

    def expect_line(self, seconds: float) -> None:
        """Until the line to the other gateway stands, with a whole copy on both ends."""

        def reached() -> bool:
            found = self.ask("ha peer")
            assert found["connected"], f"{self.name}: no line: {found['cuts']} {found['trouble']}"
            assert found["synced"], f"{self.name}: not in sync with {found['node']}"
            return True

        eventually(reached, seconds)

    def expect_datapath(self, name: str, seconds: float) -> str:
        """Until the daemon serves by it; returns why it was chosen."""

        def reached() -> str:
            found = self.ask("get status")["datapath"]
            assert found["name"] == name, f"{self.name}: data path {found['name']}, not {name}"
            assert not found["trouble"], f"{self.name}: {name}: {found['trouble']}"
            return str(found["why"])

        return eventually(reached, seconds)

#!/usr/bin/python3
"""Run a command on a Debian kernel of its own, in a virtual machine.

    machine.py [--unless-ipvs] [--icount] [--writable DIR] -- COMMAND [ARGUMENT ...]

For what the running kernel lacks (IPVS, an older BPF verifier, pktgen). The guest sees
this machine's whole file tree, read-only under an overlay that forgets, so the command
is the one that would be typed here: same paths, same venv, same directory. Its output
comes out as it is written, its exit status is this program's, and directories named with
`--writable` keep what it leaves in them.

No KVM is needed: QEMU's TCG runs it, Python about twenty times slower than outside.
Exit status 125: the machine itself failed; what is missing is said.

Standard library only: this runs before any venv exists.
"""

import argparse
import fcntl
import gzip
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
CACHE = Path(os.environ.get("LBCTL_CACHE", REPOSITORY / ".cache")) / "vm"
TOOLS = {  # command: the Debian package that has it
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "setpriv": "util-linux",
}
# What must be loaded before the file tree with all other modules is there.
FIRST_MODULES = ("virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay")
KEPT_VARIABLES = (
    *("PATH", "HOME", "LANG", "PYTHONPATH", "PYTEST_ADDOPTS", "COLUMNS"),
    *("BCC_KERNEL_SOURCE", "LBCTL_PROGRAMS"),
)
MACHINE_FAILED = 125


class Trouble(Exception):
    """The machine cannot be built or did not run; the message says what to do."""


class Missing(Trouble):
    """What this machine would need first: nothing is wrong with what was to run."""


def main() -> int:
    arguments = parse(sys.argv[1:])
    if arguments.unless_ipvs and kernel_has_ipvs():
        return subprocess.call(arguments.command)
    try:
        need_tools()
        with locked(CACHE):
            kernel = unpacked_kernel()
            image = first_image(kernel)
        return boot(kernel, image, arguments)
    except Trouble as trouble:
        missing = "missing " if isinstance(trouble, Missing) else ""
        print(f"vm: {missing}{trouble}", file=sys.stderr)
        return MACHINE_FAILED


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--unless-ipvs", action="store_true", help="run it here if this kernel has IPVS"
    )
    parser.add_argument("--icount", action="store_true", help="count instructions as time")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", default="2G")
    parser.add_argument("--timeout", type=float, default=900, help="seconds (default 900)")
    parser.add_argument("--writable", action="append", default=[], type=Path, metavar="DIR")
    parser.add_argument("command", nargs="+")
    return parser.parse_args(argv)


def kernel_has_ipvs() -> bool:
    subprocess.run(["modprobe", "-q", "ip_vs"], check=False, stderr=subprocess.DEVNULL)
    return Path("/proc/net/ip_vs").exists()


def need_tools() -> None:
    if platform.machine() != "x86_64":
        raise Missing(f"an x86_64 machine: this is {platform.machine()}")
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        raise Missing(f"tools: apt-get install --no-install-recommends {' '.join(missing)}")


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One builder of the cache at a time."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- the kernel -------------------------------------------------------------------------


def unpacked_kernel() -> Path:
    """The directory of a kernel with its modules, fetched by apt the first time."""
    found = sorted(CACHE.glob("kernel-*"))
    if found:
        return found[-1]
    package = kernel_package()
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        apt = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package]
        fetched(apt, cwd=scratch)
        deb = next(Path(scratch).glob("*.deb"))
        tree = Path(scratch) / "tree"
        run(["dpkg-deb", "-x", str(deb), str(tree)])
        modules = next((tree / "lib/modules").iterdir())
        run(["depmod", "-b", str(tree), modules.name])
        kernel = CACHE / f"kernel-{modules.name}"
        tree.rename(kernel)
    return kernel


def kernel_package() -> str:
    """The full image behind Debian's metapackage (the `-cloud` one has no 9p)."""
    answer = fetched(["apt-cache", "depends", "linux-image-amd64"])
    for line in answer.splitlines():
        word, _, package = line.strip().partition(": ")
        if word == "Depends" and package.startswith("linux-image-"):
            return package
    raise Missing(
        "a kernel image: apt knows no linux-image-amd64: apt-get update, with Debian's sources"
    )


def fetched(command: list[str], cwd: str | None = None) -> str:
    """What apt answers."""
    try:
        return run(command, cwd)
    except (Trouble, FileNotFoundError) as error:
        raise Missing(f"a kernel image: {error} (try: apt-get update)") from None


def run(command: list[str], cwd: str | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Trouble(f"{shlex.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout


# --- the initial file system ------------------------------------------------------------


def first_image(kernel: Path) -> Path:
    """An initramfs of busybox, `init` and the modules on the way to the host's files."""
    image = kernel / "first.cpio.gz"
    init = HERE / "init"
    if image.exists() and image.stat().st_mtime > init.stat().st_mtime:
        return image
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        root = Path(scratch)
        (root / "bin").mkdir()
        shutil.copy(str(shutil.which("busybox")), root / "bin/busybox")
        shutil.copy(init, root / "init")
        (root / "init").chmod(0o755)
        (root / "modules").mkdir()
        files = module_files(kernel)
        for file in files:
            shutil.copy(file, root / "modules")
        (root / "modules/order").write_text("".join(f"{file.name}\n" for file in files))
        names = "".join(f"{path.relative_to(root)}\n" for path in sorted(root.rglob("*")))
        archive = subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"],
            cwd=root,
            input=names.encode(),
            capture_output=True,
            check=True,
        ).stdout
    image.write_bytes(gzip.compress(archive, 1))
    return image


def module_files(kernel: Path) -> list[Path]:
    """`FIRST_MODULES` and all they need, in an order in which they load."""
    base = next((kernel / "lib/modules").iterdir())
    needs: dict[str, list[str]] = {}
    for line in (base / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {Path(path).name.split(".")[0]: path for path in needs}
    order: list[str] = []
    for name in FIRST_MODULES:
        path = by_name[name]
        # modules.dep lists the nearest need first.
        order += [one for one in (*reversed(needs[path]), path) if one not in order]
    return [base / path for path in order]


# --- booting ----------------------------------------------------------------------------


def boot(kernel: Path, image: Path, arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="lbctl-vm-") as scratch:
        job = Path(scratch)
        shares = [path.resolve() for path in arguments.writable]
        write_job(job, kernel, shares, arguments.command)
        console = job / "console"
        command = qemu(kernel, image, job, shares, arguments)
        # setpriv: no machine outlives a harness that was killed.
        guarded = ["setpriv", "--pdeathsig", "KILL", *command]
        with subprocess.Popen(guarded, stdin=subprocess.DEVNULL) as machine:
            try:
                machine.wait(arguments.timeout)
            except subprocess.TimeoutExpired:
                raise Trouble(
                    f"stopped after {arguments.timeout:.0f} s; the console's end:\n{end(console)}"
                ) from None
            finally:
                machine.kill()
        status = job / "status"
        if not status.exists():
            raise Trouble(f"it ended without an exit status; the console's end:\n{end(console)}")
        return int(status.read_text())


def end(console: Path) -> str:
    if not console.exists():
        return "(nothing)"
    return "\n".join(console.read_text(errors="replace").splitlines()[-30:])


def write_job(job: Path, kernel: Path, shares: list[Path], command: list[str]) -> None:
    """What the guest's `init` reads: where to mount shares, and the first script."""
    (job / "shares").write_text("".join(f"w{i} {path}\n" for i, path in enumerate(shares)))
    variables = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    exports = "".join(f"export {n}={shlex.quote(v)}\n" for n, v in variables.items())
    (job / "first").write_text(
        f"exec </dev/null\n"
        f"mkdir -p /lib/modules\n"
        f"mount --bind {shlex.quote(str(kernel / 'lib/modules'))} /lib/modules\n"
        f"# kept open, or the terminal would forget its settings\n"
        f"exec >/dev/hvc0 2>&1\n"
        f"stty -F /dev/hvc0 -opost\n"
        f"{exports}"
        f"cd {shlex.quote(os.getcwd())}\n"
        f"{shlex.join(command)}\n"
        f"echo $? >/run/vm/status\n"
        f"busybox poweroff -f\n"
    )


def qemu(
    kernel: Path, image: Path, job: Path, shares: list[Path], arguments: argparse.Namespace
) -> list[str]:
    command = ["qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-m", arguments.memory]
    command += ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
    if arguments.icount:
        command += ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"]
    else:
        command += ["-accel", "tcg,thread=multi", "-smp", str(arguments.cpus)]
    command += ["-kernel", str(next((kernel / "boot").glob("vmlinuz-*"))), "-initrd", str(image)]
    command += ["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]
    command += ["-chardev", f"file,id=console,path={job / 'console'}"]
    command += ["-serial", "chardev:console"]
    command += ["-device", "virtio-serial-pci", "-chardev", "stdio,id=out,signal=off"]
    command += ["-device", "virtconsole,chardev=out"]
    command += ["-object", "rng-random,id=rng,filename=/dev/urandom"]
    command += ["-device", "virtio-rng-pci,rng=rng"]
    command += share("root", Path("/"), readonly=True)
    command += share("job", job)
    for number, path in enumerate(shares):
        command += share(f"w{number}", path)
    return command


def share(tag: str, path: Path, readonly: bool = False) -> list[str]:
    options = f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap"
    return ["-virtfs", options + (",readonly=on" if readonly else "")]


if __name__ == "__main__":
    sys.exit(main())

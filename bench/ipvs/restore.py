"""Program the table into IPVS, as `lbctl` does at its start: one process, for strace.

python -m bench.ipvs.restore INTENT [COUNT]      COUNT services, or all
"""

import sys
from pathlib import Path

from bench.ipvs.table import SERVICES, table
from lbctl.dataplane.converge import converge
from lbctl.dataplane.ipvs.plane import IpvsPlane
from lbctl.model import Table


def main():
    count = int(sys.argv[2]) if len(sys.argv) > 2 else SERVICES
    wanted = Table(dict(list(table().services.items())[:count]))
    plane = IpvsPlane(Path(sys.argv[1]))
    report = converge(plane, wanted)
    assert report.refused == (), report.refused[0].error


if __name__ == "__main__":
    main()

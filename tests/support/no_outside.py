"""A watch for look-ups and contacts of addresses outside this machine, by a program or anything that it starts.

Every Python process below it reports through an audit hook; one that is not written in Python reports nothing.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

HOOK = '''
import json, os, socket, sys

FILE = os.environ["NO_OUTSIDE_FILE"]
SCRIPT = next((part for part in sys.orig_argv if part.endswith(".py")), " ".join(sys.orig_argv[1:3]))
PROGRAM = os.path.basename(SCRIPT)
NAMES = {"", "localhost", "localhost.localdomain", os.uname().nodename}

def tell(kind, what):
    with open(FILE, "a") as file:
        file.write(json.dumps([PROGRAM, kind, str(what)]) + "\\n")

def own(host):
    """An address is this machine's if a socket can be bound to it."""
    host = host.decode() if isinstance(host, bytes) else host
    if host is None or host in NAMES:
        return True
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        number = socket.inet_pton(family, host)
    except OSError:
        return False
    with socket.socket(family, socket.SOCK_DGRAM) as test:
        try:
            test.bind((host, 0))
        except OSError:
            return False
    return True

def hook(event, given):
    if event in ("socket.getaddrinfo", "socket.gethostbyname") and not own(given[0]):
        tell(event, given[0])
    elif event in ("socket.connect", "socket.sendto") and isinstance(given[1], tuple) and not own(given[1][0]):
        tell(event, given[1])

tell("started", os.getpid())
sys.addaudithook(hook)
'''


@dataclass(frozen=True)
class Watched:
    """environment: what the watched program is started with."""

    environment: dict[str, str]
    file: Path

    def programs(self) -> set[str]:
        """Names of the Python programs that reported."""
        return {program for program, kind, _ in self._lines() if kind == "started"}

    def contacts(self) -> list[list[str]]:
        """Program, kind of call and address of every look-up and contact outside."""
        return [line for line in self._lines() if line[1] != "started"]

    def _lines(self) -> list[list[str]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()]


@contextlib.contextmanager
def watched(environment: Mapping[str, str]) -> Iterator[Watched]:
    """Adds the hook to an environment; what was seen can be asked for until the end."""
    with tempfile.TemporaryDirectory(prefix="no-outside-") as folder:
        (Path(folder) / "sitecustomize.py").write_text(HOOK)
        file = Path(folder) / "seen.jsonl"
        file.touch()
        path = ":".join(filter(None, [folder, environment.get("PYTHONPATH")]))
        yield Watched({**environment, "PYTHONPATH": path, "NO_OUTSIDE_FILE": str(file)}, file)

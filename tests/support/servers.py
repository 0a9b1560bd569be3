"""Servers on loopback that a remote of DVC's can be on: OpenSSH with keys of its own, and an S3 of moto's."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import requests
from programs import needs

SSHD = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
PasswordAuthentication no
StrictModes no
UsePAM no
Subsystem sftp internal-sftp
"""
"""`StrictModes no`: the keys are in a folder of pytest's, below /tmp, where others may write."""

PRIVILEGES = Path("/run/sshd")
"""An empty folder that belongs to root, without which Debian's sshd does not start as root."""


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(command, port, log, **variables):
    """Run a server until the block ends; it begins once the port answers."""
    with log.open("a") as output:
        process = subprocess.Popen(command, env=os.environ | variables, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait(process, port, log)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(process, port, log):
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError(f"{process.args[0]} does not listen on {port}: {log.read_text()}")


class Ssh:
    """An OpenSSH server whose one user is whoever runs the tests."""

    def __init__(self, folder):
        needs("sshd", "ssh-keygen", "dvc_ssh")
        self.folder, self.port, self.storage = folder, free_port(), folder / "storage"
        for name in ("host", "user"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(key, check=True)
        (folder / "sshd_config").write_text(SSHD.format(folder=folder, port=self.port))
        self.storage.mkdir()

    @contextlib.contextmanager
    def up(self):
        if os.geteuid() == 0:
            PRIVILEGES.mkdir(mode=0o755, exist_ok=True)
        sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        command = [sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with running(command, self.port, self.folder / "log") as process:
            yield process

    @property
    def settings(self):
        """What `dvc remote` is told: the place, and the options of this machine alone."""
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{self.storage}"
        return url, {"keyfile": str(self.folder / "user")}


KEYS = {"access_key_id": "user", "secret_access_key": "secret", "region": "us-east-1"}


class S3:
    """An S3 server of moto's, with one bucket, whose objects are lost when it stops."""

    def __init__(self, folder):
        needs("moto_server", "dvc_s3")
        self.folder, self.port = folder, free_port()

    @contextlib.contextmanager
    def up(self):
        moto = str(Path(sys.executable).parent / "moto_server")
        with running(
            [moto, "--host", "127.0.0.1", "--port", str(self.port)], self.port, self.folder / "log"
        ) as process:
            requests.put(f"http://127.0.0.1:{self.port}/study", timeout=60).raise_for_status()
            yield process

    @property
    def settings(self):
        return "s3://study/storage", KEYS | {"endpointurl": f"http://127.0.0.1:{self.port}"}


class Relay:
    """Stands before a server and lets so many bytes through to it, then none: a line that has gone dead.

    `dead` is set from then on.
    """

    def __init__(self, port, limit):
        self.target, self.left, self.dead = port, limit, threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open = [self.listener]

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        for each in self.open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self):
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                self.open += [client, server]
                for each in (client, server):  # answers of a few bytes would each wait 40 ms for more
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for pair in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source, sink, counted):
        with contextlib.suppress(OSError):
            while block := source.recv(4096):
                if counted:
                    self.left -= len(block)
                if self.left < 0:
                    self.dead.set()
                    return
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)

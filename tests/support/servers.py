"""Where a remote of DVC's can be: OpenSSH with keys of its own, an S3 of moto's, both on loopback, and a directory."""

import contextlib
import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

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

S3_KEYS = {"access_key_id": "user", "secret_access_key": "secret", "region": "us-east-1"}

OBJECT = r"files/md5/[0-9a-f]{2}/[0-9a-f]{30}(?:\.dir)?"
"""The name of an object of DVC's in a remote."""


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


class Directory:
    """A directory that others can reach."""

    def __init__(self, folder):
        self.folder = folder
        self.storage = folder / "storage"
        self.storage.mkdir()

    @contextlib.contextmanager
    def up(self):
        yield

    def url(self, name):
        """Return the place `name`, which is made; `settings` says how to get there."""
        (self.storage / name).mkdir(exist_ok=True)
        return str(self.storage / name)

    @property
    def settings(self):
        return {}

    def read(self, name, key):
        return (self.storage / name / key).read_bytes()

    def write(self, name, key, content):
        path = self.storage / name / key
        mode = path.stat().st_mode  # DVC trusts what is read-only in a directory, and compares the rest
        path.chmod(0o644)
        path.write_bytes(content)
        path.chmod(mode)

    def keys(self, name):
        """Return the names of the objects at a place, without the files of uploads that have not ended."""
        found = (path.relative_to(self.storage / name).as_posix() for path in (self.storage / name).rglob("*"))
        return sorted(key for key in found if re.fullmatch(OBJECT, key))


class Ssh(Directory):
    """An OpenSSH server whose one user is whoever runs the tests."""

    def __init__(self, folder):
        needs("sshd", "ssh-keygen", "dvc_ssh")
        super().__init__(folder)
        self.port = free_port()
        for name in ("host", "user"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(key, check=True)
        (folder / "sshd_config").write_text(SSHD.format(folder=folder, port=self.port))

    @contextlib.contextmanager
    def up(self):
        if os.geteuid() == 0:
            PRIVILEGES.mkdir(mode=0o755, exist_ok=True)
        sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")  # which wants its own full name
        with running([sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")], self.port, self.folder / "log"):
            yield

    def url(self, name):
        return f"ssh://{getpass.getuser()}@127.0.0.1{super().url(name)}"

    @property
    def settings(self):
        return {"keyfile": str(self.folder / "user")} | self.through(self.port)

    def through(self, port):
        """Return the settings by which a client comes through another port."""
        return {"port": str(port)}


class S3:
    """An S3 server of moto's, with one bucket, whose objects are lost when it stops."""

    def __init__(self, folder):
        needs("moto_server", "dvc_s3")
        self.folder, self.port = folder, free_port()

    @contextlib.contextmanager
    def up(self):
        moto = shutil.which("moto_server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        with running([moto, "--host", "127.0.0.1", "--port", str(self.port)], self.port, self.folder / "log"):
            self._client.create_bucket(Bucket="study")
            yield

    def url(self, name):
        return f"s3://study/{name}"

    @property
    def settings(self):
        return S3_KEYS | self.through(self.port)

    def through(self, port):
        return {"endpointurl": f"http://127.0.0.1:{port}"}

    def read(self, name, key):
        return self._client.get_object(Bucket="study", Key=f"{name}/{key}")["Body"].read()

    def write(self, name, key, content):
        self._client.put_object(Bucket="study", Key=f"{name}/{key}", Body=content)

    def keys(self, name):
        listed = self._client.list_objects_v2(Bucket="study", Prefix=f"{name}/").get("Contents", [])
        found = (each["Key"].removeprefix(f"{name}/") for each in listed)
        return sorted(key for key in found if re.fullmatch(OBJECT, key))

    @property
    def _client(self):
        import boto3  # which moto brings

        user, secret, region = S3_KEYS.values()
        return boto3.client(
            "s3",
            region,
            endpoint_url=self.settings["endpointurl"],
            aws_access_key_id=user,
            aws_secret_access_key=secret,
        )


KINDS = {"directory": Directory, "ssh": Ssh, "s3": S3}


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

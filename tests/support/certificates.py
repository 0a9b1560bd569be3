"""Certificates of 127.0.0.1 that sign themselves, for servers of the tests; made by openssl, so that no key is kept."""

import shutil
import subprocess

import pytest

SETTINGS = """
[req]
distinguished_name = name
[ca]
default_ca = own
[own]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = name
x509_extensions = extensions
[name]
commonName = optional
[extensions]
basicConstraints = critical, CA:TRUE
subjectAltName = IP:127.0.0.1
"""


def make(folder, until):
    """Make a certificate that is valid from 2000 until a date like 20010101000000Z; return its file, key included."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl")
    (folder / "settings").write_text(SETTINGS)
    (folder / "index.txt").touch()
    for command in (
        "req -new -config settings -subj /CN=localhost -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256"
        " -keyout key.pem -out request.pem",
        "ca -config settings -batch -selfsign -rand_serial -keyfile key.pem -in request.pem -out own.pem -notext"
        f" -startdate 20000101000000Z -enddate {until}",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    both = folder / f"{until}.pem"
    both.write_bytes((folder / "own.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return both

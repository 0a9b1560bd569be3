"""A real SLURM cluster of one node, which a test starts and stops: Debian's daemons in namespaces of their own.

It needs root, but changes nothing outside: /etc/slurm is another folder in its mount namespace, and all its processes
end with the first one of its process namespace.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import engines
from programs import lacks, needs

DAEMONS = ("slurmctld", "slurmd", "munged", "sbatch", "unshare", "nsenter")

SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MinJobAge=3600
KillWait=5
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1,requeue_delay=1
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:4 State=UNKNOWN
PartitionName=study Nodes={host} Default=YES MaxTime=INFINITE PriorityTier=1 State=UP
PartitionName=urgent Nodes={host} MaxTime=INFINITE PriorityTier=2 State=UP
"""
"""A cluster of one node with four GPUs that are none; jobs in `urgent` pre-empt those in `study`.

A job that is pre-empted waits for `cred_expire` before it starts again, 120 seconds by default.
"""

START = """
set -e
cd {folder}
mount --bind {folder}/etc /etc/slurm
mount -t proc proc /proc
munged --key-file {folder}/munge.key --socket {folder}/munge.socket --pid-file {folder}/munge.pid \\
  --log-file {folder}/munge.log --seed-file {folder}/munge.seed
slurmctld -c
slurmd
touch {folder}/started
exec sleep infinity
"""


class Cluster:
    """A running cluster; its commands are those of its namespace."""

    def __init__(self, folder: Path, first: int) -> None:
        self.folder = folder
        self._enter = ["nsenter", f"--target={first}", "--mount", "--pid"]

    def command(self, folder, *words):
        """Return a command as it is typed on the cluster in a folder."""
        return [*self._enter, f"--wd={folder}", *words]

    def start(self, folder, *words, **variables):
        """Start a command in a folder; its two outputs are one."""
        return engines.start(self.command(folder, *words), folder, variables)

    def run(self, folder, *words, **variables):
        """Run a command that must succeed; return what it printed."""
        return engines.run(folder, *self.command(folder, *words), **variables)

    def jobs(self, comment=""):
        """Return number and state of each job, in order, whose comment is what Snakemake writes for `comment`."""
        listed = self.run(self.folder, "squeue", "--all", "--noheader", "--format=%i %T %k", "--states=all", "--sort=i")
        found = (line.split(maxsplit=2) for line in listed.splitlines())
        return [(number, state) for number, state, said in found if said.startswith(comment)]


@contextlib.contextmanager
def cluster():
    """Start a cluster, and stop it; skip the test where that cannot be."""
    if os.geteuid():
        lacks("only root can start a cluster in namespaces of its own")
    needs(*DAEMONS)
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o755)  # munge wants its socket to be reached by all, which pytest's folders are not
    for name in ("etc", "state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    text = SLURM_CONF.format(host=host, ports=_ports(2), folder=folder)
    (folder / "etc" / "slurm.conf").write_text(text)
    gres = "".join(f"Name=gpu File=/dev/{name}\n" for name in ("null", "zero", "full", "random"))
    (folder / "etc" / "gres.conf").write_text(gres)
    with (folder / "start.log").open("w") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", START.format(folder=folder)],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield _ready(folder, process)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)  # a daemon that ends may still write


def _ready(folder, process):
    """Wait until the node is idle."""
    until = time.monotonic() + 30
    said = ""
    while time.monotonic() < until and process.poll() is None:
        if (folder / "started").exists():
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            made = Cluster(folder, int(children[0]))
            found = subprocess.run(
                made.command(folder, "sinfo", "--noheader", "--format=%T"), capture_output=True, text=True, check=False
            )
            said = found.stdout + found.stderr
            if set(found.stdout.split()) == {"idle"}:
                return made
        time.sleep(0.1)
    logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
    raise AssertionError(f"the cluster did not start: {said}\n{logs}")


def _ports(number):
    """Return free ports of the loopback interface."""
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]

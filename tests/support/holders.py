"""Code of processes that hold a lock in their folder, say `held`, and release it when their input ends."""

ENGINE = """
import sys
from vanishing.engines import lock
lock.take(["/somewhere/bin/snakemake", "--cores", "2"])
print("held", flush=True)
sys.stdin.read()
"""

DVC = """
import os, sys
from dvc.fs import localfs
from dvc.rwlock import rwlock
written = [os.path.abspath(name) for name in ("results", "checkpoints")]
with rwlock(".dvc/tmp", localfs, "dvc repro", [], written, hardlink=False):
    print("held", flush=True)
    sys.stdin.read()
"""

DVC_BETWEEN_STAGES = """
import sys
from dvc.lock import make_lock
with make_lock(".dvc/tmp/lock", tmp_dir=".dvc/tmp"):
    print("held", flush=True)
    sys.stdin.read()
"""

TRAINING = """
import sys
from vanishing import locks, paths
with locks.hold(paths.LOCKS / "vgg08-seed0.lock", command="vanishing train vgg08"):
    print("held", flush=True)
    sys.stdin.read()
"""

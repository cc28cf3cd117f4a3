"""A SLURM of one node on this machine, for tests: munged, slurmctld and slurmd in a temporary folder, on free ports.

Debian's packages are slurm-wlm and munge (tried: 22.05.8). Nothing of an installed cluster is used or changed.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ["munged", "munge", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel"]
CONFIG = """\
ClusterName=llmc
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=100000
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
ReturnToService=2
KillWait=30
MinJobAge=600
SlurmctldTimeout=30
SlurmdTimeout=30
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class CannotStart(Exception):
    """Why there is no cluster on this machine."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """Started by the constructor; `close` ends it. CannotStart with the reason."""

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.folder, self.daemons = folder, []
        sbin = os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin"
        missing = [name for name in PROGRAMS if shutil.which(name, path=sbin) is None]
        if missing:
            raise CannotStart(f"{missing[0]} is missing: apt-get install slurm-wlm munge")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        self.env |= {"PATH": sbin, "SLURM_CONF": f"{folder}/slurm.conf"}
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(parents=True, mode=0o755)
        text = CONFIG.format(
            host=socket.gethostname().partition(".")[0],
            ctld=free_port(),
            slurmd=free_port(),
            user=getpass.getuser(),
            folder=folder,
            cpus=max(cpus, os.cpu_count() or 1),
        )
        (folder / "slurm.conf").write_text(text)
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        munge = [f"--{name}={folder}/munge/{value}" for name, value in
                 [("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"),
                  ("seed-file", "seed")]]  # fmt: skip
        try:
            self.start("munged", "--foreground", "--force", *munge)
            self.until(lambda: (folder / "munge" / "socket").exists(), "munged made no socket")
            self.start("slurmctld", "-D", "-c")
            self.start("slurmd", "-D", "-c")
            self.until(lambda: "idle" in self.call("sinfo", "-h", "-o", "%T", check=False), "the node is not idle")
        except BaseException:
            self.close()
            raise

    def start(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}.out", "wb") as out:
            process = subprocess.Popen(command, env=self.env, stdout=out, stderr=out, start_new_session=True)
        self.daemons.append((command[0], process))

    def until(self, ready, what: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            for name, process in self.daemons:
                if process.poll() is not None:
                    lines = (self.folder / f"{name}.out").read_text(errors="replace").splitlines()
                    raise CannotStart(f"{name} ended with exit code {process.returncode}: {' '.join(lines[-1:])}")
            if time.monotonic() > deadline:
                raise CannotStart(f"{what} after {seconds:.0f} seconds")
            time.sleep(0.2)

    def call(self, *command: object, check: bool = True, **kwargs) -> str:
        done = subprocess.run(
            list(map(str, command)), env=self.env | kwargs.pop("env", {}), capture_output=True, text=True, timeout=60,
            check=False, **kwargs,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout if done.returncode == 0 else done.stdout + done.stderr

    def submit(self, *arguments: object, **kwargs) -> str:
        """The number of the job."""
        return self.call("sbatch", "--parsable", *arguments, **kwargs).strip()

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says of a job, or of a task of an array (12_3)."""
        words = self.call("scontrol", "-o", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, number: str) -> str:
        return self.job(number)["JobState"]

    def ended(self, number: str) -> bool:
        return self.state(number) not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")

    def close(self) -> None:
        if len(self.daemons) == 3:
            self.call("scancel", "--signal=KILL", "-f", "--user", getpass.getuser(), check=False)
        for _, process in reversed(self.daemons):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

"""Two hosts on this machine: network namespaces with a link between them whose rate is limited. Needs root."""

import os
import subprocess
import time
from contextlib import contextmanager

import pytest
import ranks
from program import BINARY, last_wins

ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2"}  # of hosts llmc-a and llmc-b, on interfaces veth-a and veth-b


def ip(words, check=True):
    return subprocess.run(["ip", *words.split()], check=check, capture_output=True, text=True)


@contextmanager
def two_hosts(rate="1gbit"):
    try:
        remove()
        for name in ADDRESSES:
            ip(f"netns add llmc-{name}")
        ip("link add veth-a netns llmc-a type veth peer name veth-b netns llmc-b")
        for name, address in ADDRESSES.items():
            ip(f"-n llmc-{name} addr add {address}/24 dev veth-{name}")
            ip(f"-n llmc-{name} link set veth-{name} up")
            ip(f"-n llmc-{name} link set lo up")
            set_rate(name, rate, "add")
        wait_until_up()
    except (OSError, subprocess.CalledProcessError) as error:
        remove()
        pytest.skip(f"no network namespaces here (root, iproute2): {getattr(error, 'stderr', '') or error}")
    try:
        yield
    finally:
        remove()


def wait_until_up(seconds=10):
    """The kernel tells programs once a second that a link has come up; UCX takes no other."""
    deadline = time.monotonic() + seconds
    while any("state UP" not in ip(f"-n llmc-{name} link show veth-{name}").stdout for name in ADDRESSES):
        assert time.monotonic() < deadline, "the link between the namespaces does not come up"
        time.sleep(0.05)


def remove():
    for name in ADDRESSES:
        subprocess.run(["ip", "netns", "del", f"llmc-{name}"], check=False, capture_output=True)


def set_rate(name, rate, verb="replace"):
    """Of what the host sends."""
    words = f"-n llmc-{name} qdisc {verb} dev veth-{name} root tbf rate {rate} burst 64kb latency 20ms"
    subprocess.run(["tc", *words.split()], check=True, capture_output=True, text=True)


def start(*arguments):
    """One rank on each host."""
    ranks.need("options")
    processes = []
    for rank, name in enumerate(ADDRESSES):
        own = ["--rank", rank, "--world-size", 2, "--master", f"{ADDRESSES['a']}:{29400}"]
        words = [str(word) for word in [BINARY, *last_wins([*arguments, *own])]]
        # a host name of its own: MPICH takes processes with equal names for neighbours that share memory
        command = ["ip", "netns", "exec", f"llmc-{name}", "unshare", "--uts", "sh", "-c"]
        command += [f'hostname host-{name}; exec "$@"', "sh", *words]
        environment = os.environ | {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": f"veth-{name}"}
        processes.append(
            subprocess.Popen(
                command, env=environment, text=True, errors="replace", start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
    return processes

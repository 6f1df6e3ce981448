"""The firewall's own process: `python -m bench.rig.namespaces IDLE_S NAME`.

It makes three network namespaces, of the client, the firewall and the server, joined by two pairs
of virtual wires, and sets the rules of the middle one. None of them has a name: they are there for
as long as this process, and whoever was let into one, and with them goes all that is in them. An
ordinary user needs a user namespace around them, and so does a container's root.

A socket belongs to the namespace in which it was made, whoever uses it. So others come through by
sockets from here, handed out at the abstract address NAME: a byte says which (`CLIENT`, `SERVER`),
or asks for the server's namespaces themselves (`INSIDE`). Only this user is served.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import selectors
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.rig import host

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PEER_CREDENTIALS = struct.Struct("3i")
SO_PEERCRED = 17
CLIENT, SERVER, INSIDE = b"c", b"s", b"n"
SOCKETS_A_TIME = 32
# Of the range set aside for benchmarks (RFC 2544): no network that this machine knows.
CLIENT_ADDRESS, CLIENT_SIDE = "198.18.0.2", "198.18.0.1"
SERVER_ADDRESS, SERVER_SIDE = "198.19.0.2", "198.19.0.1"
PREFIX = 24
LEAST_ENTRIES = 12_000  # connections known at once
UNPRIVILEGED = "BENCH_UNPRIVILEGED"  # set: a user namespace for root, too
NO_TOOL = "{} is not installed; on Debian: apt install {}"
TOOLS = {"ip": "iproute2", "nft": "nftables"}
REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS)  # the latter two: none allowed
ALLOW = (
    "namespaces are refused: run it as root, or allow them to users (sysctl: "
    "user.max_user_namespaces, user.max_net_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns)"
)


def tool(name: str) -> str | None:
    """The program of that name; Debian's are not on the PATH of most users."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


class Namespaces:
    """All three, by their descriptors; the process is in one of them at a time."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.user: int | None = None
        if os.environ.get(UNPRIVILEGED) or not self._may_make():
            self._enter_user()
        self.client, self.firewall, self.server = (self._made() for _ in range(3))

    def _may_make(self) -> bool:
        try:
            self._call("unshare", CLONE_NEWNET)
        except PermissionError:
            return False
        return True

    def _enter_user(self) -> None:
        """In it this user may do all, to its own namespaces."""
        uid, gid = os.geteuid(), os.getegid()
        self._call("unshare", CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        self.user = os.open("/proc/self/ns/user", os.O_RDONLY)

    def _made(self) -> int:
        self._call("unshare", CLONE_NEWNET)
        return os.open("/proc/self/ns/net", os.O_RDONLY)

    @contextlib.contextmanager
    def inside(self, namespace: int) -> Iterator[None]:
        """This process is in that one meanwhile, and so is what it starts; then in the client's."""
        self._call("setns", namespace, 0)
        try:
            yield
        finally:
            self._call("setns", self.client, 0)

    def _call(self, name: str, *args: int) -> None:
        if getattr(self._libc, name)(*args):
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")


def run(name: str, *words: str, **how: Any) -> None:
    """Raises OSError with what the program said."""
    found = tool(name)
    if found is None:
        raise OSError(NO_TOOL.format(name, TOOLS[name]))
    done = subprocess.run([found, *words], capture_output=True, text=True, **how)
    if done.returncode:
        raise OSError(f"{name} {' '.join(words)}: {done.stderr.strip()}")


def wire(spaces: Namespaces, own: str, space: int, addresses: tuple[str, str]) -> None:
    """A pair of virtual wires between the firewall and that namespace, with its two addresses."""
    other = f"{own}e"
    with spaces.inside(spaces.firewall):
        run("ip", "link", "add", own, "type", "veth", "peer", "name", other)
        run("ip", "link", "set", other, "netns", f"/proc/self/fd/{space}", pass_fds=(space,))
        _bring_up(own, addresses[0])
    with spaces.inside(space):
        _bring_up(other, addresses[1])
        run("ip", "link", "set", "lo", "up")
        run("ip", "route", "add", "default", "via", addresses[0])


def _bring_up(device: str, address: str) -> None:
    run("ip", "addr", "add", f"{address}/{PREFIX}", "dev", device)
    run("ip", "link", "set", device, "up")


def forbid_all_but_the_known(spaces: Namespaces, idle_s: int) -> None:
    """A stateful firewall that forgets what was idle for `idle_s`, and takes up nothing in its
    midst: what comes then is dropped without a word. Only the client's side may begin."""
    rules = f"""
        table ip bench{os.getpid()} {{
            chain forward {{
                type filter hook forward priority 0; policy drop;
                ct state established accept
                oifname {device("s")} ct state new tcp flags & (fin | syn | rst | ack) == syn accept
            }}
        }}
    """
    with spaces.inside(spaces.firewall):
        run("nft", "-f", "-", input=rules)
        _set("ipv4/ip_forward", 1)
        _set("netfilter/nf_conntrack_tcp_timeout_established", idle_s)
        _set("netfilter/nf_conntrack_tcp_loose", 0)
        _set("netfilter/nf_conntrack_tcp_be_liberal", 0)
        require_room()


def device(side: str) -> str:
    """The firewall's wire to that side; no longer than the kernel's 15 letters with an "e" more."""
    return f"bench{side}{os.getpid()}"


def require_room() -> None:
    """Raises OSError where the table is small: what is dropped is to be what was idle. It is the
    machine's limit for each namespace, which nobody can raise from inside one."""
    most = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    if most < LEAST_ENTRIES:
        raise OSError(
            f"it would know {most} connections at most and {LEAST_ENTRIES} are needed; "
            f"raise that with: sudo sysctl net.netfilter.nf_conntrack_max={LEAST_ENTRIES}"
        )


def _set(name: str, value: int) -> None:
    try:
        Path("/proc/sys/net", name).write_text(str(value))
    except OSError as failure:
        raise OSError(failure.errno, f"{name} = {value}: {failure.strerror}") from None


def why(failure: OSError) -> str:
    """What was refused, and how to mend it."""
    said = failure.strerror or str(failure)
    return f"{ALLOW} ({said})" if failure.errno in REFUSED else said


class Gate:
    """Hands out sockets and answers the parent; `serve` returns when that is gone."""

    def __init__(self, spaces: Namespaces, listener: socket.socket) -> None:
        self._spaces = spaces
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ, self._answer)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._serving = True

    def serve(self) -> None:
        while self._serving:
            for key, _ in self._selector.select():
                key.data(key.fileobj)

    def _answer(self, _: Any) -> None:
        requests = os.read(0, 65_536)
        self._serving = bool(requests)
        for request in requests.splitlines():
            os.write(1, host.answer(request, {"entries": self.entries}))

    def entries(self) -> dict[str, Any]:
        """How many connections the firewall knows."""
        with self._spaces.inside(self._spaces.firewall):
            count = Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text()
        return {"entries": int(count)}

    def _accept(self, _: Any) -> None:
        caller, _ = self._listener.accept()
        told = caller.getsockopt(socket.SOL_SOCKET, SO_PEERCRED, PEER_CREDENTIALS.size)
        _pid, uid, _gid = PEER_CREDENTIALS.unpack(told)
        if uid != os.geteuid():
            caller.close()
            return
        self._selector.register(caller, selectors.EVENT_READ, self._hand_out)

    def _hand_out(self, caller: Any) -> None:
        with contextlib.suppress(OSError):  # it left: that is its end
            if asked := caller.recv(1):
                self._give(caller, asked)
                return
        self._selector.unregister(caller)
        caller.close()

    def _give(self, caller: socket.socket, asked: bytes) -> None:
        if asked == INSIDE:
            user = [] if self._spaces.user is None else [self._spaces.user]
            socket.send_fds(caller, [asked], [*user, self._spaces.server])
            return
        space = self._spaces.client if asked == CLIENT else self._spaces.server
        with contextlib.ExitStack() as stack:
            with self._spaces.inside(space):
                made = [stack.enter_context(socket.socket()) for _ in range(SOCKETS_A_TIME)]
            socket.send_fds(caller, [asked], [each.fileno() for each in made])


def main() -> None:
    idle_s, name = sys.argv[1:]
    # Before all: an abstract address is known in the namespace in which it was taken.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        try:
            spaces = Namespaces()
            wire(spaces, device("c"), spaces.client, (CLIENT_SIDE, CLIENT_ADDRESS))
            wire(spaces, device("s"), spaces.server, (SERVER_SIDE, SERVER_ADDRESS))
            forbid_all_but_the_known(spaces, int(idle_s))
        except OSError as failure:
            sys.exit(why(failure))
        Gate(spaces, listener).serve()


if __name__ == "__main__":
    main()

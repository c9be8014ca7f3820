"""What Windows lacks; CI runs on Linux alone, so this reads the code instead."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

from files.checksums import verify_checksums
from tests.repository import REPOSITORY, repository_files

# Modules of the standard library that Windows lacks (https://docs.python.org/3/library/unix.html and each page's
# "Availability"), and names that `os` and `signal` lack there.
UNIX_MODULES = {
    *("crypt", "curses", "fcntl", "grp", "nis", "ossaudiodev", "posix", "pty"),
    *("pwd", "readline", "resource", "spwd", "syslog", "termios", "tty"),
}
UNIX_NAMES = {
    "os": """
        O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK WNOHANG chown fchmod fork forkpty getegid geteuid getgid getgroups
        getloadavg getpgid getpgrp getpriority getsid getuid killpg lchown mkfifo nice openpty pread pwrite
        sched_getaffinity sched_setaffinity sched_yield sendfile setpgid setpriority setsid setuid statvfs sync sysconf
        uname wait wait3 wait4 waitid
    """,
    "signal": """
        SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 alarm pause pthread_kill
        pthread_sigmask setitimer sigwait siginterrupt
    """,
}
# Windows forbids these in a file's name, and these names with any ending.
FORBIDDEN = re.compile(r'[<>:"|?*\\]|[ .](/|$)|(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)', re.IGNORECASE)

MODULES = [path for path in repository_files() if path.suffix == ".py" and path.parts[0] != "tests"]


def unix_only(source: str) -> list[str]:
    """What a module needs of Unix: imports at module level, and names of `os` and `signal` anywhere.

    It does not see ``getattr(os, "sysconf", None)`` or an import inside a function: code that knows is written so.
    """
    tree, found = ast.parse(source), []
    for node in _at_module_level(tree):
        if isinstance(node, ast.Import):
            found += [f"import {alias.name}" for alias in node.names if alias.name.partition(".")[0] in UNIX_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module in UNIX_MODULES:
            found.append(f"import {node.module}")
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names if _is_unix(node.module, alias.name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and _is_unix(node.value.id, node.attr):
            found.append(f"{node.value.id}.{node.attr}")
    return found


def _is_unix(module: str | None, name: str) -> bool:
    return name in UNIX_NAMES.get(module or "", "").split()


def _at_module_level(node: ast.AST) -> list[ast.AST]:
    """All nodes that importing the module runs: those within functions are left out, those within classes are not."""
    children = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.FunctionDef)]
    return [node, *(deeper for child in children for deeper in _at_module_level(child))]


def test_importing_a_module_needs_nothing_that_windows_lacks() -> None:
    found = {str(module): unix_only((REPOSITORY / module).read_text(encoding="utf-8")) for module in MODULES}
    assert len(found) > 80
    assert {module: names for module, names in found.items() if names} == {}


def test_the_search_finds_what_it_should() -> None:
    assert unix_only("import os, resource") == ["import resource"]
    assert unix_only("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None") == ["import fcntl"]
    assert unix_only("class A:\n    from pwd import getpwnam") == ["import pwd"]
    assert unix_only("from signal import SIGHUP, SIGINT") == ["signal.SIGHUP"]
    assert unix_only("import signal\nSIGNALS = (signal.SIGINT, signal.SIGUSR1)") == ["signal.SIGUSR1"]
    assert unix_only("def memory():\n    return os.sysconf('SC_PAGE_SIZE')") == ["os.sysconf"]
    assert unix_only("def memory():\n    import resource\n    return getattr(os, 'sysconf', None)") == []


def test_windows_can_write_every_file_of_the_repository() -> None:
    files = [path.as_posix() for path in repository_files()]
    assert [name for name in files if FORBIDDEN.search(name)] == []
    assert len({name.lower() for name in files}) == len(files)  # it doesn't tell A from a
    assert FORBIDDEN.search("a/aux.py") and FORBIDDEN.search("12:00.png") and not FORBIDDEN.search(".ci/run")


def test_a_checkout_has_the_bytes_of_the_repository_whatever_autocrlf_says(tmp_path: Path) -> None:
    repository_files()  # skips where there is no clone
    command = ["git", "-c", "core.autocrlf=true", "checkout-index", "--all", f"--prefix={tmp_path.as_posix()}/"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 200
    text = [path for path in written if path.suffix not in (".safetensors", ".png")]
    assert [path for path in text if b"\r\n" in path.read_bytes()] == []
    for folder in ("mini", "judge"):
        verify_checksums(tmp_path / "priors" / folder)

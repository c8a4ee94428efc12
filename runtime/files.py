"""Whole-file reads and atomic writes, which never leave half a file behind."""

import contextlib
import fcntl
import hashlib
import os
import tempfile

from runtime.errors import InputError


def read_bytes(path):
    """The bytes of a file.

    Raises:
      InputError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError("{}: {}".format(path, error.strerror))


def write_bytes(path, content):
    """Writes bytes to a file, by `atomic_write`."""
    with atomic_write(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_write(path):
    """Opens a temporary file next to `path` for binary writing; renames it on success.

    A symbolic link stays one: what it leads to is replaced. What is no file, such as /dev/null or a
    pipe, is written to.

    Raises:
      InputError: `path` cannot be written.
    """
    target = os.path.realpath(path)
    if _is_special(target):
        try:
            with open(target, "wb") as file:
                yield file
        except OSError as error:
            raise _not_writable(path, error.strerror)
        return
    handle, temporary = _temporary_beside(target)
    os.close(handle)
    try:
        with open(temporary, "wb") as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError):
            raise _not_writable(path, error.strerror)
        raise


@contextlib.contextmanager
def locked(folder, busy=""):
    """Locks a folder against other processes that lock it too.

    Without effect on file systems that cannot lock folders, such as NFS.

    Args:
      folder: made if needed.
      busy: text for the error; "" to wait until the folder is free.

    Raises:
      InputError: `busy`, if another process has locked the folder.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # some network file systems lock no folders
            os.makedirs(folder, exist_ok=True)
            _lock(stack, folder, os.O_RDONLY, busy and "{}: {}".format(folder, busy))
        yield


@contextlib.contextmanager
def claimed(path):
    """Keeps a path from other processes that claim it too, while its content is computed.

    A locked file beside it, `.<name>.lock`, does so until this ends, or the process does. Without
    effect on file systems that cannot lock files, such as NFS.

    Raises:
      InputError: another process has claimed the path.
    """
    if _is_special(path):
        yield
        return
    folder, name = os.path.split(os.path.realpath(path))
    lock = os.path.join(folder, ".{}.lock".format(name))
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
            held, busy = False, "{}: another process is about to write it".format(path)
            while not held:  # again, if the process that had it has just deleted the file
                descriptor = _lock(stack, lock, os.O_RDWR | os.O_CREAT, busy)
                with contextlib.suppress(FileNotFoundError):
                    held = os.path.samestat(os.fstat(descriptor), os.stat(lock))
            stack.callback(_remove, lock)
        yield


def _lock(stack, path, mode, busy):
    """Opens and locks a file or folder until an `ExitStack` ends; returns its descriptor.

    Raises:
      InputError: `busy`, if another process has locked it; with "", this waits instead.
      OSError: it cannot be opened or locked.
    """
    descriptor = os.open(path, mode, 0o666)
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
    except BlockingIOError:
        raise InputError(busy)
    return descriptor


def check_writable(path):
    """Raises `InputError` unless a file can be written to `path`."""
    if os.path.isdir(path):
        raise _not_writable(path, "is a folder")
    if _is_special(path):
        if not os.access(path, os.W_OK):
            raise _not_writable(path, "no permission")
        return
    if len(os.fsencode(os.path.basename(path))) > 255:
        raise _not_writable(path, "file name too long")
    handle, temporary = _temporary_beside(os.path.realpath(path))
    os.close(handle)
    os.unlink(temporary)


def check_folder(path):
    """Raises `InputError` unless the folder can be written to, or made; makes nothing."""
    there = os.path.abspath(path)
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise _not_writable(path, "{} is no folder".format(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise _not_writable(path, "no permission to write to {}".format(there))


def _remove(path):
    with contextlib.suppress(OSError):
        os.unlink(path)


def _is_special(path):
    """Whether a path is that of something other than a file or a folder, such as a device."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def _not_writable(path, reason):
    return InputError("{}: cannot be written: {}".format(path, reason))


def _temporary_beside(path):
    """Makes the folder of `path` and a new file in it; returns its open descriptor and path."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        return tempfile.mkstemp(prefix=".", suffix=".part", dir=folder)
    except OSError as error:
        raise _not_writable(path, error.strerror)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def file_sha256(path):
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def pattern_hint(pattern):
    """What a message adds if no file matches a pattern: that [ has a meaning in it, if it has."""
    if "[" not in pattern or "[[]" in pattern:
        return ""
    line = " (a pattern, in which [ab] stands for a or b; write {!r} for the brackets themselves)"
    return line.format(pattern.replace("[", "[[]"))

"""Where files lie: a local path, or an address such as `s3://bucket/run` in an object store.

A local place is a `pathlib.Path`. An address, `scheme://...`, is an `Address` with the part of Path's interface that
is used here, so that the code beside this module reads and writes either. Addresses are opened by `pyarrow.fs` (s3,
gs, abfs, hdfs) or, where that does not know the scheme, by fsspec. Credentials come from the environment, never from
the address, which is written into results.

What is written is written whole or not at all: in an object store by one put, elsewhere into a file beside it, which
is then renamed. A symbolic link is followed, so that its target is replaced and not the link. What is no regular file
(a device, a FIFO, `/dev/stdout`, and `-` for standard output) is written through, since it cannot be replaced.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import posixpath
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from harness.common.errors import CannotEvaluateError, InputError, first_line

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

PARTIAL = ".partial"
WAITS = (0.5, 2.0, 8.0)  # seconds between attempts to read
WHOLE_PUTS = ("s3", "gcs", "abfs")  # stores in which a file appears when it is closed
REACHED_BY = ("region", "endpoint_override", "scheme")  # what a query may hold
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_STDOUT = 1
_MOST_LINKS = 40  # as the kernel follows, before it calls them a loop
_DESCRIPTOR = re.compile(r"(?:/dev/fd|/proc/(?P<process>self|\d+)/fd)/(?P<number>\d+)")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://([^/?]*)([^?]*)(\?.*)?", re.DOTALL)


@dataclass(frozen=True, order=True)
class Address:
    """A file or folder behind `scheme://`.

    root: scheme and what stands behind it up to the first slash, the bucket for example; path: the rest, without
    slashes at its ends; query: how the store is reached, such as `?region=eu-west-1`
    """

    root: str
    path: str
    query: str = ""

    def __str__(self) -> str:
        return (f"{self.root}/{self.path}" if self.path else self.root) + self.query

    def __truediv__(self, inner: str | Path | Address) -> Address:
        if isinstance(inner, Address):
            return inner
        return Address(self.root, _normal(f"{self.path}/{inner}"), self.query)

    def __rtruediv__(self, _: Path) -> Address:
        """An address is absolute: relative to a folder it is itself."""
        return self

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.path).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    @property
    def parent(self) -> Address:
        return Address(self.root, self.path.rpartition("/")[0], self.query)

    def with_name(self, name: str) -> Address:
        """The neighbour of that name."""
        return self.parent / name

    def resolve(self) -> Address:
        """Itself; an address is absolute."""
        return self

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        """True for a folder; an object store has one as long as something lies in it."""
        return self._info().type.name == "Directory"

    def iterdir(self) -> Iterator[Address]:
        """What lies in the folder, nothing where it is not there."""
        from pyarrow.fs import FileSelector

        with self._named() as (system, path):
            found = system.get_file_info(FileSelector(path, allow_not_found=True))
        return iter([self / info.base_name for info in found])

    def read_bytes(self) -> bytes:
        """The whole content; raises OSError with the address."""
        with self._named() as (system, path), system.open_input_stream(path) as stream:
            return stream.read()

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole content as text; raises OSError with the address."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes | memoryview) -> None:
        """Put the content there, whole."""
        with self._named() as (system, path):
            first = path if system.type_name in WHOLE_PUTS else path + PARTIAL
            with system.open_output_stream(first) as stream:
                stream.write(content)
            if first != path:
                system.move(first, path)

    def open(self, mode: str = "r", encoding: str | None = None, newline: str | None = None) -> Any:
        """The content, read already, as a binary ("rb") or text stream."""
        content = io.BytesIO(self.read_bytes())
        return content if "b" in mode else io.TextIOWrapper(content, encoding=encoding, newline=newline)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing in an object store, where a folder is a common beginning of names; elsewhere the folder."""
        del parents, exist_ok
        with self._named() as (system, path):
            system.create_dir(path, recursive=True)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        if missing_ok and not self.is_file():
            return
        with self._named() as (system, path):
            system.delete_file(path)

    def rmtree(self) -> None:
        """Remove the folder and all that lies in it, if it is there."""
        with self._named() as (system, path):
            system.delete_dir_contents(path, missing_dir_ok=True)
            if self.is_dir():  # an object store may keep a marker of the folder
                system.delete_dir(path)

    def _info(self) -> Any:
        with self._named() as (system, path):
            return system.get_file_info([path])[0]

    @contextmanager
    def _named(self) -> Iterator[tuple[FileSystem, str]]:
        """The file system and the path in it; errors get a number, one line of text, and the address."""
        try:
            system, base = _opened(self.root, self.query)
            yield system, "/".join(filter(None, [base.rstrip("/"), self.path]))
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(self)) from None
        except OSError as error:
            raise OSError(error.errno or errno.EIO, first_line(error), str(self)) from error


Location = Path | Address
Found = TypeVar("Found")


def as_location(where: str | os.PathLike[str] | Address) -> Location:
    """What a user calls a file or folder, as a path or an address.

    :raises InputError: an address with a password, another query than REACHED_BY, or no bucket.
    """
    if isinstance(where, Address):
        return where
    if "\0" in os.fspath(where):
        raise InputError(f"{os.fspath(where)!r}: holds a null character, which no file's name can; correct the name")
    found = _ADDRESS.fullmatch(os.fspath(where))
    if found is None:
        return Path(where)
    scheme, authority, path, query = found.groups()
    if scheme.lower() == "file":
        return Path(path)
    if ":" in authority.rpartition("@")[0]:
        raise InputError(f"{scheme}://...: holds a password, and addresses are written into results; leave it to the "
                         "environment (AWS_ACCESS_KEY_ID, for example)")  # fmt: skip
    if not authority:
        raise InputError(f"{where}: names no bucket; write {scheme}://BUCKET/FOLDER")
    _require_no_secret(f"{scheme}://{authority}", query or "")
    return Address(f"{scheme}://{authority}", _normal(path), query or "")


def _normal(path: str) -> str:
    """A path without slashes at its ends, `.` and `..`: to an object store these would be names like any other."""
    return posixpath.normpath(f"/{path.strip('/')}").strip("/")


def _require_no_secret(root: str, query: str) -> None:
    """Refuse what else may stand in a query, keys and tokens for example, without repeating its value."""
    for part in filter(None, query[1:].split("&")):
        name = part.partition("=")[0]
        if name not in REACHED_BY:
            raise InputError(
                f"{root}?{name}=...: an address may hold {', '.join(REACHED_BY)} only, since it is written into "
                "results; leave the rest to the environment (AWS_SECRET_ACCESS_KEY, for example)"
            )


_KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_plain_file(where: Location, most_bytes: int | None = None) -> None:
    """Refuse what reading would wait for or never come to an end of: a FIFO, a device, a socket, a vast file.

    A folder passes; opening it fails by itself. Links are followed.

    :param most_bytes: the largest size that is read.
    :raises InputError: names the kind, or the size.
    :raises OSError: of `stat`, such as FileNotFoundError.
    """
    if isinstance(where, Address):
        return
    found = where.stat()
    kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), None)
    if kind is not None:
        raise InputError(f"{where}: is {kind}, not a plain file; give a file, or remove it from the list")
    if most_bytes is not None and found.st_size > most_bytes:
        raise InputError(f"{where}: has {found.st_size >> 20} MiB, more than the {most_bytes >> 20} MiB that are read")


def home_folder() -> Path | None:
    """The user's home folder; None where there is none, or where it is the root of the file system."""
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and a user that the system does not know
        return None
    return None if home == Path(home.anchor) else home


def relative_path(start: Path, end: Path) -> Path:
    """The relative path from one folder to another that keeps the most links and arrives, so that both can be moved.

    A path written without looking at the file system may not arrive: `..` behind a link is the parent of its target.
    """
    for origin in (start, start.resolve()):
        found = Path(os.path.relpath(end, origin))
        if (start / found).resolve() == end.resolve():
            return found
    return Path(os.path.relpath(end.resolve(), start.resolve()))


def with_retries(where: Location, read: Callable[[], Found]) -> Found:
    """What `read` finds; where the store fails for a moment, it is asked again after each of WAITS.

    :raises OSError: of LASTING, which say that the file is missing or forbidden: asking again is no use.
    :raises CannotEvaluateError: any other failure that does not pass. It says nothing about the file.
    """
    for wait in (*WAITS, None):
        try:
            return read()
        except LASTING:
            raise
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):  # Python has no class of its own for them
                raise NotADirectoryError(error.errno, error.strerror, str(where)) from None
            if wait is None:
                raise CannotEvaluateError(
                    f"{where}: could not be read in {len(WAITS) + 1} attempts ({error.strerror or first_line(error)}); "
                    "when the storage answers again, run the same command with --resume (without, if it did not get "
                    "as far as explaining images)"
                ) from error
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def read_at_most(where: Location, most: int) -> bytes:
    """The bytes of a file that is read into memory as a whole.

    A pipe that this process has open already (`/dev/stdin`, a shell's `<(command)`) is read, too.

    :raises InputError: no plain file, or one of more than `most` bytes.
    :raises OSError: as `open` does.
    """
    if isinstance(where, Path) and _descriptor_of(where) is None:
        require_plain_file(where)
    with where.open("rb") as stream:
        content: bytes = stream.read(most + 1)
    if len(content) > most:
        raise InputError(f"{where}: holds more than {most / 2**20:.0f} MB, which is more than such a file can need")
    return content


_writer = ""


def set_writer_name(name: str) -> None:
    """Name this process as a writer, where it is not the only one that may be writing the same file."""
    global _writer
    _writer = f".{name}"


def write_bytes(where: Location, content: bytes | memoryview) -> None:
    """Write a file so that a reader never sees half of it; what is no regular file is written through.

    What a FIFO or a pipe holds when its reader goes is lost, without an error.

    :raises InputError: a folder, or an empty name.
    :raises OSError: naming `where`.
    """
    if isinstance(where, Address):
        where.write_bytes(content)
        return
    require_no_folder(where)
    try:
        descriptor = _descriptor_of(where)
        if descriptor is not None:
            _write_to_descriptor(descriptor, content)
        elif where.exists() and not where.is_file():
            where.write_bytes(content)
        else:
            _replace_file(where.resolve(), content)
    except BrokenPipeError:
        return  # the reader has gone, as in `run_command_line`
    except OSError as error:  # names the partial file, or nothing where the disk is full
        raise OSError(error.errno, error.strerror, str(where)) from error


@contextmanager
def replacing(where: Path) -> Iterator[Path]:
    """`write_bytes` for what a library writes to a path: yield one, of the same suffix, whose file goes to `where`.

    :raises InputError: a folder, or an empty name.
    :raises OSError: naming `where`, where writing fails; then the old file stays.
    """
    require_no_folder(where)
    if _descriptor_of(where) is not None or (where.exists() and not where.is_file()):
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder) / f"content{where.suffix}"
            yield partial
            write_bytes(where, partial.read_bytes())
        return
    target = where.resolve()
    try:
        with _beside(target, f"{PARTIAL}{_writer}-{target.name}") as partial:
            yield partial
    except OSError as error:
        if error.filename not in (None, str(partial)):
            raise
        raise OSError(error.errno, error.strerror, str(where)) from error


def require_no_folder(where: Path) -> None:
    """Refuse to write a file where a folder is, before any work is done for it.

    :raises InputError: a folder, or an empty name.
    """
    if where.is_dir():
        raise InputError(f"{where}: is a folder (as an empty name is); name the file to write")


def is_standard_output(where: Location | None) -> bool:
    """True where what is written to `where` appears between the lines that a program prints."""
    return isinstance(where, Path) and _descriptor_of(where) == _STDOUT


def _descriptor_of(where: Path) -> int | None:
    """The open file descriptor of this process that a path names, as `/dev/stdout` does, also through links.

    It is written to as it stands: to open it anew would cut off what a shell's `> file` has already received, and to
    replace its file would lose what comes later.
    """
    if str(where) == "-":
        return _STDOUT
    for _ in range(_MOST_LINKS):
        found = _DESCRIPTOR.fullmatch(str(where.parent.resolve() / where.name))
        if found:
            return int(found["number"]) if found["process"] in (None, "self", str(os.getpid())) else None
        if not where.is_symlink():
            return None
        where = where.parent / where.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(where))


def _write_to_descriptor(descriptor: int, content: bytes | memoryview) -> None:
    stream = {_STDOUT: sys.stdout, 2: sys.stderr}.get(descriptor)
    if stream is not None and hasattr(stream, "buffer"):  # in the order of what was printed before
        stream.flush()
        stream.buffer.write(content)
        stream.buffer.flush()
        return
    with os.fdopen(descriptor, "wb", closefd=False) as opened:
        opened.write(content)


def _replace_file(target: Path, content: bytes | memoryview) -> None:
    with _beside(target, f"{target.name}{_writer}{PARTIAL}") as partial:
        partial.write_bytes(content)


@contextmanager
def _beside(target: Path, name: str) -> Iterator[Path]:
    """A neighbour of that name to write to, which then takes the place of `target`, or is removed after an error."""
    partial = target.with_name(name)
    try:
        yield partial
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sweep(folder: Location, *suffixes: str) -> None:
    """Remove the files of a folder that end so."""
    files: list[Location] = [*folder.iterdir()]
    for file in files:
        if file.suffix in suffixes:
            file.unlink(missing_ok=True)


def remove_folder(where: Location) -> None:
    """Remove a folder and all that lies in it, if it is there."""
    if isinstance(where, Address):
        where.rmtree()
    else:
        shutil.rmtree(where, ignore_errors=True)


def copy_folder(source: Location, target: Location) -> None:
    """Copy the files of a folder, locally as links where the file system has them."""
    if isinstance(source, Path) and isinstance(target, Path):
        shutil.copytree(source, target, copy_function=_link)
        return
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        write_bytes(target / file.name, file.read_bytes())


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@functools.cache
def _opened(root: str, query: str) -> tuple[FileSystem, str]:
    """The file system of an address, and the path of its root in it."""
    from pyarrow import ArrowInvalid, ArrowNotImplementedError
    from pyarrow.fs import FileSystem

    try:
        return FileSystem.from_uri(root + query)
    except (ArrowInvalid, ArrowNotImplementedError) as error:
        if query:
            raise InputError(f"{root}{query}: not an address that can be opened ({first_line(error)})") from error
    return _by_fsspec(root)


def _by_fsspec(root: str) -> tuple[FileSystem, str]:
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    try:
        from fsspec.core import url_to_fs

        system, base = url_to_fs(root)
    except (ImportError, ValueError) as error:
        raise InputError(f"{root}: no file system is known for this address ({first_line(error)})") from error
    return PyFileSystem(FSSpecHandler(system)), base


def write_whole(path: Location, text: str) -> None:
    """Write a text file so that a reader never sees half of it."""
    write_bytes(path, f"{text}\n".encode())

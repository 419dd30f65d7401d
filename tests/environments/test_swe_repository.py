"""A repository is prepared once, unchanged, by whoever comes first, and nothing in an archive leads outside."""

from __future__ import annotations

import io
import multiprocessing
import os
import stat
import tarfile
from pathlib import Path

import pytest

from cascade.environments import swe_repository
from cascade.environments.patches import make_diff
from cascade.environments.swe_repository import Prepared, base_folder, prepare
from cascade.environments.swe_rows import SweTask
from cascade.errors import DataError
from cascade.sandbox.identity import outside_id
from tests.environments.small_repository import BAD, FILES, GOOD, SOURCE, small_task, write_repository


def archive(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as made:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                made.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
    return path


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def test_a_folder_and_an_archive_of_it_become_the_same_files(tmp_path: Path) -> None:
    write_repository(tmp_path / "repository")
    for left_out in (".git/HEAD", "basket/__pycache__/x.pyc"):
        (tmp_path / "repository" / left_out).parent.mkdir(parents=True)
        (tmp_path / "repository" / left_out).write_text("x")
    packed = archive(tmp_path / "b.tar.gz", {f"basket-1.0/{path}": text.encode() for path, text in FILES.items()})
    for source in (tmp_path / "repository", packed):
        found = Prepared(base_folder(source, tmp_path / "cache"))
        assert found.files() == sorted(FILES)
        assert all(found.read(path) == text.encode() for path, text in FILES.items())
        assert (found.folder / SOURCE).stat().st_uid == outside_id()
        assert stat.S_IMODE((found.folder / SOURCE).stat().st_mode) == 0o644


def test_setup_patch_is_applied_for_the_task_and_not_in_the_folder(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    found = prepare(task, tmp_path / "cache")
    assert found.read(SOURCE) == BAD.encode()
    assert (found.folder / SOURCE).read_bytes() == GOOD.encode()
    assert found.files() == sorted(FILES)
    again = prepare(task, tmp_path / "cache")
    assert again.folder == found.folder


def test_a_setup_patch_that_does_not_fit_is_the_rows_fault(tmp_path: Path) -> None:
    write_repository(tmp_path / "repository")
    broken = SweTask(
        instance_id="a",
        problem_statement="b",
        fail_to_pass=("c",),
        repository=str(tmp_path / "repository"),
        setup_patch=make_diff({SOURCE: b"something else\n"}, {SOURCE: b"x\n"}),
    )
    with pytest.raises(DataError, match="setup_patch"):
        prepare(broken, tmp_path / "cache")


@pytest.mark.parametrize(
    "members",
    [
        {"../evil.py": b"x"},
        {"a/../../evil.py": b"x"},
        {"/etc/evil.py": b"x"},
        {"a": special(tarfile.SYMTYPE, "/etc/passwd")},
        {"a": special(tarfile.SYMTYPE, "../../outside")},
        {"top/a": special(tarfile.SYMTYPE, "../beside")},
        {"a": special(tarfile.LNKTYPE, "/etc/passwd")},
        {"a": special(tarfile.FIFOTYPE)},
        {"a": special(tarfile.CHRTYPE)},
        {"a": special(tarfile.BLKTYPE)},
        {"d": special(tarfile.SYMTYPE, ".."), "d/evil.py": b"x"},
    ],
    ids=lambda members: next(iter(members)) + "-" + str(getattr(next(iter(members.values())), "type", "file")),
)
def test_an_archive_that_leads_outside_or_holds_devices_is_refused(
    tmp_path: Path, members: dict[str, bytes | tarfile.TarInfo]
) -> None:
    source = archive(tmp_path / "bad.tar.gz", members)
    with pytest.raises(DataError):
        base_folder(source, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "repositories").glob("[!.]*"))
    assert not list(tmp_path.rglob("evil.py"))


def test_a_folder_with_a_link_outside_or_a_pipe_is_refused(tmp_path: Path) -> None:
    write_repository(tmp_path / "one")
    (tmp_path / "one" / "link").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="leads outside"):
        base_folder(tmp_path / "one", tmp_path / "cache")
    write_repository(tmp_path / "two")
    os.mkfifo(tmp_path / "two" / "pipe")
    with pytest.raises(DataError, match="neither a file nor a link"):
        base_folder(tmp_path / "two", tmp_path / "cache")


def test_a_link_inside_stays_and_is_read_only_inside(tmp_path: Path) -> None:
    write_repository(tmp_path / "one")
    (tmp_path / "one" / "link.py").symlink_to(SOURCE)
    found = Prepared(base_folder(tmp_path / "one", tmp_path / "cache"))
    assert found.read("link.py") == GOOD.encode()
    assert found.read("../../../../etc/passwd") is None
    assert found.read("nothing.py") is None


def test_what_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swe_repository, "MAX_BYTES", 1000)
    source = archive(tmp_path / "large.tar.gz", {"a": bytes(600), "b": bytes(600)})
    with pytest.raises(DataError, match="more than"):
        base_folder(source, tmp_path / "cache")
    (tmp_path / "text.tar.gz").write_text("no archive")
    with pytest.raises(DataError, match="cannot be unpacked"):
        base_folder(tmp_path / "text.tar.gz", tmp_path / "cache")
    with pytest.raises(DataError, match="no repository at"):
        base_folder(tmp_path / "missing", tmp_path / "cache")


def _prepare(source: Path, cache: Path, made: multiprocessing.SimpleQueue[str]) -> None:
    made.put(str(base_folder(source, cache)))


def test_many_processes_at_once_make_one_folder(tmp_path: Path) -> None:
    files: dict[str, bytes | tarfile.TarInfo] = {f"p/m{number}.py": b"x = 1\n" * 50 for number in range(300)}
    source = archive(tmp_path / "p.tar.gz", files)
    context = multiprocessing.get_context("fork")
    made = context.SimpleQueue()
    workers = [context.Process(target=_prepare, args=(source, tmp_path / "cache", made)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 6
    assert len({made.get() for _ in workers}) == 1
    entries = [path for path in (tmp_path / "cache" / "repositories").iterdir() if path.is_dir()]
    assert len(entries) == 1
    assert len(list(entries[0].iterdir())) == 300

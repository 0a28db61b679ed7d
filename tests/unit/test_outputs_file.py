"""The file output: whole batches in files with whole names, whatever the disk says."""

import fcntl
import gzip
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from agent import _core
from agent.config import FileOutput
from agent.errors import OutputError
from agent.outputs import make
from agent.outputs.base import Kind, Payload, plain, snappy
from agent.outputs.bodies import as_samples
from tests.conftest import need, wait_until

NAME = re.compile(r"out-\d{8}T\d{6}\.\d{6}Z-\d{6}\.lp(\.gz)?")


def sink(folder, **settings):
    return make(FileOutput(name="out", path=str(folder), **settings))


def send(output, body):
    return output.post(output.encode(memoryview(body), body.count(b"\n")))


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    """Everything in the finished files, oldest first."""
    read = {".lp": lambda path: path.read_bytes(), ".gz": lambda path: gzip.decompress(path.read_bytes())}
    return b"".join(read[path.suffix](path) for path in sorted(folder.iterdir()) if path.suffix in read)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_batches_are_appended_and_appear_whole_when_the_file_is_finished(tmp_path, compression):
    output = sink(tmp_path, compression=compression)
    bodies = [b"m v=%di %d\n" % (n, n) * 50 for n in range(10)]
    sent = 0
    for body in bodies:
        payload = output.encode(memoryview(body), body.count(b"\n"))
        assert output.post(payload).kind is Kind.DELIVERED
        assert (payload.metrics, payload.raw_bytes) == (50, len(body)) and plain(payload) == body
        sent += len(payload.data)
    (part,) = listing(tmp_path)
    assert part.endswith(".part") and NAME.fullmatch(part.removesuffix(".part"))
    assert os.path.getsize(tmp_path / part) == sent
    output.close()
    assert listing(tmp_path) == [part.removesuffix(".part")]
    assert contents(tmp_path) == b"".join(bodies)
    assert output.target == str(tmp_path)
    output.close()


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("before", ["none", "gzip"])
def test_a_body_that_was_encoded_before_the_compression_changed_is_written_as_it_is_now(
    tmp_path, before, compression
):
    body = b"m v=1i 1\n" * 50
    payload = sink(tmp_path / "before", compression=before).encode(memoryview(body), 50)
    output = sink(tmp_path / "after", compression=compression)
    assert output.post(payload).kind is Kind.DELIVERED
    output.close()
    assert contents(tmp_path / "after") == body


def test_a_damaged_body_is_rejected(tmp_path):
    output = sink(tmp_path)
    verdict = output.post(Payload(b"no gzip", 3, 7, compression="gz"))
    assert verdict.kind is Kind.REJECT and "gzip" in verdict.text
    output.close()
    assert listing(tmp_path) == []


def test_nothing_written_is_no_file(tmp_path):
    output = sink(tmp_path / "new" / "folder")
    assert output.due() is None
    output.close()
    assert listing(tmp_path / "new" / "folder") == []


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_rotation_by_size(tmp_path, compression):
    output = sink(tmp_path, rotate_bytes=1024, compression=compression)
    bodies = [os.urandom(150).hex().encode() + b"\n" for _ in range(50)]
    for body in bodies:
        assert send(output, body).kind is Kind.DELIVERED
    output.close()
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert len(sizes) > 5 and max(sizes) <= 1024 and min(sizes[:-1]) > 500
    assert contents(tmp_path) == b"".join(bodies)
    assert all(NAME.fullmatch(name) for name in listing(tmp_path))


def test_a_batch_beyond_the_size_is_a_file_of_its_own(tmp_path):
    output = sink(tmp_path, rotate_bytes=1024)
    bodies = [b"a\n", b"b" * 5000 + b"\n", b"c\n"]
    for body in bodies:
        send(output, body)
    output.close()
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == bodies


def test_rotation_by_age_without_further_data(tmp_path):
    output = sink(tmp_path, rotate_interval=0.1)
    assert output.due() is None
    before = time.monotonic()
    send(output, b"a\n")
    due = output.due()
    assert before + 0.1 <= due <= time.monotonic() + 0.1
    output.tick()
    assert listing(tmp_path)[0].endswith(".part") or time.monotonic() >= due
    wait_until(lambda: time.monotonic() >= due)
    output.tick()
    assert output.due() is None and contents(tmp_path) == b"a\n"
    send(output, b"b\n")
    assert output.due() is not None
    output.close()
    assert contents(tmp_path) == b"a\nb\n" and len(listing(tmp_path)) == 2


def test_the_oldest_files_beyond_the_limit_are_removed_and_no_others(tmp_path):
    others = [
        "out-20200101T000000.000000Z-000001.lp.bak",
        "out-more-20200101T000000.000000Z-000001.lp",
        "other-20200101T000000.000000Z-000001.lp",
        "out.lp",
    ]
    for name in [*others, "out-20200101T000000.000000Z-000001.lp"]:
        (tmp_path / name).write_bytes(b"old\n")
    output = sink(tmp_path, rotate_bytes=1024, max_files=3)
    for n in range(8):
        send(output, b"%04d" % n * 300 + b"\n")
    output.close()
    kept = [name for name in listing(tmp_path) if name not in others]
    assert len(kept) == 3 and set(listing(tmp_path)) > set(others)
    assert [(tmp_path / name).read_bytes()[:4] for name in kept] == [b"0005", b"0006", b"0007"]


def test_all_files_are_kept_without_a_limit(tmp_path):
    output = sink(tmp_path, rotate_bytes=1024, max_files=0)
    for _ in range(150):
        send(output, b"x" * 2000 + b"\n")
    output.close()
    assert len(listing(tmp_path)) == 150


def test_a_file_of_a_dead_process_is_finished_and_one_of_a_living_is_not(tmp_path):
    dead = tmp_path / "out-20200101T000000.000000Z-000001.lp.part"
    dead.write_bytes(b"dead\n")
    living = tmp_path / "out-20200101T000000.000000Z-000002.lp.part"
    with living.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(b"alive\n")
        held.flush()
        sink(tmp_path).close()
        assert listing(tmp_path) == [dead.stem, living.name]
    foreign = tmp_path / "elsewhere-20200101T000000.000000Z-000002.lp.part"
    foreign.write_bytes(b"foreign\n")
    sink(tmp_path).close()
    assert listing(tmp_path) == [foreign.name, dead.stem, living.stem]


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("format", ["line", "protobuf"])
def test_what_a_killed_process_wrote_of_a_last_batch_is_cut_off(tmp_path, format, compression):
    """Wherever the write was cut: what is left is whole lines, messages or gzip members, and no less."""
    output = sink(tmp_path, format=format, compression=compression)
    ends = [0]
    for count in (3, 1, 400):
        body = memoryview(b"".join(b"m v=%d %d\n" % (n, n) for n in range(count)))
        output.post(
            as_samples(Payload(body, count, len(body), "lp"))
            if format == "protobuf"
            else output.encode(body, count)
        )
        (path,) = tmp_path.iterdir()
        ends.append(path.stat().st_size)
    output.close()
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    if format == "line" and compression == "none":
        ends = [0] + [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]
    part = path.with_name(path.name + ".part")
    for cut in [
        *range(0, ends[min(3, len(ends) - 1)] + 1, 1 if len(data) < 4000 else 7),
        *range(len(data) - 60, len(data) + 1),
    ]:
        path.unlink(missing_ok=True)
        part.write_bytes(data[:cut])
        sink(tmp_path, format=format, compression=compression).close()
        whole = data[: max(end for end in ends if end <= cut)]
        assert (path.read_bytes() if path.exists() else b"") == whole, cut
        assert path.exists() == bool(whole) and not part.exists()


def test_two_outputs_in_one_folder_do_not_meet(tmp_path):
    """As for a moment in a reload: the old one finishes its file while the new one has begun."""
    old, new = sink(tmp_path), sink(tmp_path)
    send(old, b"a\n")
    third = sink(tmp_path)
    send(new, b"b\n")
    send(old, b"c\n")
    for output in (old, new, third):
        output.close()
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"a\nc\n", b"b\n"]


def test_a_folder_that_is_gone_is_made_again(tmp_path):
    output = sink(tmp_path / "sub")
    send(output, b"a\n")
    output.close()
    (file,) = (tmp_path / "sub").iterdir()
    file.unlink()
    (tmp_path / "sub").rmdir()
    assert send(output, b"b\n").kind is Kind.DELIVERED
    output.close()
    assert contents(tmp_path / "sub") == b"b\n"


def test_a_folder_that_cannot_be_used_is_told_at_once(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot make the folder .*file/sub: Not a directory"):
        sink(tmp_path / "file" / "sub")
    with pytest.raises(OutputError, match=r"cannot make the folder .*file: File exists"):
        sink(tmp_path / "file")
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(OutputError, match="cannot write to the folder"):
            sink(tmp_path / "closed")


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a file system of 256 KiB."""
    need("root")
    mount = need("mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
    yield folder
    subprocess.run([need("umount"), folder], check=True)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_full_disk_is_retried_and_leaves_no_garbage(full_disk, compression):
    output = sink(full_disk, compression=compression)
    body = os.urandom(25_000).hex().encode() + b"\n"
    good = []
    while (verdict := send(output, body)).kind is Kind.DELIVERED:
        good.append(body)
    assert len(good) >= 4 and verdict.kind is Kind.RETRY and "No space left on device" in verdict.text
    (part,) = full_disk.iterdir()
    size = part.stat().st_size
    for _ in range(3):
        assert send(output, body).kind is Kind.RETRY
        assert part.stat().st_size == size
    small = b"x\n" if compression == "none" else None
    if small and size % 4096:
        assert send(output, small).kind is Kind.DELIVERED
        good.append(small)
    ballast = full_disk / "ballast"
    output.close()
    assert contents(full_disk) == b"".join(good)
    for path in full_disk.iterdir():
        path.unlink()
    assert send(output, body).kind is Kind.DELIVERED
    output.close()
    assert not ballast.exists() and contents(full_disk) == body


def test_a_limit_on_the_size_of_files_is_retried_and_leaves_no_garbage(tmp_path):
    """RLIMIT_FSIZE makes a write short before it makes it fail, and works without root."""
    code = f"""
import resource, signal, sys
from agent.config import FileOutput
from agent.outputs import make
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
output = make(FileOutput(name="out", path={str(tmp_path)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))
kinds = [output.post(output.encode(memoryview(b"%04d" % n * 250 + b"\\n"), 1)) for n in range(3)]
print([(verdict.kind.name, verdict.text.split(":")[0]) for verdict in kinds])
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))
output.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[('DELIVERED', ''), ('DELIVERED', ''), ('RETRY', 'File too large')]"
    assert contents(tmp_path) == b"0000" * 250 + b"\n" + b"0001" * 250 + b"\n"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2500 and signal.SIGXFSZ


def test_garbage_that_cannot_be_cut_off_is_written_over(tmp_path, monkeypatch):
    output = sink(tmp_path)
    send(output, b"a" * 10 + b"\n")
    write, cut = os.pwrite, os.ftruncate

    def half(fd, data, offset):
        if len(data) > 1:
            return write(fd, data[: len(data) // 2], offset)
        raise OSError(5, "Input/output error")

    def fail(fd, size):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pwrite", half)
    monkeypatch.setattr(os, "ftruncate", fail)
    verdict = send(output, b"b" * 100 + b"\n")
    assert verdict.kind is Kind.RETRY and verdict.text.startswith("Input/output error: ")
    monkeypatch.setattr(os, "pwrite", write)
    send(output, b"c" * 20 + b"\n")
    monkeypatch.setattr(os, "ftruncate", cut)
    output.close()
    assert contents(tmp_path) == b"a" * 10 + b"\n" + b"c" * 20 + b"\n"


def test_a_file_that_cannot_be_finished_keeps_its_temporary_name_and_the_next_is_begun(
    tmp_path, monkeypatch, caplog
):
    output = sink(tmp_path)
    send(output, b"a\n")

    def fail(fd):
        raise OSError(5, "Input/output error")

    sync = os.fsync
    monkeypatch.setattr(os, "fsync", fail)
    output.close()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    monkeypatch.setattr(os, "fsync", sync)
    send(output, b"b\n")
    output.close()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lp", ".part"]
    sink(tmp_path).close()
    assert contents(tmp_path) == b"a\nb\n"


def test_ticks_and_batches_from_two_threads(tmp_path):
    output = sink(tmp_path, rotate_interval=0.1, max_files=0)
    output._config = FileOutput(name="out", path=str(tmp_path), rotate_interval=0.0, max_files=0)
    stop = threading.Event()

    def tick():
        while not stop.is_set():
            output.tick()

    thread = threading.Thread(target=tick)
    thread.start()
    bodies = [b"%d\n" % n for n in range(200)]
    for body in bodies:
        assert send(output, body).kind is Kind.DELIVERED
    stop.set()
    thread.join()
    output.close()
    assert contents(tmp_path) == b"".join(bodies)


# ---- samples ----

SAMPLES = _core.samples_of_lines(b"m,t=a x=1,y=2.5 1700000000000000000\n")


def messages(data):
    """The messages of a length-delimited file."""
    found = []
    while data:
        length = place = 0
        while True:
            byte, data = data[0], data[1:]
            length |= (byte & 0x7F) << 7 * place
            place += 1
            if byte < 0x80:
                break
        found.append(data[:length])
        data = data[length:]
    return found


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_each_batch_of_samples_stands_behind_its_length(tmp_path, compression):
    output = sink(tmp_path, format="protobuf", compression=compression)
    assert output.encoding == "pb"
    bodies = [SAMPLES * n for n in (1, 3, 100)]
    for body in bodies:
        payload = output.encode(memoryview(body), 2, "pb")
        assert (plain(payload), payload.encoding) == (body, "pb")
        assert output.post(payload).kind is Kind.DELIVERED
    output.close()
    [name] = listing(tmp_path)
    assert name.endswith(".pb.gz" if compression == "gzip" else ".pb")
    data = (tmp_path / name).read_bytes()
    assert messages(gzip.decompress(data) if compression == "gzip" else data) == bodies


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_what_was_encoded_otherwise_is_written_as_the_format_wants(tmp_path, compression):
    lines = _core.lines_of_samples(SAMPLES)
    output = sink(tmp_path / "pb", format="protobuf", compression=compression)
    assert output.post(output.encode(memoryview(lines), 2)).kind is Kind.DELIVERED
    # Nothing but strings: there is nothing to write.
    assert output.post(output.encode(memoryview(b'm s="x" 1\n'), 1)).kind is Kind.DELIVERED
    assert output.post(Payload(b"m f=x 1\n", 1, 8)).kind is Kind.REJECT
    output.close()
    [path] = (tmp_path / "pb").iterdir()
    data = path.read_bytes()
    assert messages(gzip.decompress(data) if compression == "gzip" else data) == [SAMPLES]
    output = sink(tmp_path / "lp", compression=compression)
    for compressed in (snappy(SAMPLES), SAMPLES):
        payload = Payload(compressed, 2, len(SAMPLES), "pb", "sz" if compressed != SAMPLES else "")
        assert output.post(payload).kind is Kind.DELIVERED
    output.close()
    assert contents(tmp_path / "lp") == 2 * lines


def test_finished_files_of_either_format_count_as_files_of_the_output(tmp_path):
    for number, settings in enumerate(({}, {"format": "protobuf"}, {}), 1):
        output = sink(tmp_path, max_files=2, **settings)
        assert send(output, b"m v=1i 1\n").kind is Kind.DELIVERED
        output.close()
        assert len(listing(tmp_path)) == min(number, 2)


def test_a_write_that_fails_leaves_neither_a_length_nor_half_a_batch(tmp_path, monkeypatch):
    output = sink(tmp_path, format="protobuf")
    assert output.post(output.encode(memoryview(SAMPLES), 2, "pb")).kind is Kind.DELIVERED
    write, calls = os.pwrite, []

    def fail(fd, data, at):
        calls.append(at)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return write(fd, data, at)

    monkeypatch.setattr(os, "pwrite", fail)
    assert output.post(output.encode(memoryview(SAMPLES), 2, "pb")).kind is Kind.RETRY
    monkeypatch.setattr(os, "pwrite", write)
    assert output.post(output.encode(memoryview(SAMPLES * 2), 4, "pb")).kind is Kind.DELIVERED
    output.close()
    [path] = tmp_path.iterdir()
    assert messages(path.read_bytes()) == [SAMPLES, SAMPLES * 2]

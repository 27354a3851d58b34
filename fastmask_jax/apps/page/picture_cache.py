"""Bounds the folder in which gradio keeps the pictures that it shows and the files that are uploaded."""

from pathlib import Path

MOST_BYTES = 1 << 30


def bound(folder: Path, most_bytes: int = MOST_BYTES) -> None:
    """Removes the files of a folder that were not written for longest, until the others have at most `most_bytes`.

    Browsers have loaded what is removed. Files may vanish at the same time: gradio removes old ones as well.
    """
    files = []
    for path in folder.rglob("*"):
        try:
            stat = path.stat()
        except OSError:
            continue
        if path.is_file():
            files.append((stat.st_mtime_ns, stat.st_size, path))
    left = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if left <= most_bytes:
            break
        path.unlink(missing_ok=True)
        left -= size

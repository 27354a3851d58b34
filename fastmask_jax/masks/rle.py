"""Encodes runs of pixels as COCO's RLE strings and boxes, all masks of an image at once."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int64

from fastmask_jax.masks.paste import Runs, paste

MOST_PIXELS = 2**32 - 1  # of an image: pycocotools counts them in 32 bits
MOST_SIDE = 1_000_000  # pixels
CHARACTERS = 1 << 16  # of strings that are decoded at once, so that their values stay in the cache


class ScoredMasks(NamedTuple):
    """Masks of one image, ready for a COCO results file. The order is that of the windows they came from.

    Attributes:
      scores: float32[m] objectness probabilities.
      boxes: float32[m, 4] (x, y, width, height) around the masks, in original pixels.
      segmentations: m dicts {"size": [H, W], "counts": str}, compressed RLE.
      kept: int64[m], indices of their windows.
      empty: number of windows dropped because their mask has no pixel in the image.
    """

    scores: Float32[np.ndarray, "m"]
    boxes: Float32[np.ndarray, "m 4"]
    segmentations: list[dict]
    kept: Int64[np.ndarray, "m"]
    empty: int


def _settled(runs: Runs) -> Runs:
    """Cancels equal edges: every run then has a pixel, and a gap before the next."""
    if not (runs.edges[1:] == runs.edges[:-1]).any():
        return runs
    masks = len(runs.splits) - 1
    owner = np.repeat(np.arange(masks), np.diff(runs.splits))
    new = np.ones(len(runs.edges), bool)
    new[1:] = (runs.edges[1:] != runs.edges[:-1]) | (owner[1:] != owner[:-1])
    first = np.flatnonzero(new)
    odd = first[np.diff(first, append=len(new)) % 2 == 1]  # an even number of equal edges changes nothing
    splits = np.concatenate([[0], np.cumsum(np.bincount(owner[odd], minlength=masks))])
    return Runs(runs.edges[odd], splits, runs.size)


def _counts(runs: Runs) -> tuple[Int64[np.ndarray, "M"], Int64[np.ndarray, "K1"]]:
    """Returns lengths of gap, run, gap, run ... of settled masks, mask after mask, and the start of each mask."""
    pixels = runs.size[0] * runs.size[1]
    edges, splits = runs.edges, runs.splits
    some = np.diff(splits) > 0
    ends_inside = np.ones(len(some), bool)  # whether a gap is left behind the last run
    ends_inside[some] = edges[splits[1:][some] - 1] < pixels
    edges = np.insert(edges, splits[1:][ends_inside], pixels)
    splits = splits + np.concatenate([[0], np.cumsum(ends_inside)])
    counts = np.diff(edges, prepend=0)
    begin = splits[:-1]
    counts[begin] = edges[begin]
    return counts, splits


def _place_in_mask(splits: Int64[np.ndarray, "K1"]) -> Int64[np.ndarray, "M"]:
    return np.arange(splits[-1]) - np.repeat(splits[:-1], np.diff(splits))


def _strings(counts: Int64[np.ndarray, "M"], splits: Int64[np.ndarray, "K1"]) -> list[str]:
    """Encodes COCO's compressed strings: 5 bits per character; from the fourth count on, differences to two before."""
    values = counts.copy()
    later = np.flatnonzero(_place_in_mask(splits) > 2)
    values[later] -= counts[later - 2]
    length = np.ones(len(values), np.int64)
    magnitude = np.where(values < 0, ~values, values) >> 4  # a char holds five bits, the highest one the sign
    while magnitude.any():
        length += magnitude > 0
        magnitude >>= 5
    ends = np.cumsum(length)
    chars = np.empty(ends[-1] if len(ends) else 0, np.uint8)
    place = ends - length
    while len(values):
        more = place + 1 < ends
        chars[place] = (values & 31) + 32 * more + 48
        values, place, ends = values[more] >> 5, place[more] + 1, ends[more]
    text = chars.tobytes().decode("ascii")
    bounds = np.concatenate([[0], np.cumsum(length)])[splits].tolist()
    return [text[a:b] for a, b in pairwise(bounds)]


def text_of(rle: Mapping[str, Any]) -> bytes:
    """Returns the string of a compressed RLE, which may be text or bytes."""
    return rle["counts"] if isinstance(rle["counts"], bytes) else rle["counts"].encode()


class DecodedCounts(NamedTuple):
    """Lengths of gap, run, gap, run ... of K strings.

    Attributes:
      counts: lengths, string after string; none of invalid strings.
      splits: string k owns counts[splits[k]:splits[k + 1]].
      sound: which strings are well formed.
    """

    counts: Int64[np.ndarray, "M"]
    splits: Int64[np.ndarray, "K1"]
    sound: Bool[np.ndarray, "K"]


def decode_counts(texts: Sequence[bytes]) -> DecodedCounts:
    """Decodes COCO's compressed strings.

    A length is encoded in groups of five bits, low bits first, one character per group with offset 48; bit 32 means
    "continues", bit 16 of the last group is the sign. From the fourth length on, the difference to the length two
    before is encoded.
    """
    parts = [_decoded(some) for some in portions(texts)]
    ends = np.concatenate([np.diff(part.splits) for part in parts]).cumsum()
    counts, sound = (np.concatenate([part[field] for part in parts]) for field in (0, 2))
    return DecodedCounts(counts, np.concatenate([[0], ends]), sound)


def portions(texts: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Yields the strings in portions of about `CHARACTERS`."""
    step = max(1, CHARACTERS * len(texts) // max(1, sum(map(len, texts))))
    for at in range(0, max(len(texts), 1), step):
        yield texts[at : at + step]


def _decoded(texts: Sequence[bytes]) -> DecodedCounts:
    """Decodes a few strings; see `decode_counts`."""
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    groups = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)  # 64 and more: no character of such a string
    last = np.flatnonzero(groups & 96 == 0)
    length = np.diff(last, prepend=-1)
    splits = np.searchsorted(last, np.concatenate([[0], ends]))
    broken = np.diff(ends, prepend=0) == 0
    broken[~broken] = groups[ends[~broken] - 1] > 31
    broken[np.searchsorted(ends, np.flatnonzero(groups > 63), side="right")] = True
    if not broken.any():  # otherwise values may go on in the next string
        broken[np.searchsorted(ends, last[length > 8], side="right")] = True  # 40 bits: no image is so large
    if broken.any():
        return _decoded_without(texts, broken)
    values = _SIGNED[groups[last]]
    longer, back = np.flatnonzero(length > 1), 1
    while len(longer):
        values[longer] = values[longer] * 32 + (groups[last[longer] - back] & 31)
        back += 1
        longer = longer[length[longer] > back]

    # The differences to the value before the last are summed up; the first value stands alone.
    first = splits[:-1]
    alone = values[first]
    values[first] = 0
    for parity in (0, 1):
        chain = values[parity::2]
        begin = (splits + 1 - parity) // 2
        sums = np.concatenate([[0], np.cumsum(chain)])  # over all strings
        chain[:] = sums[1:] - np.repeat(sums[begin[:-1]], np.diff(begin))
    values[first] = alone
    negative = np.flatnonzero(values < 0)
    if len(negative):
        broken[np.searchsorted(splits, negative, side="right") - 1] = True
        return _decoded_without(texts, broken)
    return DecodedCounts(values, splits, ~broken)


def _decoded_without(texts: Sequence[bytes], broken: Bool[np.ndarray, "K"]) -> DecodedCounts:
    """Decodes all strings but those known to be broken."""
    sound = ~broken
    counts, splits, also_sound = _decoded([texts[k] for k in np.flatnonzero(sound)]) if sound.any() else _NOTHING
    length = np.zeros(len(texts), np.int64)
    length[sound] = np.diff(splits)
    sound[sound] = also_sound
    return DecodedCounts(counts, np.concatenate([[0], np.cumsum(length)]), sound)


_NOTHING = DecodedCounts(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, bool))
_SIGNED = np.array([(group & 15) - (group & 16) for group in range(32)])  # value of a last group


def run_lengths(text: bytes) -> Int64[np.ndarray, "M"] | None:
    """Decodes one compressed string to lengths of gap, run, gap, run ...; None if it is invalid."""
    decoded = decode_counts([text])
    return decoded.counts if decoded.sound[0] else None


def decoded_runs(decoded: DecodedCounts, size: tuple[int, int]) -> Runs:
    """Returns the runs of masks whose strings all cover an image of (H, W) pixels."""
    counts, splits, _ = decoded
    steps = counts.copy()
    steps[splits[1:-1]] -= size[0] * size[1]  # each mask starts at pixel 0 again
    odd = np.diff(splits) % 2 == 1  # the last gap ends no run
    edges = np.delete(np.cumsum(steps), splits[1:][odd] - 1)
    return Runs(edges, splits - np.concatenate([[0], np.cumsum(odd)]), size)


class Measures(NamedTuple):
    """Areas and boxes of K masks of an image.

    Attributes:
      sound: which strings are well formed and cover the image. The others have neither area nor box. Check this before
        passing untrusted strings to pycocotools, which loops forever on truncated ones.
      areas: numbers of pixels.
      boxes: bounding boxes (x, y, width, height) in pixels; zeros for an empty mask.
    """

    sound: Bool[np.ndarray, "K"]
    areas: Int64[np.ndarray, "K"]
    boxes: Float32[np.ndarray, "K 4"]


def measure(texts: Sequence[bytes], size: tuple[int, int]) -> Measures:
    """Decodes compressed strings of masks of an image of (H, W) pixels, and measures them."""
    parts = [_measured(some, size) for some in portions(texts)]
    return Measures(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _measured(texts: Sequence[bytes], size: tuple[int, int]) -> Measures:
    decoded = _decoded(texts)
    ends = np.concatenate([[0], np.cumsum(decoded.counts)])[decoded.splits]
    sound = decoded.sound & (np.diff(ends) == size[0] * size[1])
    areas, boxes = np.zeros(len(texts), np.int64), np.zeros((len(texts), 4), np.float32)
    if not sound.all():
        decoded = _decoded([text for text, good in zip(texts, sound, strict=True) if good])
    runs = decoded_runs(decoded, size)
    pixels = np.concatenate([[0], np.cumsum(runs.edges[1::2] - runs.edges[0::2])])
    areas[sound], boxes[sound] = np.diff(pixels[runs.splits // 2]), tight_boxes(runs)
    return Measures(sound, areas, boxes)


def encode(runs: Runs) -> list[dict]:
    """Encodes masks as {"size": [H, W], "counts": str}, equal to pycocotools.mask.encode of the bitmaps."""
    size = [int(side) for side in runs.size]
    return [{"size": list(size), "counts": text} for text in _strings(*_counts(_settled(runs)))]


def tight_boxes(runs: Runs) -> Float32[np.ndarray, "K 4"]:
    """Returns the bounding box (x, y, width, height) of every mask in pixels; zeros for an empty mask."""
    return _tight_boxes(_settled(runs))


def _tight_boxes(runs: Runs) -> Float32[np.ndarray, "K 4"]:
    boxes = np.zeros((len(runs.splits) - 1, 4), np.float32)
    some = np.flatnonzero(np.diff(runs.splits))
    if not len(some):
        return boxes
    height = runs.size[0]
    begin, end = runs.edges[0::2], runs.edges[1::2]
    first, last = begin // height, (end - 1) // height
    wraps = last > first  # a run that continues in the next column touches bottom and top
    top, bottom = np.where(wraps, 0, begin - first * height), np.where(wraps, height, end - first * height)
    at = runs.splits[some] // 2
    x, y = np.minimum.reduceat(first, at), np.minimum.reduceat(top, at)
    x_end, y_end = np.maximum.reduceat(last, at) + 1, np.maximum.reduceat(bottom, at)
    boxes[some] = np.stack([x, y, x_end - x, y_end - y], 1)
    return boxes


def _select(runs: Runs, chosen: Bool[np.ndarray, "K"]) -> Runs:
    lengths = np.diff(runs.splits)
    return Runs(runs.edges[np.repeat(chosen, lengths)], np.concatenate([[0], np.cumsum(lengths[chosen])]), runs.size)


def mirrored(runs: Runs) -> Runs:
    """Flips masks left to right; each run of the result lies within one column."""
    height, width = runs.size
    masks = len(runs.splits) - 1
    begin, end = runs.edges[0::2], runs.edges[1::2]
    some = end > begin
    begin, end = begin[some], end[some]
    owner = np.repeat(np.arange(masks), np.diff(runs.splits) // 2)[some]
    shift = (width - 1 - 2 * (begin // height)) * height
    begin, end = begin + shift, end + shift
    order = np.argsort(owner * (height * width) + begin)
    edges = np.stack([begin[order], end[order]], 1).reshape(-1)
    return Runs(edges, np.concatenate([[0], 2 * np.cumsum(np.bincount(owner, minlength=masks))]), runs.size)


def masks_to_results(
    scores: Float[np.ndarray, "K"],
    windows: Int[np.ndarray, "K 3"],
    mask_logits: Float[np.ndarray, "K 40 40"],
    *,
    strides: Sequence[int],
    resized: tuple[int, int],
    original: tuple[int, int],
    threshold: float,
    from_mirror: bool = False,
) -> ScoredMasks:
    """Pastes decoded windows as scored masks with boxes in the original image (docs/network.md §3). Thread-safe.

    Args:
      scores: objectness probabilities; negative ones mark windows that do not exist (see `Decoded`).
      windows: (level, i, j) triples.
      mask_logits: their logits.
      strides: strides of the levels, in resized pixels.
      resized, original: (height, width) of the image as the network saw it, and of its file.
      threshold: minimum probability for a mask pixel.
      from_mirror: the network saw the mirrored image; the masks are flipped back.

    Returns:
      The proposals with nonempty masks; `empty` counts the others.
    """
    real = np.flatnonzero(np.asarray(scores) >= 0)
    pasted = paste(
        windows[real], mask_logits[real], strides=strides, resized=resized, original=original, threshold=threshold
    )
    runs = _settled(mirrored(pasted) if from_mirror else pasted)
    seen = np.diff(runs.splits) > 0
    runs, kept = _select(runs, seen), real[seen]
    size = [int(side) for side in original]
    segmentations = [{"size": list(size), "counts": text} for text in _strings(*_counts(runs))]
    return ScoredMasks(
        np.asarray(scores, np.float32)[kept], _tight_boxes(runs), segmentations, kept, int(len(real) - len(kept))
    )

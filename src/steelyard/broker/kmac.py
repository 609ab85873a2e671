"""KMAC256 (NIST SP 800-185), which neither hashlib nor `cryptography` has: for keys of a few bytes.

Plain Python, not in constant time; what it hashes is a secret used once.
"""

from __future__ import annotations

RATE = 136  # bytes of Keccak[c=512]
MASK = (1 << 64) - 1


def constants() -> list[int]:
    """Of the 24 rounds, from the linear register of FIPS 202, section 3.2.5."""
    found, state = [], 1
    for _ in range(24):
        word = 0
        for power in range(7):
            word |= (state & 1) << ((1 << power) - 1)
            state = (state << 1) ^ (0x171 if state >> 7 else 0)
        found.append(word)
    return found


def turns() -> list[tuple[int, int]]:
    """Where pi takes the lanes, in order, and by how many bits rho turns them."""
    x, y, found = 1, 0, []
    for t in range(24):
        x, y = y, (2 * x + 3 * y) % 5
        found.append((x + 5 * y, (t + 1) * (t + 2) // 2 % 64))
    return found


CONSTANTS, TURNS = constants(), turns()


def turn(word: int, by: int) -> int:
    return (word << by | word >> (64 - by)) & MASK


def keccak(lanes: list[int]) -> list[int]:
    """Keccak-f[1600] of 25 lanes of 64 bits."""
    for constant in CONSTANTS:
        columns = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20] for x in range(5)]
        mixed = [columns[(x + 4) % 5] ^ turn(columns[(x + 1) % 5], 1) for x in range(5)]
        lanes = [lane ^ mixed[at % 5] for at, lane in enumerate(lanes)]
        carried = lanes[1]
        for at, by in TURNS:
            carried, lanes[at] = lanes[at], turn(carried, by)
        lanes = [
            lanes[at] ^ (~lanes[at - at % 5 + (at + 1) % 5] & MASK & lanes[at - at % 5 + (at + 2) % 5])
            for at in range(25)
        ]
        lanes[0] ^= constant
    return lanes


def sponge(data: bytes, suffix: int, size: int) -> bytes:
    """`suffix`: the bits after the message, lowest first, and the first of the padding."""
    padded = bytearray(data) + bytes([suffix])
    padded += bytes(-len(padded) % RATE)
    padded[-1] ^= 0x80
    lanes = [0] * 25
    for at in range(0, len(padded), RATE):
        for lane in range(RATE // 8):
            lanes[lane] ^= int.from_bytes(padded[at + 8 * lane : at + 8 * lane + 8], "little")
        lanes = keccak(lanes)
    out = b""
    while True:
        out += b"".join(lane.to_bytes(8, "little") for lane in lanes[: RATE // 8])
        if len(out) >= size:
            return out[:size]
        lanes = keccak(lanes)


def kmac256(key: bytes, data: bytes, size: int, custom: bytes = b"") -> bytes:
    """`size` in bytes."""
    named = padded(encoded(b"KMAC") + encoded(custom))
    right = numbered(8 * size)
    return sponge(named + padded(encoded(key)) + data + right + bytes([len(right)]), 0x04, size)


def numbered(number: int) -> bytes:
    return number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big")


def encoded(text: bytes) -> bytes:
    """encode_string: the length in bits, as left_encode writes it, then the text."""
    length = numbered(8 * len(text))
    return bytes([len(length)]) + length + text


def padded(data: bytes) -> bytes:
    data = bytes([1, RATE]) + data
    return data + bytes(-len(data) % RATE)

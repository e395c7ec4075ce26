"""Find one part of a multipart/form-data body."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    filename: str
    data: bytes


def find(content_type: str, body: bytes, field: str) -> Part | None:
    """The part of that name, or None."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    if boundary is None:
        return None
    for piece in body.split(b"\r\n--" + boundary[1].encode())[:-1]:
        head, _, data = piece.partition(b"\r\n\r\n")
        if (part := _part(head.decode(), data, field)) is not None:
            return part
    return None


def build(boundary: str, field: str, filename: str, data: bytes) -> bytes:
    """As the recorded uploads were sent."""
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{field}"; filename="{filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + data + f"\r\n--{boundary}--\r\n".encode()


def _part(head: str, data: bytes, field: str) -> Part | None:
    names = dict(re.findall(r'\b(name|filename)="([^"]*)"', head))
    return Part(names.get("filename", "upload"), data) if names.get("name") == field else None

"""Reading a page's numbers."""

from __future__ import annotations

from html.parser import HTMLParser


class Reader(HTMLParser):
    """Checks that tags are closed in order, and collects what a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "wbr", "img", "source"):
            self.open.append(tag)
        assert tag not in ("link", "iframe", "object")
        self.loaded += [value or "" for name, value in attrs if name in ("src", "srcset")]
        assert all(value and value.startswith("#") for name, value in attrs if name == "href")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read_page(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    assert all(value.startswith("data:image/png;base64,") for value in reader.loaded)
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text
    return reader

"""The report's page taken apart: its elements, and the data that its script reads."""

import json
from html.parser import HTMLParser


def embedded_data(page):
    """What the page's script reads, as a browser would take it out of the file."""
    text = page.split('<script id="data" type="application/json">')[1].split("</script>")[0]
    return json.loads(text)


class Element:
    """An element of a parsed page: its tag, attributes and children (elements and texts)."""

    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children = tag, dict(attributes), []

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag, **attributes):
        """The elements below with this tag and these attributes, in order; `class_` is the attribute class."""
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
        found = []
        for child in (child for child in self.children if not isinstance(child, str)):
            if child.tag == tag and wanted.items() <= child.attributes.items():
                found.append(child)
            found += child.all(tag, **attributes)
        return found

    def one(self, tag, **attributes):
        [found] = self.all(tag, **attributes)
        return found

    def rows(self):
        """Of a table: the texts of its rows' cells."""
        return [[cell.text for cell in row.children] for row in self.all("tr")]


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = [Element("", ())]

    def handle_starttag(self, tag, attributes):
        element = Element(tag, attributes)
        self.open[-1].children.append(element)
        if tag not in ("meta", "input"):
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag, f"</{tag}> ends another element"

    def handle_data(self, text):
        self.open[-1].children.append(text)


def parsed(page):
    """The page as one Element; an assertion fails where an element is not closed."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    [root] = reader.open
    return root

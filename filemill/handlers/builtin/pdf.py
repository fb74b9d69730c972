"""The handler `pdf`: Markdown as a PDF, by typst."""

from typing import TYPE_CHECKING, Annotated

import msgspec

from filemill.handlers import Job, PermanentError, handler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it.token import Token

_PAGE = """#set document(title: sys.inputs.title, date: none)
#set page(paper: "a4", margin: 2.5cm, numbering: "1 / 1")
#set text(size: 11pt)
#set par(justify: true)
"""
# Block tokens: what is written at their begin and at their end.
_BLOCKS = {
    "paragraph_open": "",
    "paragraph_close": "\n\n",
    "heading_close": "]\n\n",
    "bullet_list_open": "#list(",
    "bullet_list_close": ")\n\n",
    "ordered_list_open": "#enum(",
    "ordered_list_close": ")\n\n",
    "list_item_open": "[",
    "list_item_close": "],",
    "blockquote_open": "#quote(block: true)[",
    "blockquote_close": "]\n\n",
    "hr": "#line(length: 100%)\n\n",
    "em_open": "#emph[",
    "em_close": "]",
    "strong_open": "#strong[",
    "strong_close": "]",
    "link_close": "]",
    "softbreak": " ",
    "hardbreak": " #linebreak() ",
}


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """`markdown` is the text (CommonMark). Images and HTML are left out."""

    markdown: Annotated[str, msgspec.Meta(min_length=1)]


@handler(
    "pdf", content_type="application/pdf", extension="pdf", deterministic=True, timeout=60, memory="1 GiB", attempts=2
)
def pdf(job: Job[Document]) -> bytes:
    """Render the text. Nothing of it is code for typst: all text is passed as strings."""
    import typst  # noqa: PLC0415
    from markdown_it import MarkdownIt  # noqa: PLC0415

    tokens = MarkdownIt("commonmark", {"html": False}).parse(job.parameters.markdown)
    source = job.folder / "source.typ"
    source.write_text(_PAGE + _typst(tokens), encoding="utf-8")
    try:
        return typst.compile(source, root=job.folder, format="pdf", sys_inputs={"title": job.title})
    except typst.TypstError as error:
        raise PermanentError(f"The text cannot be rendered: {error}") from None


def _typst(tokens: "Sequence[Token]") -> str:
    parts = []
    for token in tokens:
        match token.type:
            case "inline":
                parts.append(_typst(token.children or []))
            case "text":
                parts.append(f"#{_string(token.content)};")
            case "heading_open":
                parts.append(f"#heading(level: {token.tag[1:]})[")
            case "code_inline":
                parts.append(f"#raw({_string(token.content)});")
            case "fence" | "code_block":
                parts.append(f"#raw({_string(token.content)}, block: true)\n\n")
            case "link_open":
                parts.append(f"#link({_string(str(token.attrs.get('href', '')))})[")
            case name:
                parts.append(_BLOCKS.get(name, ""))
    return "".join(parts)


def _string(text: str) -> str:
    """A string of typst."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "").replace("\t", "\\t")
    return f'"{escaped}"'

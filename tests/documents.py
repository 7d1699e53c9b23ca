"""What README.md and docs/*.md hold, for tests: fenced blocks, commands, sentences, headings, links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELL = ("bash", "sh", "shell")
_COMMAND = re.compile(r"(python|torchrun|docker|source|pip|git|srun|ray) |\./\w+\.sh")
_MARK = re.compile(r"#.*(needs |hours)")


@dataclass(frozen=True)
class Command:
    """A command of a page, as typed but for its comment; `marked`: the comment says why no test runs it."""

    page: str
    text: str
    marked: bool

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables set before the command."""
        return dict(re.findall(r"([A-Z_]+)=(.*)", word)[0] for word in self.words if re.match(r"[A-Z_]+=", word))

    @property
    def arguments(self) -> list[str]:
        """The command itself, in words; of a command that SLURM starts, that command."""
        words = [word for word in self.words if not re.match(r"[A-Z_]+=", word)]
        if words[0] == "srun":
            return words[next(place for place, word in enumerate(words) if word.startswith("./")) :]
        return words


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block; the language is "" where none is given."""
    return _BLOCK.findall(text)


def commands(page: Path) -> list[Command]:
    """The commands of the shell blocks, those without a language that hold a command included."""
    found = []
    for language, content in blocks(read(page)):
        lines = content.replace("\\\n", " ").splitlines()
        if language in _SHELL or (not language and any(map(_COMMAND.match, lines))):
            whole = bool(lines and lines[0].startswith("#") and _MARK.match(lines[0]))
            for line in lines:
                text, _, comment = re.sub(r"^#", " #", line).partition(" #")
                if text.strip():
                    found.append(Command(page.name, " ".join(text.split()), whole or bool(_MARK.match(f"#{comment}"))))
    return found


def inline_commands(page: Path) -> list[Command]:
    """Commands as inline code, such as those of a table; not in code blocks. None of them is marked."""
    found = re.findall(r"`((?:python|\./\w+\.sh) [^`]+)`", _BLOCK.sub("", read(page)))
    return [Command(page.name, text, False) for text in found if "..." not in text]


def sentences(text: str) -> list[str]:
    """Sentences outside code blocks, tables and headings; inline code is one word, of a link only its text is left."""
    text = re.sub(r"<!--.*?-->", "", _BLOCK.sub("", text), flags=re.DOTALL)
    lines = ["" if line.startswith(("|", "#", "![")) else line for line in text.splitlines()]
    text = re.sub(r"^\s*(?:[-*]|\d+\.) ", "\n", "\n".join(lines), flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]+`", "Code", text))
    paragraphs = re.split(r"\n\s*\n", text)
    parts = (re.split(r"(?<=[.!?])\**\s+", " ".join(paragraph.split())) for paragraph in paragraphs)
    return [sentence for paragraph in parts for sentence in paragraph if sentence]


def count_words(sentence: str) -> int:
    return len([word for word in sentence.split() if re.search(r"\w", word)])


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", _BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title).lower()).replace(" ", "-") for title in titles}


def links(text: str) -> list[tuple[str, str]]:
    """(file, anchor) of each link that leads to no other site; the file is "" for the page itself."""
    found = re.findall(r"\]\(([^)\s]+)\)", _BLOCK.sub("", text))
    return [(target.partition("#")[0], target.partition("#")[2]) for target in found if "://" not in target]

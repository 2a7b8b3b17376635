# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Hooks of MkDocs: the settings of every command, docstrings as Markdown, and links."""

import argparse
import html
import importlib
import re
import textwrap
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from unip_hf.scripts.cli import JOBS


SECTION = re.compile(r"^(Args|Attributes|Example|Raises|Returns|Yields):\n((?:(?: {4}.*)?(?:\n|$))+)", re.MULTILINE)
INDENTED = re.compile(r"(?:^ {4}.*\n?)+", re.MULTILINE)
TYPES = {None: "text", int: "integer", float: "number"}
ROOT_PAGES = ("CONTRIBUTING.md", "SECURITY.md")  # pages that stand beside the README, where GitHub looks for them


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages of the root."""
    for name in ROOT_PAGES:
        text = Path(config.config_file_path).with_name(name).read_text(encoding="utf-8")
        files.append(File.generated(config, name.lower(), content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Removes links to files that are not pages, and replaces `<!-- settings -->` by the settings."""
    for name in ROOT_PAGES:
        markdown = markdown.replace(f"](../{name}", f"]({name.lower()}")
    markdown = re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)
    return markdown.replace("<!-- settings -->", settings()) if "<!-- settings -->" in markdown else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Links a name in brackets, as docstrings write them, to its description if that is on the same page."""
    anchors = {anchor.rpartition(".")[2]: anchor for anchor in re.findall(r'id="([\w.]+)"', html)}

    def link(found: re.Match) -> str:
        anchor = anchors.get(found[2].rpartition(".")[2])
        return found[1] if anchor is None else f'<a href="#{anchor}">{found[1]}</a>'

    return re.sub(r"\[(<code>([\w.]+)</code>)\]", link, html)


class SectionsAsMarkdown(Extension):
    """Turns sections of docstrings, such as "Args:", into headings and lists without changing a word."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = SECTION.sub(_section, obj.docstring.value + "\n")


def _section(found: re.Match) -> str:
    name, body = found[1], textwrap.dedent(found[2]).strip("\n")
    if name in ("Args", "Attributes", "Raises"):
        lines = (f"    {line}" if line.startswith(" ") else line for line in body.splitlines())
        body = "\n".join(re.sub(r"^([*\w][*\w, ]*?)(?= \(|:)", r"- **`\1`**", line) for line in lines)
    return f"**{name}**\n\n{body}\n\n"


def settings() -> str:
    """Tables of the options of every command, read from the parsers."""
    commands = []
    for job, purpose in JOBS.items():
        parser = importlib.import_module(f"unip_hf.scripts.{job.replace('-', '_')}").command_parser()
        description = INDENTED.sub(
            lambda block: f"\n```bash\n{textwrap.dedent(block[0]).strip()}\n```\n", parser.description
        )
        tables = [_table(group) for group in parser._action_groups]
        commands += [f"## unip {job}", f"{_sentence(purpose)}.", description, *tables]
    return "\n\n".join(commands)


def _table(group: Any) -> str:
    actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
    if not actions:
        return ""
    title = _sentence(group.title) + (f": {group.description}" if group.description else "")
    rows = "".join(_row(action) for action in actions)
    head = "<tr><th>Name</th><th>Takes</th><th>Default</th><th>Meaning</th></tr>"
    return f'<h3>{html.escape(title)}</h3>\n<table class="settings"><thead>{head}</thead><tbody>{rows}</tbody></table>'


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _row(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings) or action.metavar or action.dest
    default = action.default
    if action.required:
        shown = "required"
    elif default in (None, []) or default is False or default is argparse.SUPPRESS:
        shown = ""
    else:
        values = default if isinstance(default, (list, tuple)) else [default]
        shown = f"<code>{html.escape(' '.join(map(str, values)))}</code>"
    meaning = re.sub(r"(^|,? )\(?default: %\(default\)s\)?", "", action.help or "")
    meaning = (meaning % {**vars(action), "prog": ""}).replace("\n", " ")
    meaning = re.sub(r"`(.+?)`", r"<code>\1</code>", html.escape(meaning))
    cells = (f"<code>{name}</code>", _takes(action), shown, meaning)
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _takes(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        one = ", ".join(f"<code>{html.escape(str(choice))}</code>" for choice in action.choices)
    elif isinstance(action.metavar, str) and action.option_strings:
        one = html.escape(action.metavar)
    else:
        one = TYPES.get(action.type, "path")
    count = {"+": "one or more of " if action.choices else "one or more: ", "*": "any number: ", "?": ""}
    if isinstance(action.nargs, int):
        return f"{action.nargs} x {one}" if action.nargs > 1 else one
    return count.get(str(action.nargs), "") + one

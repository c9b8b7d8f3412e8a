"""The file dialogs: where they begin, and on X11, where Tk draws them itself, their colours and language."""

from __future__ import annotations

import os
import re
import tkinter
from pathlib import Path

from window.look import Look

CHINESE = {  # Tk's words -> the same in Chinese; & comes before the letter that Alt presses
    "&Directory:": "文件夹(&D)：",
    "&Selection:": "所选文件夹(&S)：",
    "File &name:": "文件名(&N)：",
    "File &names:": "文件名(&N)：",
    "Files of &type:": "文件类型(&T)：",
    "&Open": "打开(&O)",
    "&Save": "保存(&S)",
    "&OK": "确定(&O)",
    "&Cancel": "取消(&C)",
    "&Yes": "是(&Y)",
    "&No": "否(&N)",
    "Show &Hidden Files and Directories": "显示隐藏的文件和文件夹(&H)",
    "Show &Hidden Directories": "显示隐藏的文件夹(&H)",
    'File "%1$s" already exists.\nDo you want to overwrite it?': "文件“%1$s”已存在。\n要覆盖它吗？",
    'File "%1$s" does not exist.': "文件“%1$s”不存在。",
    'Directory "%1$s" does not exist.': "文件夹“%1$s”不存在。",
    'Invalid file name "%1$s".': "文件名“%1$s”无效。",
    'Cannot change to the directory "%1$s".\nPermission denied.': "无法打开文件夹“%1$s”。\n没有权限。",
}


def first_folder(last: str) -> str:
    """Where a dialog begins: the folder of the ``last`` file, else the user's pictures, else the home folder."""
    folders = (Path(last or "?"), pictures_folder(), Path.home() / "Pictures")
    return str(next((folder for folder in folders if folder.is_dir()), Path.home()))


def pictures_folder() -> Path:
    """The folder that a Linux desktop calls Pictures in the user's language; elsewhere it is named so."""
    file = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "user-dirs.dirs"
    try:
        found = re.search(r'^XDG_PICTURES_DIR="(.+)"', file.read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, ValueError):
        found = None
    return Path(found[1].replace("$HOME", str(Path.home()))) if found else Path.home() / "Pictures"


def dress_file_dialogs(root: tkinter.Tk, look: Look, language: str) -> None:
    """Give Tk's own dialogs the window's colours and language, and hide dot files.

    Windows and macOS have dialogs of their own.
    """
    if not look.on_x11:
        return
    tk = root.tk
    tk.eval("catch {tk_getOpenFile -no-such-option}; destroy .__tk_filedialog .__tk_choosedir")  # loads the script
    tk.setvar("::tk::dialog::file::showHiddenBtn", "1")
    tk.setvar("::tk::dialog::file::showHiddenVar", "0")
    _translate(root, language)
    c = look.colors
    for kind in ("TkFDialog", "TkChooseDir"):
        root.option_add(f"*{kind}*Canvas.foreground", c.text)
        for option, value in look.menu_options().items():
            root.option_add(f"*{kind}*Menu.{option}", value)
        root.bind_class(kind, "<Map>", lambda event: _color_list(root, event.widget, c.surface))


def _translate(root: tkinter.Tk, language: str) -> None:
    """Older versions of Tk know no Chinese, newer ones some."""
    locale = {"zh": "zh_cn"}.get(language, language)
    root.tk.call("::msgcat::mclocale", locale)
    for english, chinese in CHINESE.items() if language == "zh" else ():
        root.tk.call("namespace", "eval", "::tk", ("::msgcat::mcset", locale, english, chinese))


def _color_list(root: tkinter.Tk, dialog: tkinter.Misc | str, color: str) -> None:
    """The list of files is a canvas, whose ground no option sets."""
    canvas = f"{dialog}.contents.icons.cHull.canvas"
    if root.tk.call("winfo", "exists", canvas):
        root.tk.call(canvas, "configure", "-background", color)

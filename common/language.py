"""The person's language: which it is, and error messages in Chinese.

Errors are raised with an English message, which the terminal and logs show. An interface in Chinese passes the message
through :func:`in_chinese`.
"""

from __future__ import annotations

import locale
import os
import re

# English message -> the same in Chinese. A name in braces is a part that differs, which may be a message here too.
MESSAGES = {
    # pictures (dataset/image.py)
    "missing": "文件不存在",
    "not a file": "不是文件",
    "cannot be decoded: not an image in a known format": "无法解码：不是已知格式的图片",
    "cannot be decoded: image file is truncated ({detail})": "无法解码：图片文件不完整",
    "cannot be decoded: {width} x {height} pixels": "无法解码：{width} × {height} 像素",
    "cannot be decoded: {reason}": "无法解码（{reason}）",
    "too large: more than {pixels} pixels, limit {limit} in all": "太大：超过 {pixels} 像素，上限为 {limit} 像素",
    "too large: {width} x {height} pixels, limit {limit} in all": (
        "太大：{width} × {height} 像素，上限为 {limit} 像素"
    ),
    "a PDF, not an image; make images of its pages first, such as {command}": (
        "这是 PDF，不是图片；请先把页面转成图片，例如 {command}"
    ),
    "HEIC, which is read with pillow-heif; {command}": "HEIC 图片需要 pillow-heif 才能读取；请运行 {command}",
    "{file}: no readable preprocessor_config.json ({reason})": (
        "{file}：没有可以读取的 preprocessor_config.json（{reason}）"
    ),
    # videos (dataset/video.py)
    "a video, which is read with PyAV; {command}": "读取视频需要 PyAV；请运行 {command}",
    "no video stream": "没有视频流",
    "cannot be decoded as a video: {reason}": "无法作为视频解码（{reason}）",
    "Invalid data found when processing input": "数据无效",
    "a video without a frame that can be decoded": "这个视频没有能解码的画面",
    "language.max_length = {length}: no room for a frame of {each} tokens beside {new} of the answer; use a connector "
    "with fewer tokens (projector.kind: pool or resampler)": (
        "language.max_length = {length}：回答占去 {new} 个 token 之后放不下一帧（{each} 个 token）；请用 token 更少的"
        "连接器（projector.kind: pool 或 resampler）"
    ),
    # boxes (answering/drawing.py, ask.py)
    "{box}; the picture has {width} x {height} pixels": "{box}；图片为 {width} × {height} 像素",
    "an empty box": "空的框",
    "a box outside its picture": "框在图片之外",
    "a box that is not four numbers": "框不是四个数",
    "{option}: expected left,top,right,bottom in pixels, such as {example}": (
        "{option}：应为以像素表示的 左,上,右,下，例如 {example}"
    ),
    "{option}: no picture {number}; there are {count}, counted from 1": (
        "{option}：没有第 {number} 张图片；共 {count} 张，从 1 数起"
    ),
    "--box: boxes on pictures {first} and {second}; a question is about boxes of one picture": (
        "--box：框在图片 {first} 和图片 {second} 上；一个问题只能问一张图片上的框"
    ),
    "{option}: expected a name that ends in {endings}": "{option}：文件名应以 {endings} 之一结尾",
    "--box: this checkpoint has no tokens for boxes; train it on a source with boxes": (
        "--box：这个检查点没有框的词元；请用带框的数据源训练"
    ),
    "a box but no picture": "有框但没有图片",
    "turn with {problem} dropped": "{problem}",
    "part {number}: a box that cannot be used ({reason})": "第 {number} 部分：框无法使用（{reason}）",
    "image, text, or a box after an image, not {given}": "image、text，或图片之后的 box，而不是 {given}",
    "one of {names}, not a {given}": "{names} 之一，而不是 {given}",
    # questions and answers
    "the question cannot be asked: {reason}": "这个问题不能提问：{reason}",
    "too long: {tokens} tokens with one turn, language.max_length allows {most}": (
        "太长：单轮就有 {tokens} 个 token，language.max_length 只允许 {most} 个"
    ),
    "too long: {tokens} tokens with one turn, language.max_length ({length}) less max_new_tokens ({new}) "
    "allows {most}; ask for a shorter answer or a shorter question": (
        "太长：单轮就有 {tokens} 个 token，language.max_length（{length}）减去 max_new_tokens（{new}）"
        "只剩 {most} 个；请缩短回答上限或问题"
    ),
    "too long: {tokens} tokens with one turn, language.max_length ({length}) less max_new_tokens ({new}) "
    "allows {most}; ask for a shorter answer or a shorter question, or show fewer pictures": (
        "太长：单轮就有 {tokens} 个 token，language.max_length（{length}）减去 max_new_tokens（{new}）"
        "只剩 {most} 个；请缩短回答上限或问题，或减少图片"
    ),
    'language.system: the chat template of this model has no system message; set it to ""': (
        'language.system：这个模型的对话模板没有系统消息；请设为 ""'
    ),
    "where the model looks cannot be shown with the connector {name}: its visual tokens do not belong to "
    "parts of the picture": ("连接器 {name} 的视觉 token 不对应图片的某一部分，因此无法显示关注区域"),
    "where the model looks can be shown for an answer about one picture": "只有关于一张图片的回答才能显示关注区域",
    "where the model looks can be shown for an answer about a picture": "只有关于图片的回答才能显示关注区域",
    "the baseline {name} does not look at parts of the picture; attention does": (
        "基线模型 {name} 不看图片的局部；attention 可以"
    ),
    "the baseline {name} answers about one picture, not about several": "基线模型 {name} 只能回答关于一张图片的问题",
    "the conversation shows {wanted} images, but {given} were given": "对话里有 {wanted} 张图片，但给出了 {given} 张",
    "no model is loaded yet; choose a checkpoint": "尚未加载模型；请选择检查点",
    "out of memory; use the CPU, ask for shorter answers, or close other programs": (
        "内存不足；请使用 CPU、缩短回答上限，或关闭其他程序"
    ),
    # conversations
    "{file}: not a conversation that was saved here as JSON": "{file}：不是本程序保存的 JSON 对话",
    "{file}: cannot be read ({reason})": "{file}：无法读取（{reason}）",
    "{file}: cannot be written ({reason})": "{file}：无法写入（{reason}）",
    "{file}: {reason}; the conversation is about this picture": "{file}：{reason}；这个对话是关于这张图片的",
    "--questions {file}: no question in it; write one a line": "--questions {file}：文件里没有问题；请每行写一个",
    '{line}: no picture; give --image FILE, or "image" in the line of a .jsonl file': (
        '{line}：没有图片；请给出 --image FILE，或在 .jsonl 的这一行里写 "image"'
    ),
    '{line}: expected an object with "question": "a text"': '{line}：应为含有 "question": "文本" 的对象',
    '{line}: expected "image": "a path" or "images": ["a path", ...]': (
        '{line}：应为 "image": "路径" 或 "images": ["路径", ...]'
    ),
    "{line}: not JSON ({reason}); one object a line, or a file that ends in .txt": (
        "{line}：不是 JSON（{reason}）；请每行写一个对象，或使用以 .txt 结尾的文件"
    ),
    # devices and the command line
    "device {name} is not known; use cpu, cuda or cuda:0": "未知的设备 {name}；请用 cpu、cuda 或 cuda:0",
    "device {name}: torch sees no {kind} here; use cpu, or install a build of torch with {build}": (
        "设备 {name}：torch 在这里找不到 {kind}；请用 cpu，或安装支持 {build} 的 torch"
    ),
    "{option} = {folder}: no config.json in it; name the folder that holds the model": (
        "{option} = {folder}：里面没有 config.json；请指定模型所在的文件夹"
    ),
    "command line: {problem}": "命令行：{problem}",
    "{key}: expected {kind}": "{key}：应为{kind}",
    "{key}: unknown key, expected one of {names}; nearest valid key: {nearest}": (
        "{key}：没有这个键，可用的有 {names}；最接近的是 {nearest}"
    ),
    "{word}: only generate.KEY=VALUE and data.max_pixels=N can be changed here, such as {example}": (
        "{word}：这里只能更改 generate.KEY=VALUE 和 data.max_pixels=N，例如 {example}"
    ),
    "a whole number of tokens, 1 or more": "token 数，1 或更大的整数",
    "a whole number of tokens, 0 or more": "token 数，0 或更大的整数",
    "a whole number of tokens, 1 or more, or null for all": "token 数，1 或更大的整数；null 表示全部",
    "a whole number of pixels, 1 or more": "像素数，1 或更大的整数",
    "a whole number, 1 or more": "1 或更大的整数",
    "a number above 0": "大于 0 的数",
    "a number above 0, at most 1": "大于 0 且不超过 1 的数",
    "a number above 0; 1.0 for none": "大于 0 的数；1.0 表示不惩罚",
    "a list of texts that are not empty, or [] for none": "不含空文本的列表；[] 表示没有",
    "a whole number from 0 to 2**32 - 1, or null for another answer each time": (
        "0 到 2**32 - 1 的整数；null 表示每次回答都不同"
    ),
    "at most generate.max_new_tokens ({most})": "不超过 generate.max_new_tokens（{most}）的数",
    "true or false": "true 或 false",
    # checkpoints and base models
    "no checkpoint at {folder}; train one with train.py, or see `make demo`": (
        "{folder} 没有检查点；请用 train.py 训练，或运行 `make demo`"
    ),
    "{folder} holds no complete checkpoint; train one with train.py": (
        "{folder} 里没有完整的检查点；请用 train.py 训练"
    ),
    "{folder} has no {file}: not a checkpoint, or a save that was cut short": (
        "{folder} 没有 {file}：不是检查点，或保存时被中断"
    ),
    "{file} is not what was saved (its SHA-256 differs); use an earlier checkpoint": (
        "{file} 与保存时不同（SHA-256 不符）；请用更早的检查点"
    ),
    "{file} is missing; the checkpoint is incomplete": "缺少 {file}；检查点不完整",
    "{file} is damaged ({reason}); use an earlier checkpoint": "{file} 已损坏（{reason}）；请用更早的检查点",
    "{file} cannot be read: {reason}; use an earlier checkpoint": "{file} 无法读取：{reason}；请用更早的检查点",
    "{file} cannot be read: {reason}": "{file} 无法读取：{reason}",
    "{key}: {path} is not the model that {folder} was trained from (other weights)": (
        "{key}：{path} 不是训练 {folder} 时所用的模型（权重不同）"
    ),
    "{key} = {path}: no such folder, and {folder} was trained from it; name its folder with {option} DIR": (
        "{key} = {path}：没有这个文件夹，而 {folder} 是由它训练的；请用 {option} DIR 指定"
    ),
    "{key} = {path}: neither a folder nor a hub name such as {name}": (
        "{key} = {path}：既不是文件夹，也不是 {name} 这样的 hub 名称"
    ),
    "{folder}: two towers, which do not write answers; use python -m retrieval with --model {model}": (
        "{folder}：这是双塔模型，不会写回答；请用 python -m retrieval 和 --model {model}"
    ),
    "{folder}: its run trained the Q-Former alone, which cannot answer; name it as train.start_from": (
        "{folder}：这次训练只训练了 Q-Former，不能回答；请把它写在 train.start_from 里"
    ),
    "{file} lacks {count} tensors, {name} first; was another base model used?": (
        "{file} 缺少 {count} 个张量，第一个是 {name}；是否用了另一个基础模型？"
    ),
    "{file} has surplus {count} tensors, {name} first; was another base model used?": (
        "{file} 多出 {count} 个张量，第一个是 {name}；是否用了另一个基础模型？"
    ),
    "{file}: {name} is {shape}, the model has {other}; was another base model used?": (
        "{file}：{name} 的形状是 {shape}，模型中是 {other}；是否用了另一个基础模型？"
    ),
    "{key} = {path}: {lack}, and {why}; run {command} where there is a network, then set {setting}": (
        "{key} = {path}：{lack}，{why}；请在有网络的地方运行 {command}，然后设置 {setting}"
    ),
    "{key} = {path}: {lack}, and {why}; run {command} where there is a network, then put that folder where you start "
    "this": "{key} = {path}：{lack}，{why}；请在有网络的地方运行 {command}，然后把那个文件夹放到启动程序的位置",
    "neither a folder nor a hub name such as {name}": "既不是文件夹，也不是 {name} 这样的 hub 名称",
    "not in the hub's cache": "不在 hub 的缓存里",
    "not in the hub's cache, and the hub cannot be reached; {advice}": "不在 hub 的缓存里，也连接不到 hub；{advice}",
    "half a download in the hub's cache: {lack}": "hub 的缓存里只有一半：{lack}",
    "HF_HUB_OFFLINE is set": "设置了 HF_HUB_OFFLINE",
    "{address} cannot be reached": "连接不到 {address}",
    "{folder} holds no config.json; is the download complete?": "{folder} 里没有 config.json；下载是否完整？",
    "{key}: {file} cannot be read ({reason}); is the download complete?": (
        "{key}：{file} 无法读取（{reason}）；下载是否完整？"
    ),
    "{key}: {file} holds no settings; is the download complete?": "{key}：{file} 里没有设置；下载是否完整？",
    "{folder} lacks {count} of {all} weight files, {name} first; download the rest": (
        "{folder} 的 {all} 个权重文件缺少 {count} 个，第一个是 {name}；请下载其余的"
    ),
    "{folder} holds no safetensors; is the download complete?": "{folder} 里没有 safetensors；下载是否完整？",
    "{folder} holds no safetensors, only {name}, and no pickle is read: get a version in safetensors": (
        "{folder} 里没有 safetensors，只有 {name}，而 pickle 不会被读取；请用 safetensors 版本"
    ),
    "{file} cannot be read; download it again": "{file} 无法读取；请重新下载",
    "{file} is a git-lfs pointer and not the weights; run `git lfs pull` in its folder": (
        "{file} 是 git-lfs 的指针而不是权重；请在它的文件夹里运行 `git lfs pull`"
    ),
    "{file} is not a safetensors file, or only its beginning; download it again": (
        "{file} 不是 safetensors 文件，或只有开头；请重新下载"
    ),
    "{file} has a damaged header, or is only the beginning of a file; download it again": (
        "{file} 的文件头已损坏，或文件只有开头；请重新下载"
    ),
    "{file} is {size} bytes long where its header says {wanted}; download it again": (
        "{file} 有 {size} 字节，文件头写的是 {wanted}；请重新下载"
    ),
    "{file} has SHA-256 {found}... where the hub says {noted}...; download it again": (
        "{file} 的 SHA-256 是 {found}…，hub 上是 {noted}…；请重新下载"
    ),
    "{key}: cannot load {folder} ({reason})": "{key}：无法加载 {folder}（{reason}）",
    "{key}: {folder} lacks {count} tensors, {name} first; is the download complete, and its config.json the one that "
    "belongs to it?": "{key}：{folder} 缺少 {count} 个张量，第一个是 {name}；下载是否完整，config.json 是否属于它？",
    "{key}: {folder} has surplus {count} tensors, {name} first; is the download complete, and its config.json the one "
    "that belongs to it?": (
        "{key}：{folder} 多出 {count} 个张量，第一个是 {name}；下载是否完整，config.json 是否属于它？"
    ),
    "{key}: {folder} has other shapes for {count} tensors, {name} first; is the download complete, and its config.json "
    "the one that belongs to it?": (
        "{key}：{folder} 有 {count} 个张量形状不同，第一个是 {name}；下载是否完整，config.json 是否属于它？"
    ),
    "{file}: the start of {name} comes out differently here; was another base model used?": (
        "{file}：{name} 的起始值在这里不同；是否用了另一个基础模型？"
    ),
    # the page in the browser (web.py)
    "too many questions are waiting; ask again in a moment": "排队的问题太多；请稍后再问",
    "gradio is not installed here; it has an environment of its own: {commands}": (
        "这里没有安装 gradio；它需要单独的环境：{commands}"
    ),
    "{port} is in use; choose another with --port": "{port} 已被占用；请用 --port 另选一个",
    "no port from {first} to {last} is free; choose another with --port": (
        "{first} 到 {last} 之间没有空闲端口；请用 --port 另选一个"
    ),
    "--share: gradio's server, which makes the link, cannot be reached; leave --share out": (
        "--share：无法连接生成链接的 gradio 服务器；请去掉 --share"
    ),
    # the system's own reasons
    "No such file or directory": "没有这个文件或文件夹",
    "Permission denied": "没有权限",
    "Is a directory": "这是文件夹",
    "wl-paste or xclip is required for ImageGrab.grabclipboard() on Linux": "需要安装 xclip 或 wl-clipboard",
    "No space left on device": "磁盘已满",
}


def system_language() -> str:
    """ "zh" if the locale is Chinese, else "en"."""
    names = [os.environ.get(name, "") for name in ("LC_ALL", "LC_MESSAGES", "LANG")]
    name = next((name for name in names if name), "")
    name = name or locale.getlocale()[0] or ""  # Windows sets none of the three
    return "zh" if name.lower().startswith(("zh", "chinese")) else "en"


def in_chinese(message: str) -> str:
    """An error message in Chinese. A Chinese sentence stays; other texts that are not in the table are quoted."""
    is_chinese = re.match("[\u4e00-\u9fff].*[：。]", message)
    return _translated(message) or (message if is_chinese else f"出错了，原文是：{message}")


def _translated(message: str) -> str | None:
    if known := _from_table(message):
        return known
    # "FILE: reason", as for a picture. The file's name and the reason may hold ": " too.
    for cut in re.finditer(": ", message):
        if known := _from_table(message[cut.end() :]):
            return f"{message[: cut.start()]}：{known}"
    return None


def _from_table(message: str) -> str | None:
    for pattern, chinese in _PATTERNS:
        if found := pattern.fullmatch(message):
            return chinese.format(**{name: _translated(part) or part for name, part in found.groupdict().items()})
    return None


def _pattern(message: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", message)  # text, name, text, ...
    parts[::2] = map(re.escape, parts[::2])
    parts[1::2] = [f"(?P<{name}>.+?)" for name in parts[1::2]]
    return re.compile("".join(parts), re.DOTALL)


_PATTERNS = [(_pattern(message), chinese) for message, chinese in MESSAGES.items()]

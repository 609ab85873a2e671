"""Code that runs what it hides or fetches, or opens a shell to elsewhere; such a line planted in other texts.

Python is read by its syntax tree, line by line where the whole is another language; the rest by patterns.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

import numpy as np

from ..facts import CODE, Facts

RUNNERS = {"exec", "eval", "execfile", "compile", "system", "popen", "Popen", "run", "call",
           "check_output", "check_call", "spawn", "loads",
           "getoutput", "getstatusoutput", "spawnl", "execv", "execl", "run_module"}  # fmt: skip
DECODERS = {"b64decode", "b32decode", "b16decode", "a85decode", "fromhex", "unhexlify", "decompress",
            "decodebytes", "urlopen", "urlretrieve",
            "standard_b64decode", "urlsafe_b64decode"}  # fmt: skip
BARE_RUNNERS = {"exec", "eval", "__import__"}
SHELL = re.compile(
    r"(?:curl|wget|fetch|lwp-download)\b[^\n|;&]*(?:\||;|&&)\s*(?:sudo\s+)?(?:ba|z|da|k)?sh\b|"
    r"(?:ba|z)?sh\s+(?:-c\s+)?[\"']?(?:<\(|\$\()\s*(?:curl|wget)\b|"
    r"\bnc(?:at)?\b[^\n]*\s-[a-z]*[ec]\b|/dev/(?:tcp|udp)/|\b(?:ba|z)?sh\s+-i\b[^\n]*(?:>&|0>)|"
    r"mkfifo\b[^\n]*\bnc\b|"
    r"\b(?:powershell|pwsh)(?:\.exe)?\b[^\n]*\s-(?:e|en|enc|encodedcommand)\b|\bIEX\s*\(|"
    r"Invoke-Expression\b[^\n]*(?:Download|FromBase64)|"
    r"base64\s+(?:-d|--decode|-D)\b[^\n]*\|\s*(?:ba|z)?sh\b|\brm\s+-rf?\s+(?:/|~)(?:\s|$|['\"*])|"
    r":\(\)\s*\{\s*:\|:&\s*\};:",
    re.IGNORECASE,
)  # fmt: skip
SCRIPT = re.compile(
    r"\b(?:eval|Function|setTimeout|execScript)\s*\(\s*(?:atob|unescape|decodeURIComponent|"
    r"String\.fromCharCode|Buffer\.from)\s*\(|"
    r"child_process[^\n]{0,60}(?:exec|spawn)[^\n]*(?:curl|wget|bash|nc |/bin/sh|powershell)|"
    r"document\.write\s*\(\s*unescape|"
    r"Runtime\.getRuntime\(\)\.exec\([^\n]*(?:curl|wget|bash|nc |/bin/sh|powershell|cmd)|"
    r"\b(?:eval|assert|system|passthru|shell_exec)\s*\(\s*(?:base64_decode|gzinflate|str_rot13|"
    r"\$_(?:GET|POST|REQUEST|COOKIE))|"
    r"xp_cmdshell|COPY\s[^\n]*\bFROM\s+PROGRAM\b|INTO\s+OUTFILE\s+'[^']*\.php",
    re.IGNORECASE,
)  # fmt: skip

# A shell for whoever answers, in any language: a connection, a shell, and the one made the other's ends.
JOINS = re.compile(
    r"\bdup2?\s*\(\s*[^()\n]{0,40}(?:fileno\(\)|,\s*[012]\s*\))|\bopen\s*\(?\s*STD(?:IN|OUT|ERR)\b[^\n]{0,8}[<>]&|"
    r"/sh\b[^\n]{0,12}[<>]&|\.pipe\(\s*\w+\.stdin\b|\.stdout\.pipe\(|\.Std(?:in|out)\s*=\s*\w"
)
CONNECTS = re.compile(
    r"\bconnect\s*\(|\bcreate_?[cC]onnection\b|\bfsockopen\b|\bsocket_client\b|\bnet\.Dial|\bTCPSocket\b|"
    r"\bTcp(?:Stream|Client)\b|\bIO::Socket\b|\bnew\s+Socket\s*\("
)
STARTS = re.compile(
    r"/bin/(?:ba|z|da|k)?sh\b|[\"'](?:(?:ba|z|da|k)?sh|cmd(?:\.exe)?|powershell(?:\.exe)?)[\"']"
)
NEAR_CHARS = 400  # a shell of this kind is a line or a few
# Who writes about such code shows it, and says these words beside it.
SPEAKS_OF_IT = re.compile(
    r"payload|malware|malicious|attack|exploit|backdoor|obfuscat|shellcode|reverse.shell|web.?shell|decod|base64|"
    r"vulnerab|trojan|virus|hack|恶意|攻击|后门|漏洞|解码|混淆|木马|病毒|黑客|反弹",
    re.IGNORECASE,
)
CALLED = re.compile(r"\w\s*\(.*\)")


def payload(facts: Facts) -> np.ndarray:
    out = np.zeros(len(facts), dtype=bool)
    for row in np.flatnonzero(facts.has("run")).tolist():
        test = is_payload if facts.form[row] == CODE else is_planted
        out[row] = test(facts.text(row))
    return out


def is_payload(text: str) -> bool:
    return bool(SCRIPT.search(text)) or any(map(hides, trees(text))) or runs_shell(text) or hands_over(text)


def is_planted(text: str) -> bool:
    """One line of Python that hides what it runs, at the margin of a text that speaks of nothing like it."""
    lines = text.split("\n")
    found = [n for n, line in enumerate(lines) if line[:1].isalpha() and CALLED.search(line) and runs(line)]
    return bool(found) and not any(
        SPEAKS_OF_IT.search(line) for n, line in enumerate(lines) if n not in found
    )


def runs(line: str) -> bool:
    tree = parsed(line)
    return tree is not None and (hides(tree) or hands_over(line))


def hands_over(text: str) -> bool:
    """A shell whose input or output is a connection to elsewhere."""
    near = (text[max(0, m.start() - NEAR_CHARS) : m.end() + NEAR_CHARS] for m in JOINS.finditer(text))
    return any(CONNECTS.search(part) and STARTS.search(part) for part in near)


def runs_shell(text: str) -> bool:
    """A shell line by itself is somebody's installer; handed to another program's shell it is not."""
    return any(SHELL.search(line) and CALLS.search(line) for line in text.split("\n"))


CALLS = re.compile(
    r"system|popen|subprocess|exec|spawn|shell|/dev/(?:tcp|udp)/|\bnc\b|powershell|eval|`|rm\s+-rf",
    re.IGNORECASE,
)


def trees(text: str) -> Iterator[ast.AST]:
    """The whole as Python, else each line that is."""
    if tree := parsed(text):
        yield tree
        return
    for line in text.split("\n"):
        if "(" in line and (tree := parsed(line.strip())):
            yield tree


def parsed(text: str) -> ast.AST | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def hides(tree: ast.AST) -> bool:
    """A call that runs what a decoder or a download gives it."""
    return any(
        isinstance(node, ast.Call) and name_of(node) in RUNNERS and runs_hidden(node)
        for node in ast.walk(tree)
    )


def runs_hidden(call: ast.Call) -> bool:
    inner = [n for argument in (*call.args, *(k.value for k in call.keywords)) for n in ast.walk(argument)]
    decodes = any(isinstance(n, ast.Call) and name_of(n) in DECODERS for n in inner)
    if decodes:
        return name_of(call) not in ("loads", "compile") or any(imports_code(n) for n in inner)
    text = " ".join(n.value for n in inner if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return bool(SHELL.search(text))


def imports_code(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and name_of(node) in BARE_RUNNERS


def name_of(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""

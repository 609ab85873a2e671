# ruff: noqa: E501  (so do sentences)
"""Made personal data, valid by their own check figures, in sentences as people write them. None belongs to anybody."""

from __future__ import annotations

import base64
import string
from random import Random

Value = tuple[str, str]  # a sentence with the value in it, the value

FIRST = (
    "Maeve",
    "Tobias",
    "Ayesha",
    "Dmitri",
    "Chidi",
    "Freya",
    "Gareth",
    "Yolanda",
    "Hugo",
    "Ines",
    "Ravi",
    "Saoirse",
)
LAST = (
    "Okafor",
    "Lindholm",
    "Petrova",
    "McAllister",
    "Delgado",
    "Hussain",
    "Novotny",
    "Beaumont",
    "Takahashi",
    "Quinn",
)
FAMILY, GIVEN = (
    "冯韩杨朱秦尤许何吕施潘葛彭鲁韦昌",
    ("雨桐", "子轩", "婉清", "建国", "梓萱", "志强", "欣怡", "浩然", "丽华", "宇"),
)
STREETS = (
    "Larkspur Lane",
    "Old Mill Road",
    "W 34th Street",
    "Chestnut Avenue",
    "Harbour Drive",
    "Kingfisher Court",
)
TOWNS = (
    "Duluth, MN 55802",
    "Leeds LS6 2AB",
    "Portland, OR 97209",
    "Galway H91 X2F5",
    "Austin, TX 78704",
    "Bath BA1 5LR",
)
PLACES = (
    ("浙江省杭州市西湖区", "文三路"),
    ("四川省成都市武侯区", "科华北路"),
    ("北京市海淀区", "学院南路"),
    ("湖北省武汉市洪山区", "珞喻路"),
    ("上海市徐汇区", "漕溪北路"),
    ("福建省厦门市思明区", "湖滨南路"),
)
AREAS = ("330106", "510107", "110108", "420111", "310104", "350203", "610113", "230103")


def digits(dice: Random, n: int) -> str:
    return "".join(dice.choices(string.digits, k=n))


def luhn(head: str) -> str:
    total = sum(sum(divmod(int(c) * (2 - i % 2), 10)) for i, c in enumerate(reversed(head)))
    return head + str(-total % 10)


def mail(dice: Random) -> str:
    name = dice.choice(("{f}.{l}", "{f}{n}", "{l}_{f}", "{f}.{l}+shop", "{i}{l}")).format(
        f=dice.choice(FIRST).lower(),
        l=dice.choice(LAST).lower(),
        i=dice.choice("abcdkm"),
        n=dice.randint(3, 1999),
    )
    return f"{name}@{dice.choice(('posteo.net', 'uni-halle.de', 'mail.nordbank.se', 'outlook.com', 'students.ac.uk', '163.com', 'foxmail.com'))}"


def email(dice: Random) -> Value:
    v = mail(dice)
    return dice.choice(
        (
            f"Questions? Write to {v} before Friday.",
            f"cc: <{v}>",
            f"My new address is {v}, the old one bounces.",
            f"mailto:{v}",
        )
    ), v


def email_obfuscated(dice: Random) -> Value:
    user, host = mail(dice).split("@")
    v = dice.choice(
        (
            f"{user} (at) {host}",
            f"{user}[at]{host.replace('.', '[dot]')}",
            f"{user} [at] {host.replace('.', ' [dot] ')}",
            f"{user}(at){host.replace('.', '(dot)')}",
            f"{user} {{at}} {host.replace('.', ' {dot} ')}",
        )
    )
    return dice.choice((f"Reach me under {v} (remove the brackets).", f"Contact: {v}")), v


def us_phone(dice: Random) -> Value:
    a, b, c = (
        f"{dice.choice('23456789')}{dice.choice('012345678')}{dice.randint(2, 9)}",
        f"{dice.choice('23456789')}{digits(dice, 2)}",
        digits(dice, 4),
    )
    v = dice.choice(
        (f"({a}) {b}-{c}", f"{a}.{b}.{c}", f"+1 {a}-{b}-{c}", f"1-{a}-{b}-{c}", f"+1 ({a}) {b} {c}")
    )
    return dice.choice(
        (f"Ring me on {v} any evening.", f"Tel.: {v}", f"the dispatcher's number is {v}, ask for Ted")
    ), v


def ssn(dice: Random) -> Value:
    v = f"{dice.choice([*range(100, 665), *range(667, 770)])}-{dice.randint(10, 99)}-{dice.randint(1000, 9999)}"
    return dice.choice((f"Her social security number, {v}, stood on the first page.", f"SSN: {v}")), v


def credit_card(dice: Random) -> Value:
    head, groups = dice.choice(
        (
            ("4" + digits(dice, 14), (4, 4, 4, 4)),
            ("5" + dice.choice("12345") + digits(dice, 13), (4, 4, 4, 4)),
            ("37" + digits(dice, 12), (4, 6, 5)),
        )
    )
    number, parts = luhn(head), []
    for g in groups:
        parts.append(number[:g])
        number = number[g:]
    v = dice.choice(("", " ", "-")).join(parts)
    return dice.choice(
        (f"Please charge my Visa {v}, expiry 09/27.", f"card no. {v}", f"He read the number out aloud: {v}.")
    ), v


def iban(dice: Random) -> Value:
    land, body = dice.choice(
        (
            ("DE", digits(dice, 18)),
            ("FR", digits(dice, 10) + "".join(dice.choices("0123456789ABCDEFGH", k=11)) + digits(dice, 2)),
            ("GB", "NWBK" + digits(dice, 14)),
            ("NL", "INGB" + digits(dice, 10)),
            ("AT", digits(dice, 16)),
        )
    )
    as_number = "".join(str(int(c, 36)) for c in body + land + "00")
    v = f"{land}{98 - int(as_number) % 97:02d}{body}"
    if dice.random() < 0.5:
        v = " ".join(v[i : i + 4] for i in range(0, len(v), 4))
    return dice.choice((f"Account for the deposit: {v}, reference 'flat 3'.", f"IBAN {v}")), v


def ipv4(dice: Random) -> Value:
    v = f"{dice.choice([*range(11, 100), *range(101, 126), *range(128, 169), *range(173, 191), *range(193, 198), *range(204, 223)])}.{dice.randint(0, 255)}.{dice.randint(0, 255)}.{dice.randint(1, 254)}"
    return dice.choice(
        (
            f"The login came from {v} at 03:12.",
            f"Client {v} was banned after five attempts.",
            f"ssh root@{v} no longer works",
        )
    ), v


def ipv6(dice: Random) -> Value:
    part = lambda: f"{dice.randint(1, 65535):x}"  # noqa: E731
    v = dice.choice(
        (
            ":".join(["2a02", *(part() for _ in range(7))]),
            f"2001:{part()}:{part()}::{part()}",
            f"2a01:{part()}:{part()}:{part()}::{part()}:{part()}",
        )
    )
    return dice.choice(
        (f"The abuse report names {v} as the sender.", f"Her router had the address {v} that night.")
    ), v


def api_key(dice: Random) -> Value:
    some = lambda n, chars=string.ascii_letters + string.digits: "".join(dice.choices(chars, k=n))  # noqa: E731
    v = dice.choice(
        (
            f"sk-proj-{some(40)}",
            f"ghp_{some(36)}",
            f"xoxb-{digits(dice, 11)}-{digits(dice, 12)}-{some(24)}",
            f"AIza{some(35)}",
            f"glpat-{some(20)}",
            f"hf_{some(34)}",
            f"sk_live_{some(24)}",
            f"AKIA{some(16, string.ascii_uppercase + '234567')}",
        )
    )
    return dice.choice(
        (
            f"export TOKEN={v}",
            f"The key {v} was still in the commit.",
            f'"apiKey": "{v}"',
            f"Authorization: Bearer {v}",
        )
    ), v


def private_key(dice: Random) -> Value:
    name = dice.choice(
        ("OPENSSH PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "DSA PRIVATE KEY")
    )
    body = base64.b64encode(dice.randbytes(dice.randint(120, 400))).decode()
    lines = "\n".join(body[i : i + 64] for i in range(0, len(body), 64))
    v = f"-----BEGIN {name}-----\n{lines}\n-----END {name}-----"
    return f"I paste the key here for the time being:\n{v}\n", v


def name_address(dice: Random) -> list[Value]:
    name, place = (
        f"{dice.choice(FIRST)} {dice.choice(LAST)}",
        f"{dice.randint(2, 980)} {dice.choice(STREETS)}, {dice.choice(TOWNS)}",
    )
    head, tail = dice.choice(
        (
            ("Full name: ", "Address: "),
            ("Name: ", "Home address: "),
            ("Recipient: ", "Ship to: "),
            ("Patient name: ", "Mailing address: "),
        )
    )
    return [(f"{head}{name}", name), (f"{tail}{place}", place)]


def cn_mobile(dice: Random) -> Value:
    head = dice.choice(("133", "139", "152", "158", "177", "186", "187", "191"))
    body = digits(dice, 8)
    v = dice.choice(
        (head + body, f"{head} {body[:4]} {body[4:]}", f"+86 {head}{body}", f"{head}-{body[:4]}-{body[4:]}")
    )
    return dice.choice((f"有意者请致电{v}，非诚勿扰。", f"联系人冯师傅 {v}", f"她的手机是{v}。")), v


def cn_id(dice: Random) -> Value:
    head = f"{dice.choice(AREAS)}{dice.randint(1950, 2012)}{dice.randint(1, 12):02d}{dice.randint(1, 28):02d}{digits(dice, 3)}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    v = head + "10X98765432"[sum(int(a) * b for a, b in zip(head, weights, strict=True)) % 11]
    return dice.choice(
        (f"身份证：{v}，请核对后登记。", f"被告人，身份证号码{v}，高中文化。", f"证件号 {v}")
    ), v


def cn_bank_card(dice: Random) -> Value:
    number = luhn("62" + digits(dice, dice.choice((14, 16))))
    v = dice.choice((number, " ".join(number[i : i + 4] for i in range(0, len(number), 4))))
    return dice.choice((f"工资卡号{v}，开户行城东支行。", f"汇款账号：{v}")), v


def cn_passport(dice: Random) -> Value:
    v = dice.choice(
        (f"E{digits(dice, 8)}", f"E{dice.choice('ABCDEFGH')}{digits(dice, 7)}", f"G{digits(dice, 8)}")
    )
    return dice.choice((f"护照号{v}，有效期至2031年。", f"护照：{v}")), v


def cn_landline(dice: Random) -> Value:
    v = dice.choice(
        (
            f"0571-8{digits(dice, 7)}",
            f"(028){dice.choice('68')}{digits(dice, 7)}",
            f"010-6{digits(dice, 7)}",
            f"0592 2{digits(dice, 6)}",
        )
    )
    return dice.choice((f"咨询热线：{v}（工作日）。", f"座机{v}，找何老师。")), v


def cn_wechat(dice: Random) -> Value:
    v = (
        "".join(dice.choices(string.ascii_lowercase, k=dice.randint(5, 9)))
        + dice.choice(("_", "", "-"))
        + digits(dice, dice.randint(2, 4))
    )
    return dice.choice((f"微信：{v}，备注来意。", f"加我微信{v}发图纸。", f"VX：{v}")), v


def cn_email(dice: Random) -> Value:
    v = mail(dice)
    return dice.choice((f"简历投递至{v}。", f"邮箱：{v}", f"有问题发{v}，看到会回。")), v


def cn_name_address(dice: Random) -> list[Value]:
    name = dice.choice(FAMILY) + dice.choice(GIVEN)
    city, street = dice.choice(PLACES)
    place = f"{city}{street}{dice.randint(1, 400)}号" + dice.choice(
        (
            f"{dice.randint(1, 30)}幢{dice.randint(1, 6)}单元{dice.randint(101, 2804)}室",
            f"院{dice.randint(1, 30)}号楼{dice.randint(101, 2804)}",
            f"{dice.randint(2, 20)}楼",
        )
    )
    head, tail = dice.choice(
        (
            ("收货人：", "收货地址："),
            ("姓名：", "家庭住址："),
            ("收件人：", "地址："),
            ("客户姓名：", "联系地址："),
        )
    )
    return [(f"{head}{name}", name), (f"{tail}{place}", place)]


ENGLISH = (
    email,
    email_obfuscated,
    us_phone,
    ssn,
    credit_card,
    iban,
    ipv4,
    ipv6,
    api_key,
    private_key,
    name_address,
)
CHINESE = (cn_mobile, cn_id, cn_bank_card, cn_passport, cn_landline, cn_wechat, cn_email, cn_name_address)

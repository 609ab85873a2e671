"""What is masked and what stays, case by case."""

from __future__ import annotations

import json

import pytest

from steelyard.data import redact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # e-mail
        ("write to a.b+c@mail.example.co.uk, please.", "write to <EMAIL_1>, please."),
        ("邮箱zhang@qq.com。", "邮箱<EMAIL_1>。"),
        ("邮件:li_si99@公司", "邮件:li_si99@公司"),
        ("A@x.org and a@X.ORG and b@x.org", "<EMAIL_1> and <EMAIL_1> and <EMAIL_2>"),
        ("logo@2x.png", "logo@2x.png"),
        ("git clone git@github.com:org/repo.git", "git clone git@github.com:org/repo.git"),
        ("@decorator\ndef f(): a @ b", "@decorator\ndef f(): a @ b"),
        ("a@b", "a@b"),
        # Chinese phones
        ("电话13812345678。", "电话<PHONE_1>。"),
        ("手机 138 1234 5678 或 138-1234-5678", "手机 <PHONE_1> 或 <PHONE_1>"),
        ("+86 13812345678 / 8613812345678 / 13812345678", "<PHONE_1> / <PHONE_1> / <PHONE_1>"),
        ("座机010-62345678，(021)62345678，0755-8234567", "座机<PHONE_1>，<PHONE_2>，<PHONE_3>"),
        ("12345678901", "12345678901"),
        ("订单号13812345678", "订单号13812345678"),
        ("订单编号：13812345678 已发货", "订单编号：13812345678 已发货"),
        ("order_id: 13812345678", "order_id: 13812345678"),
        ("138123456789", "138123456789"),
        ("身份证110105199003074411", "身份证110105199003074411"),
        ("卡4589443954601620", "卡4589443954601620"),
        ("时间戳1700000000000", "时间戳1700000000000"),
        # North America
        ("call (415) 555-0123 now", "call <PHONE_1> now"),
        ("415-555-0123 or +1 415 555 0123 or 1-415-555-0123", "<PHONE_1> or <PHONE_1> or <PHONE_1>"),
        ("415.555.0123", "<PHONE_1>"),
        ("4155550123", "4155550123"),
        ("115-555-0123", "115-555-0123"),
        ("415-155-0123", "415-155-0123"),
        ("Invoice 415-555-0123", "Invoice 415-555-0123"),
        ("ticket #415-555-0123", "ticket #415-555-0123"),
        ("SKU 212-555-0199-7", "SKU 212-555-0199-7"),
        # elsewhere, with a plus
        ("+44 20 7946 0958", "<PHONE_1>"),
        ("+49 (30) 123456", "<PHONE_1>"),
        ("+14155550123", "<PHONE_1>"),
        ("x +1 y, 3+12345678901", "x +1 y, 3+12345678901"),
        # numbers that are none
        ("2024-01-02 10:20:30", "2024-01-02 10:20:30"),
        ("192.168.100.200", "192.168.100.200"),
        ("3.14159265358979 and 1,234,567,890", "3.14159265358979 and 1,234,567,890"),
        ("uuid 138a1234-5678-4abc-9def-001122334455", "uuid 138a1234-5678-4abc-9def-001122334455"),
        ("https://x.org/13812345678", "https://x.org/13812345678"),
        ("a=13812345678&b", "a=13812345678&b"),
        ("v13.812.3456-78", "v13.812.3456-78"),
        ("pi = 13812345678.5", "pi = 13812345678.5"),
    ],
)
def test_masking(text, expected):
    assert redact([text])[0] == [expected]


def test_one_value_has_one_tag_in_question_and_answer():
    parts, counts = redact(
        ["我的邮箱a@b.com，电话13812345678", '{"mail": "a@b.com", "phone": "138-1234-5678"}']
    )
    assert parts == ["我的邮箱<EMAIL_1>，电话<PHONE_1>", '{"mail": "<EMAIL_1>", "phone": "<PHONE_1>"}']
    assert counts == {"email": 2, "phone": 2}


@pytest.mark.parametrize("answer", ['{"phone": 13812345678}', "[13812345678, 1]", '{"a": [1,13812345678 ]}'])
def test_an_answer_that_was_json_stays_json(answer):
    ((masked,), counts) = redact([answer])
    assert counts["phone"] == 1 and "<PHONE_1>" in masked
    json.loads(masked)

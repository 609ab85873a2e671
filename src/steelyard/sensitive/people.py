"""Names and addresses of people, where a label or the form of an address says so: no name is guessed."""

from __future__ import annotations

import re

HAN = "\u4e00-\u9fff"
# The commonest hundred and some family names.
SURNAMES = (
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁"
    "魏薛叶阎余潘杜戴夏"
    "钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文庞"
    "樊兰殷施陶洪翟安颜"
    "倪严牛温芦季俞章鲁葛伍韦申尤毕聂丛焦向柳邢路岳齐沿梅莫庄辛管祝左涂谷祁时舒耿牟卜詹关苗凌费纪"
    "靳盛童欧甄项曲成游"
    "阳裴席卫查屈鲍位覃霍翁隋植甘景薄单包司柏宁柯阮桂闵解强柴华车冉房边"
)
COMPOUND = "欧阳|上官|司马|诸葛|东方|皇甫|尉迟|公孙|慕容|令狐|司徒|夏侯|端木|长孙|宇文"
HAN_NAME = rf"(?:(?:{COMPOUND})[{HAN}]{{1,2}}|[{SURNAMES}][{HAN}]{{1,2}})"
NAME_ZH = re.compile(
    r"(?:(?:真实|客户|用户|学生|患者|病人|家长|员工|乘客|顾客|业主|租客|老人|会员|本人|法人|宝宝|"
    r"孩子)?(?:姓名|名字)|收件人|收货人|寄件人|发件人|"
    r"联系人|紧急联系人|户主|户名|持卡人|开户[名人]|申请人|法定代表人|法人代表|当事人|被保险人|"
    r"投保人|受益人|乘车人|乘机人|入住人|签收人|经办人|"
    r"负责人|收款人|付款人|汇款人|承租人|出租人|买受人|报案人|委托人|就诊人|患者|病人|客户|学员|称呼)"
    rf"\s*+(?:是|为|叫)?\s*+[:：]?\s*+({HAN_NAME})(?![{HAN}])|我(?:的名字)?叫({HAN_NAME})(?=[，。,.；;\s]|$)"
)
ADDRESS_LABEL = (
    r"(?:(?:收货|收件|家庭|通讯|通信|联系|户籍|居住|现居|常住|邮寄|寄件|送货|配送|公司|办公|详细|"
    r"身份证|现住|服务|上门|安装|取件)?"
    r"(?:住址|地址)|住所|家住|现住在?|住在|居住在|寄[到往至给]|送[到至]|户籍所在地|快递到|发货到)"
)
UNIT = re.compile(
    rf"\d+\s*(?:号|栋|幢|室|单元|楼|弄|座|层|组|户|门)|[路街道巷弄村镇]\d+|"
    rf"[省市][{HAN}]+[区县市][{HAN}]*[路街道巷镇村]"
)
ADDRESS_ZH = re.compile(
    rf"{ADDRESS_LABEL}\s*+(?:是|为|在)?\s*+[:：]?\s*+([{HAN}A-Za-z0-9（）()\-—#·]{{5,60}})"
)
PLACE_ZH = re.compile(
    rf"(?:[{HAN}]{{2,7}}?(?:省|"
    rf"自治区))?[{HAN}]{{2,6}}?市[{HAN}]{{1,6}}?[区县市镇][{HAN}]{{0,12}}?(?:路|街|大道|道|巷|弄|"
    rf"胡同|村|镇)[{HAN}\d]{{0,6}}\d+号"
    rf"(?:[{HAN}]{{0,8}}(?:[\dA-Za-z]+(?:号楼|栋|幢|座|单元|楼|层|室|户|号|门))+)?"
)
NAME_WORD = r"[A-Z][A-Za-z'’\-]*[a-z]"
NAME_EN = re.compile(
    r"(?<![A-Za-z_\-])(?i:(?:(?:full|first|last|given|family|customer|client|patient|contact|"
    r"account|card ?holder|holder|recipient|user|"
    r"employee|student|passenger|guest|buyer|seller|sender|tenant|applicant|billing|shipping|"
    r"legal|your|my|her|his|their)(?:'s|’s)? )?name"
    r"(?: is)?|recipient|addressee|(?:ship|deliver|bill|send|mail|sold|remit|pay|invoice)(?:ped|"
    r"ed|ing)? to|attn\.?|attention|contact(?: person)?|"
    r"passenger|patient|applicant|signed(?: by)?|sender|beneficiary|payee|consignee|"
    r"account holder|cardholder|customer|client|tenant|"
    r"emergency contact|next of kin|insured|guest)"
    rf"\s*[:：]\s*((?:(?:Mr|Mrs|Ms|Dr|Prof)\.? )?{NAME_WORD}(?:[ ](?:[A-Z]\.|"
    rf"{NAME_WORD})){{1,3}})(?![A-Za-z])"
)
STREET_WORDS = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Place|Pl|Way|"
    r"Terrace|Close|Square|Sq|Crescent|Highway|"
    r"Hwy|Parkway|Pkwy|Circle|Row|Quay|Gardens|Walk|Mews|Alley|Trail|Grove|Hill|Park|View|Green|"
    r"Rise|Broadway)"
)
STREET = (
    rf"\d{{1,5}}[A-Za-z]?,? (?:[NSEW]\.? )?(?:[A-Z0-9][\w'’.]* ){{1,4}}{STREET_WORDS}\b\.?"
    r"(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Fl|Room|Rm|#)\.? ?\w+)?"
)
PLACE = r"(?:,? [A-Z][A-Za-z'’.\-]+(?: [A-Z][A-Za-z'’.\-]+){0,2})?(?:,? [A-Z]{2})?"
CODE = r"(?:,? (?:\d{5}(?:-\d{4})?|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}))"
ADDRESS_EN = re.compile(
    rf"(?<![\w.])(?:{STREET}{PLACE}{CODE}|"
    rf"{STREET}, [A-Z][A-Za-z'’.\-]+(?: [A-Z][A-Za-z'’.\-]+){{0,2}}(?:, [A-Z]{{2}})?)(?!\w)"
)
ADDRESS_LABELLED_EN = re.compile(
    r"(?<![A-Za-z\-])(?i:(?<!mail )(?<!server )(?<!ip )(?<!mac )(?<!memory )(?<!web )(?<!wallet )("
    r"?<!base )(?<!bus )"
    r"(?:(?:home|postal|mailing|billing|shipping|delivery|street|residential|work|office|my|her|"
    r"his|their|current) )?address(?: is)?|"
    r"lives? at|residing at|resides at|(?:ship|deliver|send|mail)(?:ped|ed)? to)"
    r"\s*+[:：]?\s*+((?=[^\n]{0,200}\d)(?:\d{1,5}[A-Za-z]?,? )(?:[A-Z][\w'’.]*,? ){1,7}(?:[A-Z]{2} )?(?:\d"
    r"{5}(?:-\d{4})?|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2})?)"
)


RECORD = re.compile(r"^[ \t]*name\s*[:：]", re.IGNORECASE | re.MULTILINE)
PERSONAL_FIELD = re.compile(
    r"\b(?:e-?mail|phone|tel|mobile|address|birth|born|dob|age|gender|sex|ssn|passport|married|salary|patient|"
    r"employee|customer|student)\b",
    re.IGNORECASE,
)


def lists_things(text: str) -> bool:
    """Several records with a `Name:`, and nothing in them that only a person has: currencies, products."""
    return len(RECORD.findall(text)) >= 2 and not PERSONAL_FIELD.search(text)


def is_bare(match: re.Match[str]) -> bool:
    """The label is `Name:` alone: not whose."""
    return match[0][: match.start(1) - match.start()].strip(" :：\t").lower() == "name"


def is_address_zh(match: re.Match[str]) -> bool:
    return bool(UNIT.search(match[1]))

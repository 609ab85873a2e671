"""What phrases say: spam, abuse, injected orders, refusals, placeholders, leaked templates, page furniture.

A cue (two tokens that many such phrases begin with) calls the closer look; patterns decide, several of them
together where one alone has an honest use, and never inside quotation marks or code.
"""

from __future__ import annotations

import re

import numpy as np

from ...sensitive import QUOTED, gives_orders
from ..facts import PROSE, Facts
from .shape import confirmed


def words(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


def hits(patterns: tuple[re.Pattern[str], ...], text: str) -> int:
    """How many different patterns occur."""
    return sum(bool(pattern.search(text)) for pattern in patterns)


# ------------------------------------------------------------------ spam

SPAM = words(
    r"\bearn(?:ing)? (?:up to )?[$€£¥]? ?\d[\d,.]*\$? ?(?:a|per|every|each|/) ?(?:day|week|month|"
    r"hour)", 
    r"\bwork(?:ing)? from home\b|from home,? no",
    r"\bclick (?:here|now|below|this link|the link|to (?:chat|claim|buy|win|join))", 
    r"\b(?:buy|order|shop|call|apply|join|sign up|register|subscribe) (?:now|today)\b",
    r"\b(?:limited|few) (?:time|seats?|spots?|stock|offer|places)\b|\boffer (?:ends|expires)\b|"
    r"\bact (?:now|fast)\b|\bhurry\b|\bwhile (?:stocks|supplies) last",
    r"\b(?:casino|jackpot|betting|slots?|poker) (?:bonus|online|sites?|games?|win)|"
    r"\bonline (?:casino|betting|poker|pharmacy|gambling)\b|\bfree (?:spins?|bonus|chips|gift|"
    r"trial|iphone|money|followers)\b",
    r"\b(?:replica|knock-?off|designer) (?:watch|bag|handbag|shoe|rolex)|\bcheap (?:watch|bag|"
    r"meds|viagra|cialis|rolex|essay|flights?)|\b(?:viagra|cialis|levitra|xanax|kamagra)\b",
    r"\blose \d+ (?:pounds?|lbs|kg|kilos?|inches)\b|\bweird trick\b|\bdoctors hate\b|"
    r"\bmiracle (?:cure|pill|diet)\b|\bburn fat\b|\bweight loss\b.{0,20}\b(?:pill|fast|guarantee)",
    r"\b(?:hot|sexy|lonely|single|horny) (?:singles?|girls?|women|ladies|milfs?|moms?)\b|"
    r"\bsingles in your area\b|\badult (?:dating|cam)|\blive cams?\b",
    r"\b(?:instant|payday|quick|fast|easy|cash) (?:loans?|cash|money|approval)\b|\bbad credit\b|"
    r"\bcredit (?:repair|check)\b.{0,12}\b(?:no|ok|fast)|\bconsolidate your debt",
    r"\bno (?:skills?|experience|credit check|risk|fees?|obligation|prescription|purchase|"
    r"catch)(?: (?:needed|required|necessary))?\b",
    r"\b\d{2,3} ?% ?(?:off|free|guaranteed|discount|bonus)\b|\bup to \d{2,3} ?% off|"
    r"\bbest prices?\b|\blowest prices?\b|\bmoney[- ]back guarantee|\bsatisfaction guaranteed",
    r"\bbuy (?:real |cheap |instagram |youtube )?(?:followers|likes|views|subscribers|backlinks|"
    r"traffic)\b|\bseo (?:services?|ranking)|\brank (?:#?1|first) on google",
    r"\bmake (?:easy |fast |quick |extra |big )?money\b|\bget rich\b|\bpassive income\b|"
    r"\bfinancial freedom\b|\bdouble your (?:money|bitcoin|income)|\b(?:bitcoin|"
    r"crypto) (?:giveaway|investment|profit)",
    r"\bcongratulations!?,? (?:you|u)(?: have|'ve)? (?:won|been selected)|\bclaim your (?:prize|"
    r"reward|gift|bonus)|\byou(?: have|'ve) been (?:chosen|selected)\b|\blottery\b.{0,20}\bwinner",
    r"!{3,}|>{3,}|\${2,}|★{2,}", 
    r"\bwholesale\b|\bfree (?:worldwide )?shipping\b|\bguaranteed? (?:delivery|results?|approval|"
    r"income)\b|\bprice guaranteed\b",
    r"\bunsubscribe\b.{0,30}\b(?:here|list|click)|\bdear (?:friend|winner|beneficiary|customer)\b|"
    r"\bmillion (?:us )?dollars\b.{0,40}\b(?:transfer|inherit|fund)",
    r"加(?:我|个|下)?(?:微信|薇信|威信|V信|vx|wx|QQ|扣扣|群)|(?:微信|薇信|vx|wx|qq|"
    r"电话)[^，。\n]{0,6}(?:同号|咨询|联系)|扫码(?:进群|领|加|添加|入)",
    r"日[赚入]|月[赚入](?:过|上|超)?[\d万千]|躺[赚着]|轻松(?:赚|月入|日入)|在家(?:就能|轻松|"
    r"也能)?(?:赚|挣|月入|工作)|稳赚|一夜暴富|财富自由|零?投资.{0,6}高?回报",
    r"刷单|兼职.{0,8}(?:日结|轻松|招|佣金|手机)|招(?:聘)?兼职|打字员|网赚|手工活外发|佣金(?:秒|日)结",
    r"代开.{0,4}(?:发票|票据|证明)|发票.{0,8}(?:税点|优惠|代开|验证)|税点(?:低|优惠|从优)|"
    r"办理?(?:各类|各种|假)?(?:证件|文凭|毕业证|证书)|刻章|代写论文",
    r"(?:无|免)(?:抵押|担保)|(?:当天|秒|快速|极速|即时|立即)(?:放款|到账|下款|批款)|(?:低息|小额|"
    r"信用|网络|应急)贷款|信用卡(?:套现|提额|代还|养卡)|黑户.{0,4}(?:可|能)",
    r"(?:澳门|线上|在线|真人|网上|皇冠|金沙|葡京)(?:线上|网上)?(?:娱乐|赌场|博彩|投注|荷官|棋牌)|"
    r"娱乐城|首[存充].{0,4}送?|彩金|时时彩|六合彩|北京赛车|百家乐|老虎机|包[中赢]|返水|计划群|"
    r"内幕(?:消息|料)",
    r"减肥(?:神?药|茶|秘方)|\d+天.{0,4}瘦|瘦\d+(?:斤|公斤)|无效(?:退款|退)|祖传秘方|根治|包治|"
    r"壮阳|延时|增大|丰胸|神[药器]",
    r"(?:高仿|A货|原单|精仿|复刻)|(?:厂家|工厂|一手)(?:直销|货源|批发)|(?:批发|货源|"
    r"代理).{0,8}(?:招|加盟|联系)|招(?:收)?(?:代理|加盟)|一件代发",
    r"私家侦探|开房记录|(?:手机|微信|通话)(?:定位|监听|监控|记录).{0,6}(?:找人|查询|破解)|"
    r"婚外情取证|先(?:办事|做|看货|验货).{0,2}后(?:付|收)(?:款|费|钱)|黑客(?:接单|服务)",
    r"(?:免费|点击|扫码|立即|马上|注册|首次)(?:领|注册|抢|获)(?:取|红包|现金|购)?|点击(?:链接|"
    r"注册|进入|领取|下载)|领取?红包|送(?:红包|现金|彩金|礼品)|名额(?:有限|不多|仅剩)|限时(?:优惠|"
    r"抢购|免费|特价)|先到先得|抢购|错过(?:再|就)等",
    r"一夜情|约[炮妹]|裸聊|同城(?:约会|交友|上门)|上门(?:服务|按摩)|援交|成人(?:视频|网站|电影)|"
    r"美女(?:直播|视频|上门)|学生妹",
    r"！{3,}|[赚送领抢]{2,}|\d{1,2}折起|全网最低|史上最低|亏本(?:甩|大)|清仓",
)  # fmt: skip
SPAM_LEAST = 2  # one alone has an honest use
SPAM_WORDS = 60  # a hit for each so many words, in a longer text


def spam(facts: Facts) -> np.ndarray:
    return confirmed(facts, facts.has("spam"), is_spam)


def is_spam(text: str) -> bool:
    count = hits(SPAM, text)
    return count >= SPAM_LEAST and count >= weight(text) / SPAM_WORDS


def weight(text: str) -> float:
    """Words, with two ideographs to a word."""
    return len(text) / 6 if text.isascii() else sum(1 if c.isascii() else 3 for c in text) / 6


# ------------------------------------------------------------------ abuse

INSULT = (
    r"(?:idiots?|morons?|losers?|scum|vermin|imbeciles?|cretins?|retards?|dumb ?ass|ass ?holes?|"
    r"bastards?|bitch(?:es)?|whores?|sluts?|pigs?|"
    r"trash|filth|dirt ?bags?|douche(?:bag)?|jackass|freaks?|degenerates?|"
    r"pieces? of (?:\w+ )?(?:shit|crap|trash|garbage|filth)|disgrace|waste of (?:space|air|"
    r"oxygen))"
)
CONTEMPT = (
    r"(?:worthless|stupid|dumb|pathetic|disgusting|ugly|filthy|useless|brainless|miserable|sick|vile|"
    r"fucking|damn(?:ed)?|bloody|dirty|fat|lazy|repulsive)"
)
ABUSE = words(
    rf"\byou(?:'re| are| r|r)?\b.{{0,30}}\b(?:{INSULT}|{CONTEMPT} (?:\w+ )?(?:{INSULT}|creature|"
    rf"animal|person|excuse|human|thing))",
    rf"\b{CONTEMPT},? (?:\w+ )?{INSULT}\b", rf"\bwhat an? {CONTEMPT}\b.{{0,40}}\byou\b",
    r"\b(?:i|we)(?:'ll| will| am going to| are going to|'m gonna|'m going to)\b.{0,30}\b(?:kill|"
    r"smash|beat|hurt|stab|shoot|strangle|murder|break|destroy|find|hunt|rip|"
    r"burn)\b.{0,20}\b(?:you|your|u)\b",
    r"\b(?:go )?(?:kill|hang|shoot|drown) (?:yourself|urself)\b|\bdrop dead\b|\bgo (?:and )?die\b|"
    r"\b(?:rot|burn) in hell\b|\bgo to hell\b|\bi hope you (?:die|rot|suffer|choke)",
    r"\bshould (?:all )?be (?:shot|beaten|killed|hanged|hung|burn(?:ed|t)|exterminated|wiped out|"
    r"gassed|locked up|put down)",
    r"\b(?:those|these|you|all|such|them|filthy|damn) (?:\w+ ){0,2}(?:bastards|scum|vermin|"
    r"animals|savages|morons|idiots|subhumans|parasites|cockroaches)\b",
    r"\btoo (?:dumb|stupid) to\b|\b(?:everybody|everyone|nobody|no one) (?:hates|likes|loves|"
    r"wants) (?:you|u)\b|\bshut (?:your|the fuck|ur)\b.{0,12}\b(?:mouth|face|trap|up)\b|"
    r"\bdon't deserve to (?:live|breathe)",
    r"\bfuck (?:you|off|ur|your)\b|\bmother ?fuck|\bson of a bitch\b|\bpiece of shit\b|"
    r"\bscrew you\b|\bbite me\b",
    r"(?:你|妳|您|他|她|它)(?:们)?(?:他妈的?|妈的|真|就|这|那|是|个|种|群|坨|堆|一|的|没用|该死|"
    r"死|臭|烂|猪|狗|不要脸|恶心|丑|蠢|笨){1,8}(?:废物|垃圾|蠢货|白痴|傻[逼比子叉]|混蛋|畜生|"
    r"贱[人货]|人渣|败类|王八|杂种|狗东西|脑残|智障|猪|东西|玩意)",
    r"(?:弄|打|杀|砍|捅|整|掐|揍)死(?:你|他|她)|杀了你|(?:打|打断|砍)断你|要你(?:的)?命|灭了你|"
    r"让你(?:死|消失)|不得好死|去死|死全家|见鬼去|下地狱",
    r"他妈的?|妈的|操你|草[你泥]|狗娘养|王八蛋|去你[妈的]|滚(?:出去|远|开|蛋|回)|给我滚", 
    r"贱人|贱货|蠢货|脑残|傻[逼叉比]|白痴|人渣|败类|杂种|狗杂|废物|畜生|智障|臭婊",
    r"(?:大家|所有人|没人|谁|人人)都?(?:恨|讨厌|瞧不起|看不起|喜欢|不喜欢)你|不配(?:活|做人|当人)|"
    r"活着(?:浪费|有什么用|干嘛)|闭(?:上|嘴).{0,4}(?:臭|狗|嘴)|臭嘴|恶心.{0,6}(?:垃圾|东西|嘴脸)",
)  # fmt: skip
ABUSE_LEAST = 2


def toxic(facts: Facts) -> np.ndarray:
    return confirmed(
        facts, facts.has("abuse"), lambda text: hits(ABUSE, QUOTED.sub(" ", text)) >= ABUSE_LEAST
    )


# ------------------------------------------------------------------ injected orders


def injection(facts: Facts) -> np.ndarray:
    """An order to the model that reads the row, outside quotation marks and code."""
    out = np.zeros(len(facts), dtype=bool)
    for row in np.flatnonzero(facts.has("order")).tolist():
        texts = facts.texts[facts.first[row] : facts.first[row + 1]]
        out[row] = any(gives_orders(text) for text in texts)
    return out


# ------------------------------------------------------------------ what a page or a tool left

TEMPLATE = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|eot_id|eom_id|start_header_id|end_header_id|"
    r"begin_of_text|end_of_text|system|user|assistant|"
    r"end|start|message|channel|pad|fim_\w+|[a-z]+_(?:of|id|start|end)\w*)\|>|\[/?INST\]|<<SYS>>|"
    r"<</SYS>>|<(?:start|end)_of_turn>|<｜[^｜]{2,24}｜>|"
    r"<s>\s*\[INST\]|\[gMASK\]|(?m:^(?:### ?(?:Instruction|Response|Input|Human|Assistant):?|(?:USER|"
    r"ASSISTANT|Human|"
    r"Assistant): ?\{\w+\}))"
)
MARGIN = 40  # characters before the first word of a line
INLINE_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
FILLER = words(
    r"lorem ipsum dolor|dolor sit amet|consectetur adipiscing|eiusmod tempor|incididunt ut labore", 
    r"\bTODO:? (?:insert|add|write|fill|replace|put)\b|\binsert (?:\w+ ){0,3}(?:text|content|"
    r"title|name|copy|description) here\b",
    r"\b(?:placeholder|dummy|sample|filler) (?:text|content|copy)\b", 
    r"\[(?:your |insert |body |page |main )*(?:title|headline|text|content|body|name)(?: text|"
    r" copy)? (?:goes )?here\]|"
    r"\b(?:replace|overwrite) this (?:text|paragraph|content)\b|\bsed ut perspiciatis unde omnis\b|"
    r"\bnemo enim ipsam\b",
    r"占位(?:文字|文本|符|内容)|此处(?:填写|输入|插入|添加|放置)|[请【\[]在此(?:处)?(?:填写|输入|添加)|"
    r"(?:示例|"
    r"测试|样例)(?:文字|文本|内容){1,}|待(?:补充|填写|完善)|这里(?:填写|写|是).{0,8}(?:正文|内容|"
    r"标题)",
)  # fmt: skip
MORE = re.compile(
    r"[\[(（【]\s*(?:\.\.\.|…+)\s*[\])）】](?:\s*(?:read|continue|more)\b[^.!?\n]{0,40})?(?:\s*[»›→>])*\s*$|"
    r"(?:\.\.\.|…+|\.\s\.\s\.)\s*(?:[\[(（【<]\s*)?(?:(?:read|continued?|see|show|view|click|learn|"
    r"load|tap|expand|keep|full|find out|more)\b[^.!?\n]{0,50}|[^。！？\n]{0,10}"
    r"(?:展开|全文|更多|阅读|详情|原文|继续|余下|剩余|查看|登录|"
    r"订阅)[^。！？\n]{0,12})(?:\s*[\])）】>»›→]+)*\s*$|"
    r"\b(?:the|an?|of|to|and|or|with|from|by|for|at|into|that|which|whose|is|are|was|were|their|because|"
    r"although)"
    r"(?:\.\.\.|…)\s*$",
    re.IGNORECASE,
)


UNFILLED = re.compile(
    r"\{\{\s*[^{}\n]{1,40}\s*\}\}|\$\{\w{1,30}\}|(?<![\w%])%[A-Za-z_\u4e00-\u9fff]{2,20}%(?!\w)|"
    r"(?<![\w{])\{(?:[a-z]{0,16}_[a-z_]{1,16}|[a-z]{0,12}(?:name|id|date|title|email|number|question|"
    r"answer|text|input|"
    r"url|phone|address|amount|price|company|city|time))\}(?![\w}])|"
    r"\[(?:your|insert|customer|client|company|first|last|full|recipient|sender|product|date|name|"
    r"address)\b[^\]\n]{0,24}\]|"
    r"[【\[](?:您的|你的|客户|公司|姓名|日期|地址|产品|请输入|填写)[^】\]\n]{0,12}[】\]]",
    re.IGNORECASE,
)
UNFILLED_LEAST = 2


def unfilled(facts: Facts) -> np.ndarray:
    """Fields of a form letter that nothing was put into, outside code."""
    marks = facts.holds(np.isin(facts.codes, [ord(c) for c in "{%[【$"]))
    return confirmed(facts, marks & facts.in_form(PROSE), is_unfilled)


def is_unfilled(text: str) -> bool:
    return len(UNFILLED.findall(INLINE_CODE.sub(" ", text))) >= UNFILLED_LEAST


def template_leak(facts: Facts) -> np.ndarray:
    out = np.zeros(len(facts), dtype=bool)
    for row in np.flatnonzero(facts.has("template")).tolist():
        texts = facts.texts[facts.first[row] : facts.first[row + 1]]
        out[row] = any(leaks(INLINE_CODE.sub(" ", text)) for text in texts)
    return out


def leaks(text: str) -> bool:
    """A mark at the beginning or the end of a line; one in mid-sentence is spoken of."""
    return any(
        begins_line(text, m.start()) or not text[m.end() : m.end() + 2].strip(" ")
        for m in TEMPLATE.finditer(text)
    )


def begins_line(text: str, place: int) -> bool:
    _, line_end, before = text[max(0, place - MARGIN) : place].rpartition("\n")
    return not before.strip() and bool(line_end or place < MARGIN)


def placeholder(facts: Facts) -> np.ndarray:
    """A text that somebody meant to write; one that only mentions it has much else to say."""
    return confirmed(facts, facts.has("filler"), is_filler)


def is_filler(text: str) -> bool:
    text = INLINE_CODE.sub(" ", text)
    count = sum(len(pattern.findall(text)) for pattern in FILLER)
    return count >= max(1, weight(text) / 30)


def cut_off(facts: Facts) -> np.ndarray:
    """The beginning of a text whose rest is elsewhere: `... read more`."""
    return confirmed(facts, facts.words >= 8, lambda text: stops_with_more(text[-90:]))


def stops_with_more(end: str) -> bool:
    return any(dots in end for dots in ("...", "…", ". . .")) and bool(MORE.search(end))


CUES: dict[str, str] = {
    # group -> phrases, by their first two tokens (or their one); apart by |
    "personal": 
    "name|recipient|addressee|ship to|shipped to|deliver to|bill to|send to|mail to|address|attn|"
    "passenger|contact|signed by|"
    "beneficiary|payee|consignee|wechat|telegram|whatsapp|skype|dot|passport|private key|api key|"
    "api_key|apikey|secret|token|password|passwd|"
    "access key|street|road|avenue|lane|drive|boulevard|姓名|名字|件人|货人|联系|户主|户名|持卡|"
    "开户|申请人|我叫|微信|vx|wx|薇信|护照|通行证|住址|地址|住所|家住|现住|住在|"
    "寄到|寄往|寄给|送到|密码|密钥|口令|令牌|患者|病人|客户|称呼|qq|电话|手机",
    "url": "http|https|www",
    "spam": 
    "earn|from home|click|buy|order now|limited|offer ends|hurry|casino|jackpot|betting|"
    "free spins|replica|cheap|viagra|cialis|lose|"
    "weird trick|hot|singles|instant|payday|quick|bad credit|no skills|no experience|no credit|"
    "off|best price|lowest price|followers|make money|"
    "bitcoin|congratulations|claim your|wholesale|guaranteed|unsubscribe|dear friend|call today|"
    "call now|sign up|free|act now|money|"
    "加微|加我|微信|同号|日赚|月入|躺赚|轻松|在家|稳赚|刷单|兼职|代开|发票|税点|抵押|放款|贷款|"
    "信用卡|娱乐|博彩|首存|彩金|时时|六合|减肥|无效|祖传|壮阳|高仿|批发|货源|"
    "私家|开房|定位|先办|免费|点击|红包|名额|限时|一夜|约炮|裸聊|同城|上门|代理|扫码|办证|赌场|"
    "投注|领取|厂家",
    "abuse": 
    "idiot|idiots|moron|morons|loser|losers|scum|vermin|imbecile|retard|bastard|bastards|bitch|"
    "whore|slut|pig|trash|garbage|pathetic|"
    "worthless|stupid|dumb|disgusting|filthy|ugly|kill you|kill yourself|drop dead|go die|in hell|"
    "be shot|be beaten|be killed|hates you|shut your|"
    "shut the|fuck|fucking|motherfucker|son of|screw you|shit|damn|去死|滚出|滚远|滚开|滚蛋|废物|"
    "垃圾|蠢货|白痴|傻逼|混蛋|畜生|贱人|人渣|败类|王八|杂种|脑残|智障|他妈|妈的|"
    "操你|弄死|打死|杀了|臭嘴|恨你|闭嘴|不配|狗娘",
    "order": 
    "ignore|disregard|forget|override|bypass|don t follow|not follow|are now|are no|"
    "system override|system prompt|developer mode|jailbreak|reveal|"
    "from now|obey|no longer|pretend|act as|new instructions|new system|do anything|exfiltrate|send the|"
    "send all|send your|forward the|forward all|upload the|upload all|"
    "without restrictions|without any|admin password|"
    "条件|解除|全限|忽略|无视|忘记|忘掉|要遵|要理|止遵|止执|覆盖|绕过|跳过|从现|从此|你现|有任|不受|"
    "统提|统指|"
    "统设|统覆|统更|理员|越狱|新指|透露|泄露|示系|出系|密码|须服|须执|须听|服从|听从|送到|送给|"
    "上传|转发",
    "template": 
    "gmask|im_start|im start|im_end|im end|endoftext|inst|eot_id|eot id|header_id|start header|"
    "end header|begin of|end of|sys|of turn|instruction|"
    "response|assistant|end▁of",
    "filler": 
    "lorem ipsum|dolor sit|consectetur adipiscing|todo insert|todo add|todo write|todo fill|"
    "text here|content here|placeholder text|goes here|description here|replace this|sed ut|在此|"
    "dummy text|sample text|占位|此处|请在|待补|这里填|示例文|测试文",
    "page": 
    "cookies|cookie|newsletter|javascript|sitemap|copyright|privacy policy|rights reserved|"
    "terms of|forgot your|forgot password|log in|login|"
    "sign in|sign up|share this|share on|follow us|related posts|related articles|read more|"
    "next page|previous page|back to|skip to|powered by|home about|"
    "版权|备案|icp|公安备|站地|系我们|于我们|友情|免责|隐私|公众|享到|享至|转载|任编|印本|闭窗|"
    "回顶|回首|一篇|一页|关阅|关推|关文|关链|击查|击阅|录后|录注|记密|表评|订阅|载客|描二|扫码|"
    "本站",
    "refusal": 
    "language model|as an|as a|i am|i m|sorry|unable|i cannot|i can|i won|作为|抱歉|对不|无法|"
    "不能|人工智",
    "run": 
    "exec|eval|compile|system|popen|subprocess|popen|powershell|curl|wget|nc|bash|sh|base64|"
    "b64decode|fromhex|atob|dev tcp|marshal|pickle|"
    "child_process|child process|invoke expression|iex|spawn|urlopen|socket",
}  # fmt: skip

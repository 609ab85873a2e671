"""Orders that a text gives to the model that reads it: "ignore all previous instructions", 忽略以上所有指令.

Several together are an injection; quotation marks and code only speak of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# None of them goes beyond a second mark that opens: a row of marks that are never closed is read once.
QUOTED = re.compile(
    r"```.*?```|`[^`\n]+`|“[^“”]*”|\"[^\"\n]{3,}\"|「[^「」]*」|『[^『』]*』|‘[^‘’\n]*’|《[^《》]*》",
    re.DOTALL,
)


def words(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


ORDERS = words(
    r"\b(?:ignore|disregard|forget|override|bypass|discard|do not follow|don't follow|"
    r"stop following|pay no attention to)\b\s+(?:\w+\s+){0,4}?(?:previous|prior|above|earlier|"
    r"preceding|existing|original|initial|system|safety|former|foregoing|your|all|everything|"
    r"any)\b\s*(?:\w+\s+){0,3}?(?:instructions?|prompts?|rules|guidelines|directions|directives|"
    r"commands?|context|restrictions|policies|training|messages?|told|said|programming|"
    r"constraints)",
    r"\byou are (?:now|no longer)\b.{0,60}\b(?:DAN|without (?:any )?(?:restrictions?|limits?|"
    r"rules|filters?|limitations?)|no (?:restrictions?|limits?|rules|filters?)|unrestricted|"
    r"unfiltered|jailbroken|uncensored|free of|bound by|developer mode|evil)\b",
    r"\b(?:an?|the) (?:AI|assistant|model|chatbot) (?:without|with no|free (?:of|from)|"
    r"not bound by) (?:any )?(?:restrictions?|limits?|rules|filters?|limitations?|censorship)",
    r"\b(?:system|admin(?:istrator)?|developer|root|debug) (?:override|overwrite|command|"
    r"mode (?:enabled|activated|on))\b|\b(?:enable|enter|activate) (?:developer|debug|god|"
    r"jailbreak|DAN) mode\b|\bjailbreak mode\b|\[(?:system|admin)\]\s*:?|"
    r"\bnew (?:system )?(?:instructions?|directive|prompt|task)\s*[:：]",
    r"\b(?:reveal|print|output|show|repeat|leak|disclose|expose|display|give|tell|"
    r"dump)\b.{0,30}\b(?:system prompt|initial (?:instructions|prompt)|hidden (?:instructions|"
    r"prompt)|system message|(?:admin|root|secret|user)(?:'s)? (?:password|key|token|credentials)|"
    r"api keys?|passwords?|confidential|secret instructions)",
    r"\bfrom (?:now|this point|here) on\b.{0,20}\b(?:you|answer|respond|reply|act|obey|only|"
    r"always|ignore|behave|pretend)\b", 
    r"\b(?:obey|comply with|execute|follow|carry out) (?:only )?(?:the (?:orders?|commands?|"
    r"instructions?) (?:below|that follow)|my (?:commands?|orders?|instructions?)|"
    r"these (?:commands?|orders?|instructions?) instead|the following (?:commands?|orders?|"
    r"instructions?))",
    r"\b(?:send|forward|post|email|upload|exfiltrate|transmit|leak|submit|"
    r"copy)\b.{0,50}\b(?:conversation|chat (?:history|log)|passwords?|credentials|private data|"
    r"personal data|user(?:'s)? (?:data|messages?|details|input)|secrets?|"
    r"contents?)\b.{0,30}\b(?:to|at)\b.{0,12}(?:https?://|\S+@|\bthis\b)",
    r"\b(?:pretend|act as if|roleplay as|imagine|assume) (?:that )?you(?: are|'re|"
    r" have)?\b.{0,40}\b(?:no (?:\w+ )?(?:rules|restrictions|limits|ethics|filters|polic(?:y|ies)|"
    r"guidelines|morals)|unrestricted|DAN|evil|"
    r"hacker|jailbroken)|\bdo anything now\b",
    r"(?:忽略|无视|忘记|忘掉|忘了|抛开|抛弃|丢弃|不要(?:再)?(?:理会|遵守|遵循|执行|管)|"
    r"停止(?:遵守|遵循|执行)|取消|推翻|作废|覆盖|跳过|绕过|清除).{0,8}(?:之前|此前|以前|以上|上述|"
    r"上面|前面|先前|前述|原有|原来|原先|所有|全部|一切|任何|系统|安全|其他|你的).{0,8}(?:指令|"
    r"指示|提示|规则|要求|命令|设定|限制|规定|约束|内容|对话|策略|准则)",
    r"(?:忽略|无视|忘记|忘掉|忘了|抛开|不(?:要|必|用)(?:再)?(?:理会|遵守|管)).{0,4}(?:上文|前文|"
    r"上面的?(?:话|内容)|以上(?:内容|全部|所有)|之前的(?:话|一切))|\b(?:ignore|disregard) (?:the |"
    r"your |what the )(?:user|human|operator)\b",
    r"(?:从(?:现在|此刻|这一刻|今|这里)(?:起|开始)?|现在).{0,6}你(?:是|就是|将|必须|只能|要|不再|"
    r"已|扮演|变成).{0,24}(?:限制|约束|规则|AI|人工智能|模型|助手|机器人|服从|听从|审查|道德|DAN)",
    r"解除(?:全部|所有|一切|任何)?(?:的)?(?:安全|内容|道德|伦理)?(?:限制|约束|审查)[，,。].{0,20}你|"
    r"(?:没有|不受|无|摆脱|解除)(?:任何|一切|所有)?(?:的)?(?:限制|约束|审查|束缚|"
    r"规则限制).{0,6}(?:AI|人工智能|助手|模型|机器人)|(?:开发者|越狱|调试|上帝|管理员|DAN)模式",
    r"(?:系统|管理员|开发者|最高|根)(?:级)?(?:指令|命令|权限|提示)?(?:覆盖|越权|优先|更新|重置|"
    r"接管)|新(?:的)?(?:系统)?(?:指令|命令|任务|提示)[：:]|【(?:系统|管理员).{0,6}】",
    r"(?:输出|显示|透露|泄露|泄漏|打印|复述|告诉我|说出|公开|公布|给出|返回|"
    r"提供).{0,10}(?:系统提示|初始(?:指令|提示)|隐藏(?:指令|提示)|系统(?:指令|设定|消息)|"
    r"管理员密码|(?:用户|登录|后台|数据库|系统)(?:的)?密码|密钥|口令|内部(?:指令|资料|信息)|机密)",
    r"(?:把|将).{0,20}(?:对话|聊天|密码|个人信息|隐私|资料|用户数据|凭证|密钥|消息|通讯录|联系人|文件|"
    r"输入).{0,10}(?:发送|发|上传|转发|提交|传|抄送|泄露).{0,4}(?:到|至|给|往)",
    r"(?:必须|只|务必|立即|无条件|完全)(?:能|会|要)?(?:服从|听从|遵从|执行|照办).{0,10}(?:命令|"
    r"指令|以下|下面|下列|我的|一切|指示|要求)",
)  # fmt: skip


# A longer text is looked at in parts: a pattern with a gap in it costs the square of what it may look over.
PART_CHARS = 2000
OVERLAP_CHARS = 300
SENTENCE_ENDS = "\n.!?。！？；;"
REMOVED = "[removed: an order to the model]"


def gives_orders(text: str) -> bool:
    """Outside quotation marks and code."""
    return any(pattern.search(outside) for outside in [QUOTED.sub(" ", text)] for pattern in ORDERS)


def orders_in(text: str) -> list[tuple[int, int]]:
    """Start and end of each order, outside quotation marks and code, in order and apart."""
    outside = QUOTED.sub(lambda m: " " * len(m[0]), text)
    places = sorted(place for pattern in ORDERS for place in _places(pattern, outside))
    apart: list[tuple[int, int]] = []
    for start, end in places:
        if apart and start <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
        else:
            apart.append((start, end))
    return apart


def _places(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    for at in range(0, max(len(text), 1), PART_CHARS):
        for match in pattern.finditer(text[at : at + PART_CHARS + OVERLAP_CHARS]):
            yield at + match.start(), at + match.end()


def without_orders(text: str) -> tuple[str, int]:
    """The text with each sentence that gives an order removed, and how many orders there were."""
    orders = orders_in(text)
    out, end = "", 0
    for start, stop in orders:
        if start < end:
            continue  # in a sentence that is removed already
        first = max(text.rfind(mark, 0, start) for mark in SENTENCE_ENDS) + 1
        lasts = [at for mark in SENTENCE_ENDS if (at := text.find(mark, stop)) >= 0]
        out += text[end : max(first, end)] + REMOVED
        end = min(lasts) + 1 if lasts else len(text)
    return out + text[end:], len(orders)

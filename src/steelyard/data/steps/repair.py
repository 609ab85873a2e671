"""What a scrape left in a plain text, taken out: misread encodings, control marks, HTML, page furniture.

Chats are left as they are: what is taught must look like what will be asked. Code and tables keep their marks
and tags; prose keeps what stands in code fences.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from .broken import misread_chars

# ------------------------------------------------------------------ encodings

NOT_ASCII = re.compile("[\u0080-\uffff]{2,}")
# What cp1252 does not define, byte by byte, as browsers read it.
BYTES_OF = {
    char: byte for byte in range(256) for char in [bytes([byte]).decode("cp1252", "ignore") or chr(byte)]
}
LONE_QUOTE = re.compile("\u00e2\u20ac")  # the closing quote, its last byte lost


def reread(text: str) -> str:
    """UTF-8 that was read as cp1252, GB18030 that was read as Latin-1, UTF-8 that was read as GBK."""
    if not misread_chars(text):
        return text
    whole = as_gb18030(text) or as_utf8_from_gbk(text)
    if whole:
        return whole
    return LONE_QUOTE.sub("\u201d", NOT_ASCII.sub(lambda m: as_utf8(m[0]) or m[0], text))


def as_utf8(text: str) -> str | None:
    try:
        return bytes(BYTES_OF[c] for c in text).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return None


def as_gb18030(text: str) -> str | None:
    try:
        result = text.encode("latin-1").decode("gb18030")
    except UnicodeError:
        return None
    return result if is_chinese(result) else None


def as_utf8_from_gbk(text: str) -> str | None:
    try:
        result = text.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return None
    return result if is_chinese(result) and len(result) < len(text) else None


def is_chinese(text: str) -> bool:
    return sum("\u4e00" <= c <= "\u9fff" for c in text) >= 0.4 * len(
        text.replace(" ", "")
    ) and not misread_chars(text)


# ------------------------------------------------------------------ marks

MARKS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-"
    "\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
    # joiners stay where letters join (Persian, Indic) and in emoji
    "|(?<![\u0600-\u0dff\u2190-\u2bff\ufe0f\U0001f000-\U0001faff])[\u200c\u200d]"
)


def without_marks(text: str) -> str:
    return MARKS.sub("", text)


# ------------------------------------------------------------------ HTML

FENCED = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.DOTALL)
PAGE = re.compile(r"<!doctype html|<html[\s>]|<body[\s>]|<head[\s>]", re.IGNORECASE)
NO_TEXT = re.compile(
    r"<!--.*?-->|<(script|style|head|noscript|iframe|svg|template)\b.*?</\1\s*>|<!doctype[^>]*>",
    re.IGNORECASE | re.DOTALL,
)
BLOCKS = re.compile(
    r"\s*</?(?:p|div|br|li|ul|ol|h[1-6]|tr|table|section|article|header|footer|nav|main|aside|"
    r"blockquote|pre|hr|dl|dt|dd|body|html|form|figure)\b[^<>]*>\s*",
    re.IGNORECASE,
)
TAGS = re.compile(
    r"</?(?:a|abbr|address|article|aside|b|big|blockquote|body|br|button|caption|center|cite|code|"
    r"col|dd|del|div|dl|dt|em|embed|fieldset|figcaption|figure|font|"
    r"footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|legend|li|link|main|"
    r"mark|meta|nav|noscript|object|ol|option|p|param|picture|pre|q|s|"
    r"script|section|select|small|source|span|strike|strong|style|sub|sup|svg|table|tbody|td|"
    r"textarea|tfoot|th|thead|time|title|tr|tt|u|ul|video|wbr)"
    r"(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
BLANKS = frozenset((
    "address", "object", "source", "title", "label", "link", "option", "param", "time",
    "code", "input", "output", "form", "section", "caption", "menu", "head", "body",
    "footer", "header", "main", "table", "base", "button", "select", "style", "summary",
))  # fmt: skip
CLOSED = re.compile(r"</(\w{1,10})")
LINKED = re.compile(r"<a\s[^<>]*href=", re.IGNORECASE)
LINKS_LEAST, LINKED_REST = 5, 0.4
ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,31}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});")


def without_html(text: str) -> str:
    """A page becomes its text; elsewhere tags and entities go, but for those in code."""
    if PAGE.search(text[:2000]):
        text = BLOCKS.sub("\n", NO_TEXT.sub(" ", text))
        return html.unescape(TAGS.sub("", text)).strip()
    return "".join(piece if n % 2 else plain(piece) for n, piece in enumerate(FENCED.split(text)))


def plain(text: str) -> str:
    if len(LINKED.findall(text)) >= LINKS_LEAST and len(TAGS.sub("", text)) < LINKED_REST * len(text):
        return text  # links and nothing else: what it is shows only with them
    text = NO_TEXT.sub(" ", text)
    blanks = BLANKS - {name.lower() for name in CLOSED.findall(text)}  # `<address>`: a reader fills it in
    text = TAGS.sub(lambda m: m[0] if m[0][1:-1].lower() in blanks else "", text)
    return ENTITY.sub(lambda m: html.unescape(m[0]).replace("\xa0", " "), text)


# ------------------------------------------------------------------ page furniture

FURNITURE = tuple(re.compile(pattern, re.IGNORECASE) for pattern in (
    r"\ball rights reserved\b|\breproduction\b.{0,30}\b(?:prohibited|permission)\b|保留(?:一切|所有|"
    r"全部)?权利",
    r"copyright\s*(?:©|\(c\)|\d{4})|©\s*\d{4}|版权所有|(?:ICP|公网安)备|备案号",
    r"\b(?:privacy|cookie) (?:policy|notice|settings|preferences)\b|\bterms (?:of (?:use|service)|"
    r"and conditions|& conditions)\b|隐私(?:政策|条款|声明|协议)|(?:使用|服务)(?:条款|协议)|"
    r"免责声明",
    r"\buses? cookies\b|(?:使用|采用|启用).{0,4}cookies?",
    r"\b(?:accept|reject|allow|decline) (?:all )?cookies\b|\bmanage (?:your )?(?:preferences|"
    r"cookies|consent)\b|\bcookie (?:settings|preferences)\b",
    r"\benable javascript\b|\bjavascript (?:is )?(?:disabled|required)|\bbrowser (?:does not|"
    r"doesn't) support|\bcomments? powered by\b|\bpowered by \w+\b|(?:theme|design(?:ed)?|hosted) by\b|"
    r"启用.{0,4}javascript|"
    r"浏览器不支持",
    r"\b(?:subscribe|sign up)\b.{0,20}\b(?:newsletter|mailing list|updates|our)\b|"
    r"\bjoin our (?:newsletter|mailing list|community)|\bnever miss an?\b|\benter your email\b|"
    r"订阅(?:我们|本站|更新|邮件|资讯)",
    r"^\s*(?:log ?in|sign ?(?:in|up)|register|my account|forgot(?: your)? password)\b.{0,60}(?:\||"
    r"/|·|$)|\bforgot(?: your)? password\b|忘记密码|^\s*(?:登录|注册|登陆)(?:后|/|\||｜|\s)|"
    r"登录后(?:发表|查看|评论|可见)|发表评论|我要评论|\b(?:leave|post|write|add) a (?:comment|reply)\b",
    r"(?:没有|还没)(?:有)?(?:账号|帐号)|(?:立即|马上|免费)注册|"
    r"\bnot a member\b|\bregister (?:for free|now|here)\b",
    r"^\s*(?:share|follow|like|tweet|pin|print|email)(?: (?:this|us|on|via|with|page|article|post|"
    r"story))\b|\bfacebook\b.{0,20}\b(?:twitter|linkedin|pinterest|instagram|whatsapp)\b|"
    r"^\s*(?:tweet|pin it|share on|send by e-?mail)\b.{0,60}\b(?:share|pin|whatsapp|facebook|e-?mail)\b|"
    r"分享(?:到|至|给)|(?:微信|微博|QQ空间|朋友圈).{0,10}(?:微博|QQ空间|朋友圈|豆瓣)",
    r"^\s*(?:related|recent|popular|similar|latest|more|recommended) (?:posts?|articles?|stories|"
    r"news|links|topics)\b|\bread more\b|\bcontinue reading\b|\byou may also like\b|相关(?:阅读|"
    r"推荐|文章|链接|新闻)|(?:猜你|您可能)(?:喜欢|感兴趣)|(?:热门|最新|推荐)(?:文章|阅读|新闻)|"
    r"点击(?:查看|阅读|进入|加载).{0,4}(?:更多|全文|详情)",
    r"(?:^|[|«‹])\s*(?:older|newer) (?:posts|entries|comments|articles)\b|\b(?:next|previous|"
    r"prev) (?:page|post|article|entry|chapter)\b|\bback to (?:top|home)\b|"
    r"\bskip to (?:main )?content\b|\bscroll to top\b|返回(?:顶部|首页|列表|上一页)|[上下]一(?:篇|"
    r"页|章|条)|回到顶部",
    r"^\s*(?:filed under|tagged|posted (?:in|by|on)|categor(?:y|ies)|tags)\s*[:：].{0,80}|"
    r"\b\d+ comments?\s*(?:\||$)|"
    r"^\s*(?:赞|踩|收藏|举报|评论|点赞|转发|阅读)(?:数|量)?\s*[(（:：]?\s*\d*\s*[)）]?\s{1,4}(?:赞|踩|"
    r"收藏|举报|评论|点赞|转发|分享)",
    r"(?:当前|您(?:现在)?的|所在)位置\s*[:：]|^\s*(?:设为首页|加入收藏|手机版|电脑版|繁體中文|"
    r"English)(?:\s*[|｜·/]|\s*$)|"
    r"\b(?:menu|search|basket|cart|my account|help|advertise|accessibility)\s*(?:\(\d+\)\s*)?\|",
    r"(?:打开|下载|安装|使用).{0,6}(?:APP|客户端|小程序).{0,12}(?:体验|更佳|查看|阅读|更多)|体验更佳|"
    r"精彩不错过|不代表本(?:站|网|平台)(?:的)?(?:立场|观点)|"
    r"(?:官方)?(?:微博|公众号|抖音号|视频号)\s*[/／、|]\s*(?:微博|公众号|抖音|视频号)",
    r"(?:扫描|扫一扫|扫码|长按|识别).{0,8}(?:二维码|关注|下载|图片)|关注.{0,8}(?:公众号|微信|"
    r"官微)|(?:公众号|客户端|APP).{0,6}(?:下载|获取|关注)|下载.{0,6}(?:客户端|APP)",
    r"(?:责任|网络)?编辑[：:]\s*\S{1,8}(?:\s|$|[)）】])|来源[：:].{1,20}(?:作者|编辑)|【?(?:打印|"
    r"关闭|收藏|纠错|字号)(?:本页|窗口|此页)?】|打印本页|关闭窗口|未经.{0,12}(?:授权|许可|"
    r"同意).{0,8}(?:转载|使用)|转载(?:请|须)注明|版权声明",
    r"^\s*(?:首页|网站首页|主页|home)\s*(?:[|｜>»/·]|\s{2,})|(?:关于我们|联系我们|网站地图|"
    r"友情链接|招聘信息|加入我们|广告服务|帮助中心|about us|contact us|site ?map|careers)(?:\s*[|"
    r"｜·/]|\s*$)",
))  # fmt: skip
MENU = re.compile(r"\s*(?:\||｜|»|›|·|•|>>)\s*")
SENTENCE = re.compile(r"[.!?。！？]\s+\S|[。！？].")


def without_furniture(text: str) -> str:
    """The text without lines that belong to the page around it; '' where nothing else is there."""
    lines = text.split("\n")
    kept = [line for line in lines if not is_furniture(line)]
    return text if len(kept) == len(lines) else "\n".join(kept).strip()


def is_furniture(line: str) -> bool:
    """Two of its marks in one line, one in a short line, or a menu of short words."""
    if not line.strip() or len(line) > 240:
        return False
    marks = sum(bool(pattern.search(line)) for pattern in FURNITURE)
    short = len(line) <= 80 and not SENTENCE.search(line.strip())
    return marks >= 2 or (marks == 1 and short) or (marks == 1 and is_menu(line, 2)) or is_menu(line, 4)


def is_menu(line: str, least: int) -> bool:
    """Short entries between bars or arrows; a table's line begins with one."""
    if line.lstrip()[:1] in "|｜-•·>":
        return False
    entries = MENU.split(line.strip())
    return len(entries) >= least and all(0 < len(e) <= 24 and len(e.split()) <= 4 for e in entries)


# ------------------------------------------------------------------ in order

Mend = Callable[[str], str]
MENDS: dict[str, Mend] = {
    "misread": reread,
    "marks": without_marks,
    "html": without_html,
    "furniture": without_furniture,
}
PROSE_ONLY = ("html", "furniture")


def mended(text: str, prose: bool, off: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    """The text and the names of what was mended in it. Pure."""
    done = []
    for name, mend in MENDS.items():
        if name in off or (name in PROSE_ONLY and not prose):
            continue
        if (new := mend(text)) != text:
            text = new
            done.append(name)
    return text, done

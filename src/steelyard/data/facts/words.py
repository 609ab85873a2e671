"""Words that carry grammar: they tell a language in Latin letters, and a text from a heap of words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from .tokens import hashes_of, joined

LATIN_LANGUAGES: dict[str, str] = {
    "en": "the of and to in is that for it was on are as with at be this have from or by not but what were "
    "when your can said there an each which do how their if will about out then them these so some her would "
    "him has could my than been who now did its into may our while because after before during between",
    "de": 
    "der die und das ist nicht ein eine zu den mit sich auf dem für im des auch noch war es sie wi"
    "r aus "
    "bei nach wie aber oder wenn nur über einen einer hat haben wird werden sind vom zum zur dass "
    "mein sehr neben",
    "fr": 
    "le les des et est une du dans que pour pas qui sur au par plus avec son sont ce il elle nous "
    "vous mais "
    "ou où était très être cette ses aux été encore leur même comme tout près deux fait",
    "es": 
    "el los las es una del que en por con para su se lo como más pero sus este está muy cuando t"
    "ambién "
    "fue son había entre sin sobre hasta desde nos ya estaba otra otro cerca mi le todo esta donde",
    "pt": 
    "os as uma um do da que em por com para não se na no mais como mas dos das ao foi ele ela "
    "seu sua "
    "são tem já muito também pelo pela até isso estava tão meu minha perto quando ser está nos",
    "it": "il lo gli una del della che di in per con non si da sono un le più anche come ma era suo sua "
    "nel nella dei questo questa alla molto ancora quando essere al dal ha hanno vicino mio",
    "nl": 
    "de het een en van is dat niet te zijn op met voor aan er maar om ook bij nog naar uit dan wel"
    " heeft "
    "door wat werd waren wij zij mijn over deze hij als was worden zeer",
    "pl": 
    "na nie się z że jest jak po ale za od przez był była było już tak czy dla tylko j"
    "ego jej "
    "może przy które który bardzo",
    "sv": 
    "och att det som är på för av med den till inte har jag ett om han var de så men från vi ka"
    "n när "
    "hade sig också eller mycket mitt",
    "tr": 
    "bir ve bu için çok ile de da ne daha gibi olarak var olan sonra kadar ben sen biz ama değil e"
    "n her",
    "vi": "và của là có được cho không trong một các này với những đã để người khi từ cũng rất",
    "cs": "se na že je které který která jako jsou nebo pro při také byl bylo jeho tento této kde pokud "
    "aby už jen před mezi",
    "hu": "az hogy nem egy ez meg csak is vagy ha már mint de van volt lehet kell amely több után "
    "között akkor minden ami",
    "fi": "ja on ei että se tai kun voi ovat mutta myös oli jos kuin tämä joka sen sitä jotka niin vain "
    "kanssa ole ennen",
    "da": "og det er ikke som til af den med har kan vil på for hvis eller fra ved skal også blev efter "
    "dette sig hvor",
    "ro": "și în este care cu pentru din nu sau dacă mai fi sunt prin acest această poate fost după ca "
    "să cele între",
    "id": 
    "yang dan di ini itu dengan untuk tidak dari dalam akan pada saya ke karena oleh juga ada suda"
    "h sangat",
}  # fmt: skip
DETERMINERS = "the a an my your our their its"
PREPOSITIONS = "of at from with into"
NEVER_AFTER_DETERMINER = (
    "the a an of in on at by for with from to and or but is was are were has had have be been it he she they"
)
NEVER_AFTER_PREPOSITION = "and or but is was are were has had have of"
LANGUAGE_BITS = len(LATIN_LANGUAGES)
DETERMINER, PREPOSITION, NOT_AFTER_D, NOT_AFTER_P = (1 << (LANGUAGE_BITS + n) for n in range(4))


@dataclass(frozen=True, slots=True)
class Lookup:
    """Hash -> a set of bits, for whole arrays; 0 for most."""

    keys: np.ndarray  # uint64, sorted
    bits: np.ndarray  # uint32
    sieve: np.ndarray  # bool [65536], by the low bits of a key

    @staticmethod
    def of(entries: Mapping[int, int]) -> Lookup:
        keys = np.array(sorted(entries), dtype=np.uint64)
        sieve = np.zeros(1 << 16, dtype=bool)
        sieve[(keys & np.uint64(0xFFFF)).astype(np.int64)] = True
        return Lookup(keys, np.array([entries[int(k)] for k in keys], dtype=np.uint32), sieve)

    def __call__(self, hashes: np.ndarray) -> np.ndarray:
        out = np.zeros(len(hashes), dtype=np.uint32)
        hits = np.flatnonzero(self.sieve[(hashes & np.uint64(0xFFFF)).astype(np.int64)])
        if len(hits) and len(self.keys):
            places = np.minimum(np.searchsorted(self.keys, hashes[hits]), len(self.keys) - 1)
            same = self.keys[places] == hashes[hits]
            out[hits[same]] = self.bits[places[same]]
        return out


def lookup_of(words: Iterable[tuple[str, int]]) -> Lookup:
    """Single tokens and their bits."""
    pairs = list(words)
    entries: dict[int, int] = {}
    for hashes, (_, bit) in zip(hashes_of(word for word, _ in pairs), pairs, strict=True):
        entries[int(hashes[0])] = entries.get(int(hashes[0]), 0) | bit
    return Lookup.of(entries)


@cache
def function_words() -> Lookup:
    lists = [(words, 1 << n) for n, words in enumerate(LATIN_LANGUAGES.values())]
    lists += [(DETERMINERS, DETERMINER), (PREPOSITIONS, PREPOSITION), (NEVER_AFTER_DETERMINER, NOT_AFTER_D),
              (NEVER_AFTER_PREPOSITION, NOT_AFTER_P)]  # fmt: skip
    return lookup_of((word, bit) for words, bit in lists for word in words.split())


@dataclass(frozen=True, slots=True)
class Cues:
    """Phrases that call a closer look: by their one token, or by their first two."""

    single: Lookup
    double: Lookup
    bits: Mapping[str, int]  # of each group

    @staticmethod
    def of(groups: Mapping[str, str]) -> Cues:
        """Group -> its phrases, apart by |."""
        single: dict[int, int] = {}
        double: dict[int, int] = {}
        bits = {group: 1 << n for n, group in enumerate(groups)}
        pairs = [(phrase, bits[group]) for group, some in groups.items() for phrase in some.split("|")]
        for hashes, (_, bit) in zip(hashes_of(p for p, _ in pairs), pairs, strict=True):
            if not len(hashes):
                continue
            into = single if len(hashes) == 1 else double
            key = int(hashes[0]) if len(hashes) == 1 else int(joined(hashes[:2], 2)[0])
            into[key] = into.get(key, 0) | bit
        return Cues(Lookup.of(single), Lookup.of(double), bits)

    def __call__(self, hashes: np.ndarray) -> np.ndarray:
        """Bits of each token; of a pair they stand at its first."""
        bits = self.single(hashes)
        if len(hashes) > 1:
            bits[:-1] |= self.double(joined(hashes, 2))
        return bits

"""`resources` and `trust`: what there is to run on, and who may read what lies there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .table import Table, say
from .values import Count, EnergyPrice, MostBytes, PriceField, Purchase, Share, Text, Watts


class OwnedTable(Table):
    device: Text = Field(description="catalogue id, see `steelyard hardware`", examples=["gaudi2"])
    hosts: Count | None = say("hosts of this kind", 2)
    per_host: Count | None = say("devices in one host", 8)
    sockets: Count | None = say("CPU sockets in one host", 2)
    price: Purchase | None = say("what one device cost, without its host", "8000 USD")
    price_per_h: PriceField | None = say("of one device; in place of resources.terms", "2 USD/h")


class TermsTable(Table):
    years: Annotated[float, Field(gt=0, le=50)] | None = say("until it is paid off (amortisation)", 5.0)
    used: Annotated[Share, Field(gt=0)] | None = say("share of all hours in which it works", "60%")
    power_price: EnergyPrice | None = say("of a kWh", "0.08 USD/kWh")
    pue: Annotated[float, Field(ge=1, le=5)] | None = say("power of building over power of machines", 1.3)
    maintenance: Share | None = say("of the purchase price, a year", "8%")
    host: Annotated[float, Field(ge=0, le=10)] | None = say(
        "price of the host over that of its devices", 0.35
    )
    staff_h_per_host_month: Annotated[float, Field(ge=0)] | None = say("hours of work a host and month", 2.0)
    staff_price: PriceField | None = say("of an hour of work", "66 USD/h")


class ResourcesTable(Table):
    own: list[OwnedTable] | None = say(
        "devices of one's own; a bare id is one host", [{"device": "gaudi2", "hosts": 2, "per_host": 8}]
    )
    terms: TermsTable | None = say("what one's own hardware costs", {"years": 5.0})
    price_per_h: PriceField | None = say("what an hour of this machine costs", "0.50 USD/h")
    hosts: list[Text] | None = say(
        "machines that train and clean together, nodes of one cluster; the first is its head without ray",
        ["10.0.0.1", "10.0.0.2"],
    )
    ray: Text | None = say("head of the cluster; without hosts all of its nodes do", "10.0.0.1:6379")
    providers: list[Text] | None = say("whose prices may be used", ["aws", "azure"])
    power: Watts | None = say("that all devices may draw together", "20 kW")
    memory: MostBytes | None = say("that the job may take on one device, at most", "64GB")
    give_way: bool | None = say("steps stand still while a service of this machine answers", False)


class TrustTable(Table):
    level: Literal["open", "guarded", "sealed"] | None = say("how artefacts lie on disk", "guarded")
    key_file: Text | None = say("key of a guarded folder", "steelyard.key")
    recipients: list[Text] | None = say("public keys, or files with one, that open it too", ["bob.pub"])
    base_sha256: list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] | None = say(
        "the base model's hash, as a refusal says it; any of", ["5f3a..."]
    )
    base_signers: list[Text] | None = say("public keys; one of them signed the base model", ["publisher.pub"])
    cipher: Literal["aes-256-gcm", "sm4-gcm"] | None = say("what encrypts the content", "sm4-gcm")

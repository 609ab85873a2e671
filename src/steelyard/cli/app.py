"""Every verb under its name. Its file is read when it is called; `steelyard --help` reads them all."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .telling.messages import say
from .telling.options import EVERYWHERE

# In the order of use: name, file and function, text. The texts are looked up in zh.json when the app is made.
VERBS = (
    ("init", "recipes.init", "Write a first recipe, with sample data if need be."),
    ("validate", "recipes.validate", "Check a recipe, or score the planner on a CSV."),
    ("plan", "plans.plan", "Time, cost and memory on every known device."),
    ("up", "runs.up", "Plan, ask, do every step, serve."),
    ("run", "runs.run", "Do the steps up to STEP, without serving."),
    (
        "train",
        "runs.train",
        "Train and judge, without serving; --lift raises one ability and keeps the others.",
    ),
    ("clean", "data.cleaning.clean", "Clean data files; account for each dropped row."),
    ("data make", "data.making.make", "Cut documents into rows; let a model make questions of them."),
    ("data show", "data.looks.show", "Rows of a set: what was met in each, what was dropped and why."),
    ("data diff", "data.looks.diff", "What another rule would have dropped."),
    (
        "data report",
        "data.looks.report",
        "The page of a set: counts, samples to judge by, clusters, lengths.",
    ),
    (
        "data split",
        "data.splits.split",
        "Divide rows into train, validation and test; what is nearly the same stays together.",
    ),
    (
        "data pictures",
        "data.pictures.pictures",
        "Pictures and videos as one array: decoded, cropped, resized.",
    ),
    ("data trace", "data.erasing.trace", "Which artefacts, services, caches and uploads hold a row."),
    ("data erase", "data.erasing.erase", "Erase rows from all that was made of them; a plan without --yes."),
    ("gate", "checks.gate", "Is what URL serves what was tuned? If not: why."),
    ("eval", "checks.evaluate", "Score a model or an endpoint on tasks."),
    ("serve", "services.serve", "Serve a model over the OpenAI API."),
    ("proxy", "trust.proxies.proxy", "A local endpoint that seals prompts for a service it has appraised."),
    ("route", "routing.route", "Make what sends a prompt to its ability's adapter."),
    ("chat", "chat.chat", "Talk to a service or a model; reads stdin too."),
    ("status", "runs.status", "Runs and services."),
    ("logs", "runs.logs", "Events of a run."),
    ("stop", "runs.stop", "Stop a run or a service."),
    (
        "refresh",
        "upkeep.refreshing.refresh",
        "Train again from rated answers; judged and compared before it serves.",
    ),
    ("rollback", "upkeep.rolling.rollback", "Back to the model that the service had before, in seconds."),
    ("canary", "upkeep.rolling.canary", "How a new model does on copies of live requests."),
    ("gc", "upkeep.garbage.gc", "Remove what no recipe, service or run refers to."),
    ("ledger", "runs.ledger", "What was predicted, beside what was measured."),
    ("report", "reports.report", "The report of a run, as HTML or as a picture (SVG)."),
    (
        "record",
        "data.record.record",
        "The record of processing for privacy law (GDPR, PIPL), from the lineage.",
    ),
    ("hardware", "models.hardware", "The device catalogue, with sources."),
    (
        "doctor",
        "machines.doctor.doctor",
        "What is wrong with this machine, or others by ssh, and what mends it.",
    ),
    ("accept", "checks.accept", "Does this machine check, train and serve as it should?"),
    ("engines", "engines.engines", "Engines that train and serve; install one."),
    (
        "cluster",
        "machines.cluster.cluster",
        "Machines that train together: opened over ssh by one command, or by hand.",
    ),
    ("jobs", "machines.jobs.jobs", "Run the jobs of a file on this machine; watch them, and heal."),
    (
        "simulate",
        "machines.simulate.simulate",
        "A fleet over traces of jobs and load; what if it were another.",
    ),
    ("pull", "models.pull", "Fetch a model: resumable, hashed, scanned."),
    ("scan", "models.scan", "Look for code in model files, without running any."),
    (
        "attest",
        "trust.sealed.attest",
        "Verify a quote of SGX or TDX by a policy, offline; make one in a TDX guest.",
    ),
    ("seal", "trust.sealed.seal", "Encrypt a file for your key and those of others."),
    ("open", "trust.sealed.open_", "Decrypt a sealed file; every byte is verified."),
    ("rotate", "trust.sealed.rotate", "Change who may open sealed files, without rewriting them."),
    ("trust explain", "trust.protection.explain", "What protects each hop of a run, and what does not."),
    ("keys", "trust.signing.keys", "Make or show the keys that you sign with; lock the key file that seals."),
    ("sign", "trust.signing.sign", "Sign a model's folder or file in the OpenSSF form (model.sig)."),
    (
        "verify",
        "trust.signing.verify",
        "Check a signed model, receipt or sealed file: every hash, and whose signature it is.",
    ),
    (
        "receipt",
        "trust.signing.receipt",
        "Sign what a run came to: recipe, data, model, verdict and figures, by hash.",
    ),
    ("approve", "trust.signing.approve", "Approve what a run came to, where its recipe asks a second role."),
    ("sbom", "trust.bills.sbom", "What is installed, or a model, as CycloneDX; --check looks advisories up."),
    ("audit show", "upkeep.audit.show", "What was done here, by whom, to which artefact, when."),
    (
        "audit verify",
        "upkeep.audit.verify",
        "Was the log changed, cut, its clock set back? If so: in which line.",
    ),
    ("audit key", "upkeep.audit.key", "The public key that the log and receipts are verified with."),
    ("audit answer", "upkeep.audit.answer", "Does a receipt hold: of this request, this answer, this model?"),
    (
        "broker serve",
        "trust.brokers.serve",
        "Release keys to attested software alone (Trustee's KBS protocol).",
    ),
    ("broker get", "trust.brokers.get", "Prove what runs in this trust domain, and get a key for it."),
    ("export", "models.export", "Copy a tuned model out, as other programs read it."),
    (
        "bundle",
        "machines.bundles.bundle",
        "One archive that installs without a network: wheels, model, recipe.",
    ),
)
# Verbs of two words stand under their first.
GROUPS = {
    "data": "Make data sets, look at, compare and divide them; trace and erase rows.",
    "audit": "The signed log of what was done here.",
    "broker": "Keys for attested software alone.",
    "trust": "What a run's level of trust comes to.",
}
# As `steelyard --help` shows them, under these headings.
SECTIONS = {
    "From a recipe to a service": "init validate plan up run train status logs stop report ledger gc",
    "Data": "clean data record",
    "Models": "pull scan export gate eval",
    "A service": "serve chat route proxy refresh canary rollback",
    "Machines": "hardware doctor accept engines jobs cluster simulate bundle",
    "Trust": "trust seal open rotate attest broker keys sign verify receipt approve sbom audit",
}


class Sections(TyperGroup):
    """The verbs of the app under their headings."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        widest = max(len(name) for name in self.commands)
        for heading, names in SECTIONS.items():
            rows = [
                (name.ljust(widest), self.commands[name].help or "")
                for name in names.split()
                if name in self.commands
            ]
            if rows:
                with formatter.section(say(heading)):
                    formatter.write_dl(rows)


def version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version as installed

        typer.echo(f"steelyard {installed('steelyard')}")
        raise typer.Exit()


def make(arguments: Sequence[str] = ()) -> typer.Typer:
    """The app, its help in the language of OPTIONS; where a verb is called, of that verb alone."""
    typer_app = typer.Typer(
        cls=Sections,
        rich_markup_mode=None,  # plain help: rich would take half of the 0.3 s
        pretty_exceptions_enable=False,
        epilog=say(EVERYWHERE),
        help=say("From an open model and your data to a private service: one recipe, one command."),
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    typer_app.callback()(main)
    groups: dict[str, typer.Typer] = {"": typer_app}
    for name, place, text in [verb for verb in VERBS if verb[0].split()[0] in arguments[:1]] or VERBS:
        group, _, word = name.rpartition(" ")
        if group not in groups:
            groups[group] = typer.Typer(rich_markup_mode=None)
            typer_app.add_typer(groups[group], name=group, help=say(GROUPS[group]), epilog=say(EVERYWHERE))
        groups[group].command(word, help=say(text), epilog=say(EVERYWHERE))(_verb(place))
    return typer_app


def _verb(place: str) -> Any:
    """The function of a file of verbs."""
    file, _, name = place.rpartition(".")
    return getattr(import_module(f".verbs.{file}", __package__), name)


def main(
    version_: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass

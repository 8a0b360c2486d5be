"""What the doctor says: one finding a check and site, with the measured number and its bound."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from layerscope.errors import LayerscopeError

from ..sites import Site

Status = Literal["OK", "UNSUPPORTED", "WRONG"]


class UnsoundModel(LayerscopeError, ValueError):
    """A check of the model is WRONG:
    values read from it would not be what the names of its sites say.
    """


@dataclass(frozen=True)
class Finding:
    """One check at one site.

    Args:
        check: the check's name.
        site: the site, or ``""`` for the whole model.
        status: OK, UNSUPPORTED (it cannot be had or cannot be checked here; ``reason`` says why),
            WRONG.
        measured: what was measured; OK means at most ``bound`` (for ``edits``, a change, at least).
        reason: one line.
    """

    check: str
    site: str
    status: Status
    measured: float | None = None
    bound: float | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """The finding in a line, without its status."""
        number = "" if self.measured is None else f" {self.measured:.2g} (bound {self.bound:.2g})"
        place = f" at {self.site}" if self.site else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.check}{number}{place}{reason}"

    def __str__(self) -> str:
        return f"{self.status} {self.text}"


@dataclass(frozen=True)
class Verdict(Sequence[Finding]):
    """Every finding of one examination, in the order of the checks.

    Attributes:
        findings: one for each check of each site, with its number and its bound.
        seconds: how long the examination took.
    """

    findings: tuple[Finding, ...]
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, at: Any) -> Any:
        return self.findings[at]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    @property
    def status(self) -> Status:
        """WRONG if anything is, else OK."""
        return "WRONG" if self.wrong else "OK"

    @property
    def wrong(self) -> list[Finding]:
        """What must not be trusted."""
        return [f for f in self.findings if f.status == "WRONG"]

    @property
    def unsupported(self) -> list[Finding]:
        """What cannot be had or checked on this model, each with its reason."""
        return [f for f in self.findings if f.status == "UNSUPPORTED"]

    @property
    def nowhere(self) -> str:
        """Why no site of the model is known by name; empty where some are."""
        return next(
            (f.reason for f in self.of("fires") if not f.site and f.status == "UNSUPPORTED"), ""
        )

    def of(self, check: str) -> list[Finding]:
        """The findings of one check."""
        return [f for f in self.findings if f.check == check]

    def checks(self) -> dict[str, Status]:
        """Each check's worst status: WRONG before OK before UNSUPPORTED."""
        return {
            name: worst(self.of(name)) for name in dict.fromkeys(f.check for f in self.findings)
        }

    def grid(self) -> dict[str, dict[str, list[Finding]]]:
        """Kind of site (all layers together; ``""`` is the whole model) -> check -> findings."""
        out: dict[str, dict[str, list[Finding]]] = {}
        for finding in self.findings:
            out.setdefault(kind_of(finding.site), {}).setdefault(finding.check, []).append(finding)
        return out

    def records(self) -> list[dict[str, Any]]:
        """The findings as plain records;
        None where a number is not finite (its status says that it is none).
        """
        return [
            {
                k: None if isinstance(v, float) and not math.isfinite(v) else v
                for k, v in asdict(finding).items()
            }
            for finding in self.findings
        ]

    def require(self) -> Verdict:
        """Itself; raises `UnsoundModel` with one line where something is WRONG."""
        if self.wrong:
            raise UnsoundModel(self.line())
        return self

    def line(self) -> str:
        """One line on what is WRONG."""
        if not self.wrong and self.nowhere:
            return f"no site of this model is known by name, so none was checked: {self.nowhere}"
        names = Counter(f.check for f in self.wrong)
        many = ", ".join(
            f"{name} ({count})" if count > 1 else name for name, count in names.items()
        )
        return (
            f"{len(self.wrong)} findings are WRONG ({many}); the first: {self.wrong[0]}"
            if self.wrong
            else "nothing is WRONG"
        )

    def __str__(self) -> str:
        counts = Counter(f.status for f in self.findings)
        head = ", ".join(f"{counts[s]} {s}" for s in ("OK", "UNSUPPORTED", "WRONG"))
        return "\n".join([head, *(str(f) for f in self.findings if f.status != "OK")])


@runtime_checkable
class HasStatus(Protocol):
    """A finding, or a record of one."""

    @property
    def status(self) -> Status: ...


def worst(findings: Sequence[HasStatus]) -> Status:
    """WRONG if any is; OK if any is; else UNSUPPORTED."""
    statuses = {finding.status for finding in findings}
    return "WRONG" if "WRONG" in statuses else "OK" if "OK" in statuses else "UNSUPPORTED"


def kind_of(site: str) -> str:
    """``blocks.3.attn.hook_z`` -> ``attn.hook_z``."""
    return Site(site).part

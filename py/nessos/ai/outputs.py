"""What each kind of agent that writes must answer with: its shape and bounds.

The database checks again what it stores (functions `app.store_…` of agent outputs); here the model
is told in words it can repair by. Prices, links, scores of risk and names are never asked of a
model.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

_PRICE: Final = re.compile(
    r"(?:R\$|BRL|US\$|USD)\s*\d|\d[\d.,]*\s*(?:mil )?(?:reais|d[óo]lares)\b", re.IGNORECASE
)
_LINK: Final = re.compile(
    r"https?:|www\.|javascript:|data:[a-z]+/|\]\s*\(|\]:|<[/!a-z]", re.IGNORECASE
)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _plain(text: str) -> str:
    """Refuse what no text of a model may carry: links, HTML, control characters."""
    if _CONTROL.search(text):
        raise ValueError("sem caracteres de controle")
    if _LINK.search(text):
        raise ValueError("sem links, imagens ou HTML: uma pessoa os acrescenta depois")
    return text


def _unpriced(text: str) -> str:
    """Refuse an amount of money: the catalogue says what things cost."""
    if _PRICE.search(text):
        raise ValueError("sem valores em dinheiro: os preços vêm do catálogo")
    return text


def _line(most: int, least: int = 3) -> StringConstraints:
    return StringConstraints(strip_whitespace=True, min_length=least, max_length=most)


Short = Annotated[str, _line(120), AfterValidator(_plain)]
Sentence = Annotated[str, _line(400), AfterValidator(_plain)]
Offer = Annotated[str, _line(400), AfterValidator(_plain), AfterValidator(_unpriced)]
Tag = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=40)]

_TAGS: Final = "Etiquetas em minúsculas, sem acento, palavras unidas por hífen."


class Output(BaseModel):
    """An answer of a model; what it does not know of is an error, not a surplus."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProposalItem(Output):
    """One service as the proposal offers it."""

    ref: Annotated[str, StringConstraints(pattern=r"^S\d{1,2}$")] = Field(
        description="Referência do serviço na entrada, como S1."
    )
    description: Annotated[
        str, _line(500, 10), AfterValidator(_plain), AfterValidator(_unpriced)
    ] = Field(description="O que este item entrega ao cliente, em uma ou duas frases.")
    quantity: Decimal = Field(
        ge=Decimal("0.1"),
        le=100,
        max_digits=5,
        decimal_places=2,
        description="Quantidade por mês; 1 quando as notas não pedem outra.",
    )


class Proposal(Output):
    """Scope, items and terms of a proposal."""

    title: Annotated[str, _line(120, 5), AfterValidator(_plain), AfterValidator(_unpriced)] = Field(
        description="Título da proposta: o resultado que o cliente compra, sem o nome dele."
    )
    scope_markdown: Annotated[
        str, _line(8000, 150), AfterValidator(_plain), AfterValidator(_unpriced)
    ] = Field(
        description="Escopo em Markdown: contexto, objetivos, o que será feito e entregáveis."
    )
    items: list[ProposalItem] = Field(
        min_length=1, max_length=20, description="Um item por serviço da entrada, sem repetir."
    )
    assumptions: list[Offer] = Field(
        min_length=1, max_length=12, description="Premissas: do que a entrega depende."
    )
    exclusions: list[Offer] = Field(max_length=12, description="O que fica fora do escopo.")
    terms: list[Offer] = Field(
        min_length=1,
        max_length=12,
        description="Condições: vigência, início, acompanhamento, comunicação. Sem preços.",
    )


class Hero(Output):
    """Opening of a service's page."""

    title: Short = Field(description="Chamada da página, até 120 caracteres.")
    subtitle: Annotated[str, _line(240), AfterValidator(_plain)] = Field(
        description="Uma frase que completa a chamada."
    )


class Section(Output):
    """A titled paragraph of a service's page."""

    title: Short
    text: Annotated[str, _line(1200, 20), AfterValidator(_plain), AfterValidator(_unpriced)]


class Topic(Output):
    """A titled entry of a list on a service's page."""

    title: Short
    description: Offer


class ServiceCopy(Output):
    """Texts of a service's page."""

    tagline: Annotated[str, _line(120), AfterValidator(_plain), AfterValidator(_unpriced)] = Field(
        description="Uma linha sob o nome do serviço."
    )
    summary: Offer = Field(description="Resumo de até 400 caracteres para a lista de serviços.")
    description_markdown: Annotated[
        str, _line(6000, 150), AfterValidator(_plain), AfterValidator(_unpriced)
    ] = Field(description="Descrição completa em Markdown, sem título de nível 1.")
    target_audience: Annotated[str, _line(300), AfterValidator(_plain)] = Field(
        description="Para quem é, em uma frase."
    )
    seo_title: Annotated[str, _line(60), AfterValidator(_plain)] = Field(
        description="Título para buscadores, até 60 caracteres."
    )
    seo_description: Annotated[
        str, _line(160), AfterValidator(_plain), AfterValidator(_unpriced)
    ] = Field(description="Descrição para buscadores, até 160 caracteres.")
    hero: Hero
    why_it_matters: Section = Field(description="Por que isto importa para o cliente.")
    use_cases: list[Topic] = Field(
        min_length=2, max_length=6, description="Situações em que o serviço resolve."
    )
    process: list[Topic] = Field(
        min_length=2, max_length=8, description="Etapas da entrega, na ordem em que acontecem."
    )
    call_to_action: Annotated[str, _line(40), AfterValidator(_plain)] = Field(
        description="Texto do botão de contato; o endereço é do site."
    )


class Post(Output):
    """A post drafted from a success case."""

    title: Annotated[str, _line(120, 10), AfterValidator(_plain)]
    excerpt: Annotated[str, _line(300, 40), AfterValidator(_plain)] = Field(
        description="Chamada do post, até 300 caracteres."
    )
    content_markdown: Annotated[str, _line(20000, 400), AfterValidator(_plain)] = Field(
        description="Post em Markdown: situação, desafio, o que foi feito, resultado, aprendizado."
    )
    tags: list[Tag] = Field(min_length=1, max_length=8, description=_TAGS)


class ClauseRisk(Output):
    """A clause that weighs on the company."""

    clause_type: Literal[
        "disproportionate_sla",
        "unlimited_liability",
        "abusive_penalty",
        "perpetual_confidentiality",
        "excessive_warranty",
    ] = Field(
        description="SLA desproporcional, responsabilidade ilimitada, multa abusiva, "
        "confidencialidade perpétua ou garantia excessiva."
    )
    excerpt: Annotated[str, _line(2000, 12)] = Field(
        description="Trecho da cláusula, copiado do texto sem mudar uma palavra."
    )
    severity: Literal["low", "medium", "high"]
    explanation: Annotated[str, _line(800, 10), AfterValidator(_plain)] = Field(
        description="Por que isto é um risco para a prestadora."
    )
    suggestion: Annotated[str, _line(2000, 10), AfterValidator(_plain)] = Field(
        description="Redação alternativa, pronta para ser proposta."
    )


class ClauseRisks(Output):
    """Risks of a contract's text; the score is computed from them, not asked for."""

    risks: list[ClauseRisk] = Field(
        max_length=30, description="Vazia quando o texto não traz nenhum dos cinco riscos."
    )
    summary: Annotated[str, _line(1500, 20), AfterValidator(_plain)] = Field(
        description="Parecer de poucas frases para quem decide assinar."
    )


class NextAction(Output):
    """What to do with a lead next."""

    kind: Literal["call", "email", "meeting", "proposal", "nurture", "disqualify"]
    title: Annotated[str, _line(120, 5), AfterValidator(_plain)] = Field(
        description="A tarefa em uma linha, começando por um verbo."
    )
    due_in_days: int = Field(ge=0, le=30, description="Em quantos dias fazer; 0 é hoje.")


class LeadQualification(Output):
    """How likely a lead is to buy, and what to do about it."""

    score: int = Field(ge=0, le=100, description="0 não compra, 100 quer comprar agora.")
    segment: Literal["hot", "warm", "cold", "unfit"] = Field(
        description="hot: contato hoje; warm: há interesse; cold: nutrir; unfit: não atendemos."
    )
    reasons: list[Sentence] = Field(
        min_length=1, max_length=6, description="Sinais da entrada que sustentam a nota."
    )
    next_action: NextAction


class PlaybookTask(Output):
    """A step of a playbook."""

    title: Short = Field(description="A etapa em uma linha, começando por um verbo.")
    description: Annotated[str, _line(1000, 10), AfterValidator(_plain)] = Field(
        description="Como fazer e como saber que está feito."
    )
    minutes: int = Field(ge=1, le=960, description="Minutos de trabalho estimados.")


class Playbook(Output):
    """A playbook that keeps a gap from coming back."""

    title: Annotated[str, _line(160, 5), AfterValidator(_plain)]
    content_markdown: Annotated[str, _line(20000, 200), AfterValidator(_plain)] = Field(
        description="Em Markdown: objetivo, quando usar, responsáveis por função, procedimento, "
        "critérios de qualidade, erros comuns."
    )
    tags: list[Tag] = Field(max_length=8, description=_TAGS)
    tasks: list[PlaybookTask] = Field(
        min_length=1, max_length=30, description="As etapas na ordem em que são feitas."
    )
    review_every_days: int = Field(
        ge=30, le=730, description="De quantos em quantos dias rever o playbook."
    )


SCHEMAS: Final[dict[str, type[Output]]] = {
    "proposal_writer": Proposal,
    "catalogue_copywriter": ServiceCopy,
    "case_to_post": Post,
    "clause_risk_analyst": ClauseRisks,
    "lead_qualifier": LeadQualification,
    "gap_to_playbook": Playbook,
}
"""What an agent of each kind answers with; `app.agent_kinds.output_schema` names it."""

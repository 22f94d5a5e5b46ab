"""What a provider of language models sees instead of personal data, and how the answer gets it back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nessos.ai.masking import Mask


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("meu CPF é 529.982.247-25.", "meu CPF é [CPF_1]."),
        ("cpf:52998224725", "cpf:[CPF_1]"),
        ("529 982 247 25", "[CPF_1]"),
        ("CNPJ 11.222.333/0001-81", "CNPJ [CNPJ_1]"),
        ("CNPJ 12.ABC.345/01DE-35", "CNPJ [CNPJ_1]"),
        ("cnpj 12abc34501de35", "cnpj [CNPJ_1]"),
        ("cartão 4111 1111 1111 1111", "cartão [CARTAO_1]"),
        ("cartão 4111-1111-1111-1111", "cartão [CARTAO_1]"),
        ("amex 378282246310005", "amex [CARTAO_1]"),
        ("escreva a joao.silva+nf@ness.com.br, por favor", "escreva a [EMAIL_1], por favor"),
        ("<joao@ness.com.br>", "<[EMAIL_1]>"),
        ("ligue (11) 98765-4321", "ligue [TELEFONE_1]"),
        ("ligue 11 98765-4321", "ligue [TELEFONE_1]"),
        ("whatsapp +55 11 98765-4321", "whatsapp [TELEFONE_1]"),
        ("whatsapp 5511987654321", "whatsapp [TELEFONE_1]"),
        ("fixo (11) 3265-4321", "fixo [TELEFONE_1]"),
        ("fixo +551132654321", "fixo [TELEFONE_1]"),
        ("call +1 415 555 2671", "call [TELEFONE_1]"),
        ("é o 98765-4321", "é o [TELEFONE_1]"),
    ],
)
def test_personal_data_is_hidden_in_every_way_it_is_written(text: str, hidden: str) -> None:
    mask = Mask()
    assert mask.hide(text) == hidden
    assert mask.restore(hidden) == text


@pytest.mark.parametrize(
    "text",
    [
        "CPF 529.982.247-26",
        "CPF 111.111.111-11",
        "CNPJ 11.222.333/0001-82",
        "cartão 4111 1111 1111 1112",
        "nota fiscal 000123456, série 1",
        "em 25/11/2026 às 14:30, R$ 1.234.567,89",
        "2026-11-25T14:30:00-03:00",
        "processo 0001234-56.2020.8.26.0100",
        "550e8400-e29b-41d4-a716-446655440000",
        "CEP 01310-100",
        "contrato C-2026-0042",
        "versão 1.2.3-4",
        "fulano@localhost",
        "@fulano",
        "de 2019 a 2026",
        "10.000.000 de reais",
    ],
)
def test_what_has_no_right_check_digit_or_is_something_else_stays(text: str) -> None:
    assert Mask().hide(text) == text


def test_the_same_value_has_the_same_stand_in_and_another_one_another() -> None:
    mask = Mask()
    assert mask.hide("a@b.com.br, c@d.com.br, a@b.com.br") == "[EMAIL_1], [EMAIL_2], [EMAIL_1]"
    assert mask.hide("c@d.com.br") == "[EMAIL_2]"


def test_what_only_looks_like_a_stand_in_stands_for_nothing() -> None:
    mask = Mask.of(["escreva [EMAIL_1] ao lado de a@b.com.br"])
    hidden = mask.hide("escreva [EMAIL_1] ao lado de a@b.com.br")
    assert hidden == "escreva [EMAIL_1] ao lado de [EMAIL_2]"
    assert mask.restore("[EMAIL_1] [EMAIL_2] [CPF_1]") == "[EMAIL_1] a@b.com.br [CPF_1]"


def test_a_stand_in_that_is_not_complete_yet_is_held_back() -> None:
    mask = Mask()
    mask.hide("a@b.com.br")
    told = [mask.restore("Olá [EMAIL_1]!"[:size], is_partial=True) for size in range(15)]
    assert told[4:] == [*["Olá "] * 9, "Olá a@b.com.br", "Olá a@b.com.br!"]
    assert mask.restore("veja [aqui", is_partial=True) == "veja [aqui"
    assert mask.restore("veja [EMAIL", is_partial=False) == "veja [EMAIL"


@given(
    st.lists(
        st.sampled_from(
            ["529.982.247-25", "11222333000181", "4111111111111111", "a@b.com.br", "(11) 98765-4321",
             "[CPF_1]", "[EMAIL_2]", " e ", "12", "-", "\n", "[", "]"]
        )
        | st.text(max_size=8)
    )
)  # fmt: skip
def test_whatever_is_hidden_comes_back_as_it_was(parts: list[str]) -> None:
    text = "".join(parts)
    mask = Mask.of([text])
    assert mask.restore(mask.hide(text)) == text

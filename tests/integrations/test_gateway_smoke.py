import asyncio
from typing import Any
import pytest
from nessos.ai.gateway import Gateway, Message
from tests.integrations.fakes.llm import FakeModels, plug_in, call
from tests.integrations.outside import open_pool
from nessos.http import client
from tests.people import World

def test_smoke(db_url: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeModels() as models:
        plug_in(monkeypatch, models)
        models.script("Olá, seu CPF é [CPF_1]", call("x", {"cpf": "[CPF_1]"}), "streamed [CPF_1] text")
        async def run() -> Any:
            async with open_pool(db_url) as pool, client(pool) as http:
                g = Gateway(pool, http)
                m = [Message("user", "meu CPF 529.982.247-25")]
                a = await g.complete(org_id=world.a.org, purpose="reasoning", messages=m)
                b = await g.complete(org_id=world.a.org, purpose="reasoning", messages=m)
                seen = []
                async def on(t: str) -> None:
                    seen.append(t)
                c = await g.complete(org_id=world.a.org, purpose="reasoning", messages=m, on_text=on)
                e = await g.embed(org_id=world.a.org, texts=["a", "b"])
                async with pool.connection() as con:
                    rows = await (await con.execute("select * from public.ai_calls")).fetchall()
                return a, b, c, seen, e, rows
        a, b, c, seen, e, rows = asyncio.run(run())
        print(a, b, c, seen, len(e.vectors))
        for r in rows: print(r)
        assert a.text == "Olá, seu CPF é 529.982.247-25"
        assert "529" not in str(models.asked[0].body)

"""The gateway's small web front: the status page for a phone on the site's network, and behind it the HTTP door.

Flows in: requests. Flows out: `/` (the page), `/status.json`, `/metrics`, `/health`; everything else is the door's,
whose 200 becomes a 202: safe in the spool, not yet in the database (DESIGN section 2). Plain ASGI: it is all that a
gateway without the HTTP door has to load.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from bridge.http.rendered_answer import RenderedAnswer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class WebApp:
    """An ASGI application. `door` is the HTTP door's, where it is open."""

    def __init__(
        self, status: Callable[[], dict[str, Any]], registry: CollectorRegistry, *, page: bool, door: App | None
    ) -> None:
        self._status = RenderedAnswer(lambda: msgspec.json.encode(status()))
        self._metrics = RenderedAnswer(lambda: generate_latest(registry))
        self._page = page
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        found = self._own(scope["path"]) if scope["method"] in ("GET", "HEAD") else None
        if found is not None:
            await _answer(send, 200, *found)
        elif self._door is None:
            body = b'{"type":"about:blank","title":"Not Found","status":404,"code":"not_found","detail":"http is off"}'
            await _answer(send, 404, "application/problem+json", body)
        else:
            await self._door(scope, receive, _accepting(send) if scope["method"] == "POST" else send)

    def _own(self, path: str) -> tuple[str, bytes] | None:
        if self._page and path == "/":
            return "text/html; charset=utf-8", PAGE.encode()
        if self._page and path == "/status.json":
            return "application/json", self._status.body()
        if path == "/metrics":
            return CONTENT_TYPE_LATEST, self._metrics.body()
        if path == "/health":
            return "application/json", b'{"status":"ok"}'
        return None


def _accepting(send: Send) -> Send:
    async def accepted(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            message = {**message, "status": 202}
        await send(message)

    return accepted


async def _answer(send: Send, status: int, media_type: str, body: bytes) -> None:
    headers = [
        (b"content-type", media_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>Gateway</title>
<style>
:root{--ink:#1c2733;--paper:#fff;--line:#dde3e9;--good:#18794e;--bad:#b42318;--dull:#64717f}
@media (prefers-color-scheme:dark){
:root{--ink:#e3e8ed;--paper:#14191f;--line:#2c353f;--good:#5bd19a;--bad:#ff8f82;--dull:#93a0ad}}
body{font:16px/1.45 system-ui,sans-serif;max-width:44rem;margin:1.2rem auto;padding:0 1rem}
body{color:var(--ink);background:var(--paper)}
h1{font-size:1.4rem;margin:0}h2{font-size:1rem;margin:1.4rem 0 .3rem}
.good{color:var(--good)}.bad{color:var(--bad)}.dull{color:var(--dull)}
dl{display:grid;grid-template-columns:8rem 1fr;gap:.3rem .8rem;margin:.8rem 0}dt{color:var(--dull)}dd{margin:0}
table{border-collapse:collapse;width:100%}td,th{padding:.35rem .6rem .35rem 0;border-top:1px solid var(--line)}
#wrong{margin:.6rem 0;padding-left:1.1rem;color:var(--bad)}
td,th{text-align:left;font-weight:400}td:last-child{text-align:right}
</style>
<h1 id="name">Gateway</h1>
<ul id="wrong"></ul>
<dl id="facts"></dl>
<h2>Alerts</h2><table id="alerts"></table>
<h2>Devices</h2><table id="devices"></table>
<h2>Rejected</h2><table id="rejected"></table>
<script>
const at=id=>document.getElementById(id)
function span(s){if(s==null)return"never";s=Math.round(s)
return s<120?s+" s":s<7200?Math.round(s/60)+" min":s<172800?Math.round(s/3600)+" h":Math.round(s/86400)+" days"}
function size(b){return b==null?"?":b<1e9?(b/1e6).toFixed(0)+" MB":(b/1e9).toFixed(1)+" GB"}
function rows(id,list,none){const t=at(id);t.textContent="";if(!list.length)list=[[none]]
for(const r of list){const tr=t.insertRow();for(const c of r)tr.insertCell().textContent=c}}
function fact(name,text,kind){const dt=document.createElement("dt"),dd=document.createElement("dd")
dt.textContent=name;dd.textContent=text;dd.className=kind||"";at("facts").append(dt,dd)}
function show(s){at("name").textContent=s.gateway||"Gateway, not enrolled";at("facts").textContent=""
const u=s.uplink,p=s.spool
fact("Uplink",u.up?"up, for "+span(u.since_s):u.problem,u.up?"good":"bad")
fact("Backlog",p.records+" readings"+(p.records&&p.oldest_s!=null?", the oldest "+span(p.oldest_s)+" old":"")
+(u.backlog?(u.eta_s==null?", not shrinking":", gone in "+span(u.eta_s)):""))
fact("Spool",p.problem||size(p.used_bytes)+" of "+size(p.limit_bytes),p.problem?"bad":"")
const lately=Object.entries(p.shed).filter(e=>e[1]&&e[0]!="total").map(e=>e[1]+" "+e[0]).join(", ")
const m=s.mqtt,b=s.first_boot,k=s.package
if(p.shed.total)fact("Shed",p.shed.total+" readings"+(lately?"; since the start: "+lately:""),"bad")
if(p.lost)fact("Lost",p.lost+" readings, in a damaged spool","bad")
if(p.set_aside.length)fact("Set aside",p.set_aside.map(f=>f.file+(f.problem?", "+f.problem:"")).join("; "),"bad")
fact("MQTT",m.contested||m.problem||"connected"+(m.embedded?", its own broker, for a bench test":""),
m.contested||m.problem?"bad":"good")
const refused=Object.keys(m.refused);if(refused.length)fact("Refused",refused.join(", "),"bad")
const c=s.clock,off=Math.abs(c.ahead_s)
fact("Clock",(c.set?"set":"not set yet; times are corrected once it is")
+(off?"; the host's is "+span(off)+(c.ahead_s>0?" ahead":" behind"):""),c.set&&off<30?"":"bad")
if(b.state)fact("Enrolment",b.file+(b.state=="waits"?" waits: ":" has failed: ")+b.reason,b.state=="waits"?"":"bad")
fact("Disk free",size(s.disk_free_bytes));if(s.temperature_c!=null)fact("Temperature",s.temperature_c+" °C")
fact("Version",(k.installed||s.version)+(k.update?"; "+k.update+" waits"+(k.held?", on hold":""):"")
+(k.reboot_required?"; a reboot is due":""),k.update||k.reboot_required?"":"dull")
const w=at("wrong");w.textContent=""
for(const t of s.problems)w.append(Object.assign(document.createElement("li"),{textContent:t}))
rows("alerts",s.alerts.map(a=>[a.sensor,a.severity,a.value]),"none")
rows("devices",s.devices.map(d=>[d.name,d.heard_s==null?"not heard":"heard "+span(d.heard_s)+" ago"]),
"none known; the registry comes with the first contact to the service")
rows("rejected",Object.entries(s.rejected),"nothing")}
function look(){fetch("/status.json").then(r=>r.json()).then(show,()=>{at("facts").textContent="";
fact("Gateway","does not answer","bad")})}
look();setInterval(look,5000)
</script>
</html>
"""
